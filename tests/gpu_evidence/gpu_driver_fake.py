"""A driver in the place of NVML's library, below the installed binding: its functions by their C names.

The binding itself is the real package, so structures, sizes, error classes and the way of calling are what a machine
with a GPU has. Only what the package finds in ``libnvidia-ml.so.1`` is ours, and every call is recorded.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pynvml

from attestation.gpu.evidence import DeviceEvidence

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from appliance.lab.gpu_world import SyntheticGpus

SUCCESS, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN = (
    pynvml.NVML_SUCCESS,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_UNKNOWN,
)


@dataclass
class DriverState:
    """What this driver says; a test changes one thing.

    Attributes:
        world: The GPUs behind it.
        count: How many it shows.
        cc: Its CC feature; ``None`` for one that does not know it.
        devtools: Its devtools mode.
        multi_gpu: Its multi-GPU mode; ``None`` for one that does not know the setting.
        ready: Its ready state; ``None`` for one that does not know it.
        persistent: Persistence mode of every GPU.
        architecture: NVML's number.
        missing: Functions that its library lacks.
        failing: What functions return instead of success.
        said_size: What it says of a report's size, ``None`` for the truth.
        calls: Names of the functions that were called, with what they were given.
    """

    world: SyntheticGpus | None = None
    count: int = 1
    cc: int | None = 1
    devtools: int = 0
    multi_gpu: int | None = 0
    ready: int | None = 0
    persistent: int = 1
    architecture: int = 9
    missing: frozenset[str] = frozenset()
    failing: dict[str, int] = field(default_factory=dict)
    said_size: int | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it below the binding for the time of a test."""
        monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", self.function)

    def function(self, name: str) -> Callable[..., int]:
        """A function of the library, as the binding looks it up."""
        if name in self.missing:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        known = getattr(self, name.partition("_v")[0], None)

        def call(*arguments: Any) -> int:
            self.calls.append((name, None))
            if name in self.failing:
                return self.failing[name]
            if known is None:
                raise AssertionError(f"the binding called {name}, which this driver does not have")
            return int(known(*(getattr(item, "_obj", item) for item in arguments)))

        return call

    @property
    def called(self) -> list[str]:
        """Names of the functions that were called."""
        return [name for name, _ in self.calls]

    def nvmlInitWithFlags(self, flags: Any) -> int:  # noqa: N802 - the library's name
        assert flags == 0
        return SUCCESS

    def nvmlInit(self, *_: Any) -> int:  # noqa: N802 - as above
        return SUCCESS

    def nvmlShutdown(self) -> int:  # noqa: N802 - as above
        return SUCCESS

    def nvmlErrorString(self, code: int) -> int:  # noqa: N802 - as above
        return code

    def nvmlDeviceGetCount(self, out: Any) -> int:  # noqa: N802 - as above
        out.value = self.count
        return SUCCESS

    def nvmlDeviceGetHandleByIndex(self, index: Any, out: Any) -> int:  # noqa: N802 - as above
        ctypes.memmove(ctypes.addressof(out), (index.value + 1).to_bytes(8, "little"), 8)
        return SUCCESS

    def nvmlDeviceGetName(self, _: Any, out: Any, __: Any) -> int:  # noqa: N802 - as above
        out.value = b"NVIDIA H100 80GB HBM3"
        return SUCCESS

    def nvmlDeviceGetUUID(self, device: Any, out: Any, _: Any) -> int:  # noqa: N802 - as above
        out.value = f"GPU-{_index(device)}".encode()
        return SUCCESS

    def nvmlDeviceGetVbiosVersion(self, _: Any, out: Any, __: Any) -> int:  # noqa: N802 - as above
        out.value = b"96.00.9F.00.01"
        return SUCCESS

    def nvmlSystemGetDriverVersion(self, out: Any, _: Any) -> int:  # noqa: N802 - as above
        out.value = b"550.90.07"
        return SUCCESS

    def nvmlDeviceGetMemoryInfo(self, _: Any, out: Any) -> int:  # noqa: N802 - as above
        out.total = 80 << 30
        return SUCCESS

    def nvmlDeviceGetArchitecture(self, _: Any, out: Any) -> int:  # noqa: N802 - as above
        out.value = self.architecture
        return SUCCESS

    def nvmlDeviceGetPersistenceMode(self, _: Any, out: Any) -> int:  # noqa: N802 - as above
        out.value = self.persistent
        return SUCCESS

    def nvmlSystemGetConfComputeState(self, out: Any) -> int:  # noqa: N802 - as above
        if self.cc is None:
            return NOT_SUPPORTED
        out.ccFeature, out.devToolsMode = self.cc, self.devtools
        return SUCCESS

    def nvmlSystemGetConfComputeSettings(self, out: Any) -> int:  # noqa: N802 - as above
        if self.multi_gpu is None:
            return NOT_SUPPORTED
        assert out.version == pynvml.nvmlSystemConfComputeSettings_v1
        out.multiGpuMode = self.multi_gpu
        return SUCCESS

    def nvmlSystemGetConfComputeGpusReadyState(self, out: Any) -> int:  # noqa: N802 - as above
        if self.ready is None:
            return NOT_SUPPORTED
        out.value = self.ready
        return SUCCESS

    def nvmlSystemSetConfComputeGpusReadyState(self, state: Any) -> int:  # noqa: N802 - as above
        self.ready = state.value
        return SUCCESS

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Any, out: Any) -> int:  # noqa: N802 - as above
        index, nonce = _index(device), bytes(out.nonce)
        self.calls.append(("asked", (index, nonce)))
        report = self._shown(index, nonce).report
        ctypes.memmove(out.attestationReport, report, len(report))
        out.attestationReportSize = len(report) if self.said_size is None else self.said_size
        return SUCCESS

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any, out: Any) -> int:  # noqa: N802 - as above
        chain = self._shown(_index(device), bytes(32)).chain
        ctypes.memmove(out.attestationCertChain, chain, len(chain))
        out.attestationCertChainSize = len(chain)
        return SUCCESS

    def _shown(self, index: int, nonce: bytes) -> DeviceEvidence:
        assert self.world is not None
        return DeviceEvidence.parse(self.world.gpu_evidence(index, nonce))


def _index(device: Any) -> int:
    return int.from_bytes(ctypes.string_at(ctypes.addressof(device), 8), "little") - 1
