"""The GPU inventory: refused with a cure where there is no driver, complete where there is one."""

from __future__ import annotations

from ctypes.util import find_library

import pytest

from attestation.errors import CollectionError
from attestation.gpu.nvml import inventory

DRIVER = find_library("nvidia-ml") is not None


@pytest.mark.hardware("NVIDIA GPU and driver")
@pytest.mark.skipif(not DRIVER, reason="needs an NVIDIA GPU and its driver")
def test_the_driver_is_asked() -> None:
    found = inventory()
    assert found.gpus
    assert all(gpu.uuid.startswith("GPU-") and gpu.memory_bytes > 1 << 30 for gpu in found.gpus)
    assert found.driver


@pytest.mark.skipif(DRIVER, reason="this machine has a driver")
def test_without_a_driver_the_error_says_what_to_do() -> None:
    with pytest.raises(CollectionError, match="no NVIDIA driver answers") as caught:
        inventory()
    assert "engine.device" in caught.value.hint
