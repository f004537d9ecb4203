"""What an engine asks of the GPUs: each refusal beside a control that differs in that point only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.engine.errors import EngineStartError
from appliance.engine.gpus import require_gpus
from attestation.gpu.nvml import Gpu, Inventory

DEVICE = Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-0", "96.00.74.00.1F", 80 << 30)
CONFIDENTIAL = Inventory("580.95", (DEVICE, replace(DEVICE, index=1)), confidential=True, devtools=False, ready=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gpus": (DEVICE,)}, "needs 2 GPUs"),
        ({"devtools": True}, "devtools"),
        ({"ready": False}, "not set ready"),
    ],
)
def test_a_machine_that_cannot_carry_the_engine_is_refused(changed: dict[str, object], said: str) -> None:
    require_gpus(CONFIDENTIAL, 2)
    with pytest.raises(EngineStartError, match=said) as caught:
        require_gpus(replace(CONFIDENTIAL, **changed), 2)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_driver_without_the_feature_is_not_asked_for_it() -> None:
    require_gpus(replace(CONFIDENTIAL, confidential=None, devtools=None, ready=None), 2)
