"""What GPUs this machine has and in which confidential-computing state, asked of the driver (NVML).

In: nothing. Out: an :class:`Inventory`. It is what the driver says, so it decides nothing about trust: a verifier looks
at signed evidence. The worker uses it to refuse an engine that needs a GPU where there is none, and shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.errors import CollectionError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. ``memory_bytes`` is its total memory."""

    index: int
    name: str
    uuid: str
    vbios: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices of one driver, and the machine's confidential-computing state.

    ``confidential`` is the CC feature, ``devtools`` the debugging mode that voids it, ``ready`` whether the driver lets
    clients use the devices. All three are None where the driver does not know the feature.
    """

    driver: str
    gpus: tuple[Gpu, ...]
    confidential: bool | None
    devtools: bool | None
    ready: bool | None


def inventory() -> Inventory:
    """Ask the driver.

    Raises:
        CollectionError: No driver library, no driver, or the driver failed; the hint says what to do.
    """
    try:
        import pynvml  # noqa: PLC0415 - an extra: who only verifies does not install the driver's binding
    except ModuleNotFoundError:
        raise CollectionError(
            "the NVML binding is not installed", hint="install the extra 'worker' (package nvidia-ml-py)"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise CollectionError(
            f"no NVIDIA driver answers: {error}", hint="load the driver, or set engine.device = 'cpu'"
        ) from None
    try:
        return _ask(pynvml)
    except pynvml.NVMLError as error:
        raise CollectionError(f"NVML failed: {error}", hint="see dmesg for the driver's own words") from None
    finally:
        pynvml.nvmlShutdown()


def set_ready() -> None:
    """Let clients use the GPUs of this machine: confidential computing holds them back until the guest says so.

    It is a word about evidence: who calls it has judged the GPUs' evidence, or gives no assurance.

    Raises:
        CollectionError: No driver library, no driver, or the driver refused.
    """
    try:
        import pynvml  # noqa: PLC0415 - see inventory
    except ModuleNotFoundError:
        raise CollectionError(
            "the NVML binding is not installed", hint="install the extra 'worker' (package nvidia-ml-py)"
        ) from None
    try:
        pynvml.nvmlInit()
        try:
            pynvml.nvmlSystemSetConfComputeGpusReadyState(pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise CollectionError(
            f"the GPUs cannot be set ready: {error}", hint="see dmesg for the driver's words"
        ) from None


def _ask(nvml: Any) -> Inventory:
    gpus = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        gpus.append(
            Gpu(
                index=index,
                name=_text(nvml.nvmlDeviceGetName(handle)),
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                vbios=_text(nvml.nvmlDeviceGetVbiosVersion(handle)),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
        )
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    try:
        state = nvml.nvmlSystemGetConfComputeState()
        ready = bool(nvml.nvmlSystemGetConfComputeGpusReadyState())
    except nvml.NVMLError_NotSupported:
        return Inventory(driver, tuple(gpus), confidential=None, devtools=None, ready=None)
    return Inventory(
        driver,
        tuple(gpus),
        confidential=state.ccFeature == nvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
        devtools=state.devToolsMode == nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON,
        ready=ready,
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
