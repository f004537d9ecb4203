"""The driver's side, asked through NVML: what GPUs there are, in which state, their evidence, and the word "ready".

In: nothing, or the nonces that devices are asked with. Out: an :class:`Inventory`, which is what the driver says and
decides nothing about trust, or evidence, which a verifier judges (:mod:`attestation.gpu.judge`).

NVML has no evidence of NVSwitches (that is libnvidia-nscq's), so a machine under protected PCIe is refused here with
that reason rather than shown with its switches missing.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from ctypes import byref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from attestation.errors import CollectionError, EvidenceError
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.spdm import NONCE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ARCHITECTURES: Final = {9: "hopper", 10: "blackwell", 13: "rubin"}
"""NVML's numbers of architectures that know confidential computing."""

EXTRA_HINT: Final = "install the extra 'worker' (package nvidia-ml-py)"
DMESG_HINT: Final = "see dmesg for the driver's own words"
CC_HINT: Final = "set the CC mode to 'on' on the host and reset the GPU; H100 and later have it"
DEVTOOLS_HINT: Final = "set the GPUs' CC mode to 'on' on the host and reset them"
OLD_DRIVER_HINT: Final = (
    "evidence of Hopper needs a driver of branch 535 or later, of which 550 and later have manifests"
)
CRYPTO_HINT: Final = (
    "the driver cannot open a confidential GPU without the kernel's cryptography: load ecdh_generic, ecdsa_generic, "
    "gcm and aesni_intel before the driver, then look at dmesg"
)
PERSISTENCE_HINT: Final = (
    "start nvidia-persistenced with --uvm-persistence-mode and reset the GPU: a confidential GPU can be initialised "
    "once between two resets"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device.

    Attributes:
        index: The driver's number.
        name: As it is sold.
        uuid: The driver's name of it.
        vbios: VBIOS version.
        memory_bytes: Total memory.
        architecture: ``hopper``, ``blackwell``, or the driver's number; empty where it says none.
        persistent: Whether it stays initialised without a user; ``None`` where the driver does not say.
    """

    index: int
    name: str
    uuid: str
    vbios: str
    memory_bytes: int
    architecture: str = ""
    persistent: bool | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices of one driver, and the machine's confidential-computing state.

    ``confidential`` is the CC feature, ``devtools`` the debugging mode that voids it, ``ready`` whether the driver lets
    clients use the devices. All three are None where the driver does not know the feature. ``protected_pcie`` is
    whether the GPUs are set up to work together over links that are not encrypted; None where it does not say.
    """

    driver: str
    gpus: tuple[Gpu, ...]
    confidential: bool | None
    devtools: bool | None
    ready: bool | None
    protected_pcie: bool | None = None


def inventory() -> Inventory:
    """Ask the driver.

    Raises:
        CollectionError: No driver library, no driver, or the driver failed; the hint says what to do.
    """
    with _driver() as nvml:
        return _ask(nvml)


def set_ready() -> None:
    """Let clients use the GPUs of this machine: confidential computing holds them back until the guest says so.

    It is a word about evidence: who calls it has judged the GPUs' evidence, or gives no assurance.

    Raises:
        CollectionError: No driver library, no driver, or the driver refused.
    """
    with _driver() as nvml:
        try:
            nvml.nvmlSystemSetConfComputeGpusReadyState(nvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE)
        except nvml.NVMLError_NoPermission:
            raise CollectionError(
                "the GPUs cannot be set ready: the driver lets only root do it", hint="run this as root in the guest"
            ) from None
        except nvml.NVMLError as error:
            raise CollectionError(f"the GPUs cannot be set ready: {error}", hint=DMESG_HINT) from None


class NvmlCollector:
    """Asks this machine's GPUs for evidence, in the driver's order; a device takes 130 to 160 ms."""

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        """Evidence of every GPU, each encoded :class:`attestation.gpu.evidence.DeviceEvidence`.

        Args:
            nonces: The 32 bytes to ask the device at an index with.

        Raises:
            CollectionError: No driver or GPU, confidential computing off, devtools mode, a driver that is too old,
                switches, or a device that gives none; the hint says what to do.
        """
        return await asyncio.to_thread(collect_evidence, nonces)


def collect_evidence(nonces: Callable[[int], bytes]) -> tuple[bytes, ...]:
    """As :meth:`NvmlCollector.collect`, without an event loop."""
    with _driver() as nvml:
        found = _ask(nvml)
        require_evidence(found)
        return tuple(_evidence(nvml, gpu, nonces(gpu.index)) for gpu in found.gpus)


def require_evidence(found: Inventory) -> None:
    """Refuse an inventory whose GPUs cannot give evidence that is worth something.

    Raises:
        CollectionError: With the reason.
    """
    if not found.gpus:
        raise CollectionError(f"the driver {found.driver} sees no GPU", hint=CRYPTO_HINT)
    if found.confidential is None:
        raise CollectionError(
            f"the driver {found.driver} knows no confidential computing on these GPUs", hint=OLD_DRIVER_HINT
        )
    if not found.confidential:
        raise CollectionError("the GPUs' confidential-computing mode is off", hint=CC_HINT)
    if found.devtools:
        raise CollectionError(
            "the GPUs are in confidential-computing devtools mode, which lets the host look inside", hint=DEVTOOLS_HINT
        )
    if found.protected_pcie:
        raise CollectionError(
            "the GPUs are in protected PCIe mode: their evidence is incomplete without that of the NVSwitches, which "
            "this driver interface does not have",
            hint="set the GPUs to single-GPU passthrough",
        )


def require_persistence(found: Inventory) -> None:
    """Refuse GPUs that the driver lets go with their last user, which ends the session that was attested.

    Asked as root, where the persistence daemon runs: to others NVML may not tell.

    Raises:
        CollectionError: Names the GPUs.
    """
    lost = [gpu.index for gpu in found.gpus if gpu.persistent is False]
    if lost:
        raise CollectionError(
            f"persistence is off for GPU {', '.join(map(str, lost))}: its session ends with its last user",
            hint=PERSISTENCE_HINT,
        )


@contextmanager
def _driver() -> Iterator[Any]:
    """NVML between its start and its end; its errors become ours."""
    try:
        import pynvml  # noqa: PLC0415 - an extra: who only verifies does not install the driver's binding
    except ModuleNotFoundError:
        raise CollectionError("the NVML binding is not installed", hint=EXTRA_HINT) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise CollectionError(
            f"no NVIDIA driver answers: {error}", hint="load the driver, or set engine.device = 'cpu'"
        ) from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise CollectionError(f"NVML failed: {error}", hint=DMESG_HINT) from None
    finally:
        pynvml.nvmlShutdown()


def _ask(nvml: Any) -> Inventory:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    gpus = tuple(_gpu(nvml, index, handle) for index, handle in enumerate(handles))
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    try:
        state = nvml.nvmlSystemGetConfComputeState()
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return Inventory(driver, gpus, confidential=None, devtools=None, ready=None)
    # Where the feature is off, some drivers know no ready state: the feature's own word has to survive that.
    ready = _known(nvml, nvml.nvmlSystemGetConfComputeGpusReadyState)
    protected = _protected_pcie(nvml)
    return Inventory(
        driver,
        gpus,
        # Under protected PCIe the driver says that the CC feature is off, and means single-GPU encryption.
        confidential=state.ccFeature == nvml.NVML_CC_SYSTEM_FEATURE_ENABLED or protected is True,
        devtools=state.devToolsMode == nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON,
        ready=None if ready is None else bool(ready),
        protected_pcie=protected,
    )


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    number = _known(nvml, lambda: nvml.nvmlDeviceGetArchitecture(handle))
    persistent = _known(nvml, lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        vbios=_text(nvml.nvmlDeviceGetVbiosVersion(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        architecture="" if number is None else ARCHITECTURES.get(number, f"number {number}"),
        persistent=None if persistent is None else persistent == nvml.NVML_FEATURE_ENABLED,
    )


def _protected_pcie(nvml: Any) -> bool | None:
    """Whether the GPUs are in protected PCIe mode; None where the driver has no such setting."""
    settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()

    def ask() -> int:
        code = nvml.nvmlSystemGetConfComputeSettings(byref(settings))
        if code != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(code)
        return int(settings.multiGpuMode)

    mode = _known(nvml, ask)
    return None if mode is None else mode == nvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE


def _known(nvml: Any, question: Callable[[], int]) -> int | None:
    """An answer, or None from a driver or device that does not know the question."""
    try:
        return question()
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return None


def _evidence(nvml: Any, gpu: Gpu, nonce: bytes) -> bytes:
    if len(nonce) != NONCE_SIZE:
        raise CollectionError(f"nonce of {len(nonce)} bytes for GPU {gpu.index}, expected {NONCE_SIZE}")
    handle = nvml.nvmlDeviceGetHandleByIndex(gpu.index)
    try:
        report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        certificate = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    except nvml.NVMLError_FunctionNotFound:
        raise CollectionError("the driver gives no evidence: it is too old", hint=OLD_DRIVER_HINT) from None
    except nvml.NVMLError as error:
        # A confidential GPU can be initialised once between two resets: without persistence the second user fails.
        lost = gpu.persistent is False
        raise CollectionError(
            f"GPU {gpu.index} ({gpu.name}) gives no evidence: {error}{', and persistence is off' if lost else ''}",
            hint=PERSISTENCE_HINT if lost else f"reset the GPU; {DMESG_HINT}",
        ) from None
    try:
        return DeviceEvidence(
            kind="gpu",
            architecture=gpu.architecture or "unknown",
            report=_buffer(report.attestationReport, report.attestationReportSize, "report"),
            chain=_buffer(certificate.attestationCertChain, certificate.attestationCertChainSize, "certificate chain"),
        ).encode()
    except EvidenceError as error:
        raise CollectionError(
            f"GPU {gpu.index} ({gpu.name}) gives no evidence: {error.message}", hint=f"reset the GPU; {DMESG_HINT}"
        ) from None


def _buffer(buffer: Any, size: int, what: str) -> bytes:
    if not 0 < size <= len(buffer):
        raise EvidenceError(f"the driver says its {what} has {size} bytes, its buffer {len(buffer)}")
    return bytes(buffer[:size])


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
