"""The GPUs of this machine: refused with a cure where there is no driver, asked for evidence where there is one."""

from __future__ import annotations

import time
from ctypes.util import find_library
from typing import TYPE_CHECKING

import pytest

from attestation.errors import CollectionError
from attestation.gpu.chain import device_identity, load_pem, verify_path
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.nvml import collect_evidence, inventory
from attestation.gpu.rim import rim_ids
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.gpu.spdm import parse_report

if TYPE_CHECKING:
    from collections.abc import Callable

DRIVER = find_library("nvidia-ml") is not None


@pytest.mark.hardware("NVIDIA GPU and driver")
@pytest.mark.skipif(not DRIVER, reason="needs an NVIDIA GPU and its driver")
def test_the_driver_is_asked() -> None:
    found = inventory()
    assert found.gpus
    assert all(gpu.uuid.startswith("GPU-") and gpu.memory_bytes > 1 << 30 for gpu in found.gpus)
    assert found.driver


@pytest.mark.hardware("NVIDIA GPU and driver")
@pytest.mark.skipif(not DRIVER, reason="needs an NVIDIA GPU and its driver")
def test_a_gpu_gives_evidence_over_the_nonce_or_says_why_not(record_property: Callable[[str, object], None]) -> None:
    """In CC mode each answers with its own certificates; outside it the reason is the mode, and nothing else."""
    found, nonces = inventory(), [bytes([index + 1]) * 32 for index in range(64)]
    if not found.confidential or found.devtools:
        reason = "devtools mode" if found.devtools else "confidential-computing mode is off|knows no confidential"
        with pytest.raises(CollectionError, match=reason) as caught:
            collect_evidence(nonces.__getitem__)
        record_property("evidence", caught.value.message)
        return
    for index, item in enumerate(collect_evidence(nonces.__getitem__)):
        shown = DeviceEvidence.parse(item)
        report = parse_report(shown.report)
        assert report.nonce == nonces[index]
        path = verify_path(load_pem(shown.chain), NVIDIA_ROOTS.device, time.time())
        record_property("evidence", f"{device_identity(path).model}, {', '.join(rim_ids(report))}")


@pytest.mark.skipif(DRIVER, reason="this machine has a driver")
def test_without_a_driver_the_error_says_what_to_do() -> None:
    with pytest.raises(CollectionError, match="no NVIDIA driver answers") as caught:
        inventory()
    assert "engine.device" in caught.value.hint
