"""What verified evidence of a device says."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attestation.errors import EvidenceError
from attestation.gpu.chain import PDI_SIZE
from attestation.gpu.spdm import Opaque

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.gpu.evidence import Kind
    from attestation.gpu.spdm import SpdmReport

ON: Final = 0xAA
OFF: Final = 0x55
"""How a status byte says on and off; any other value is neither."""

CC_MODE_INDEX: Final = 9
"""Manifest index whose measurement covers the confidential-computing mode, on or devtools, among other things (the
vendor's engineers in NVIDIA/nvtrust issue 132); reports have no field that says it."""

_SWITCH_GPUS: Final = 8


class MultiGpu(enum.Enum):
    """How a device works together with others."""

    NONE = "single"
    """Single-GPU passthrough: the driver encrypts what crosses PCIe."""

    PROTECTED_PCIE = "protected pcie"
    """Hopper, eight GPUs with their switches: PCIe is encrypted, NVLink is not, and the switches are locked."""

    PASSTHROUGH = "multi-gpu passthrough"
    """Blackwell, encrypted NVLink."""

    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClaims:
    """Claims of one device; there are none unless every check passed.

    Attributes:
        index: Place of the device in the bundle.
        kind: ``gpu`` or ``switch``.
        architecture: ``hopper``, ``ls10``; from the certificates.
        device_id: SHA-256 of the device's own key, 32 bytes: the same for every firmware, different for every device.
        model: The chip's name in the device certificate.
        uuid: The driver's name of the device, where evidence has one; reports have none, so it is empty.
        driver: Driver version, empty for a switch.
        vbios: VBIOS version, of a switch its BIOS version.
        fwid: Digest of the firmware that made the signing key, 48 bytes.
        pdi: The identifier under which switches know the device, 8 bytes, or empty.
        peers: PDIs of the devices at the other ends of its NVLinks: of a GPU its switches, of a switch its GPUs.
        cc_mode: Whether confidential computing is on: the measurement that covers the mode equals its reference.
        devtools_mode: Whether debugging is on; measured by the same index, so the opposite of ``cc_mode`` as far as a
            report can say.
        multi_gpu: How it works together with others.
        locked: Of a switch, whether its configuration is locked; ``None`` for a GPU.
        unchecked: Measurement indices (from 0) that no manifest speaks of.
        root_key_id: SHA-384 of the device root's public key, 48 bytes.
    """

    index: int
    kind: Kind
    architecture: str
    device_id: bytes
    model: str
    uuid: str = ""
    driver: str
    vbios: str
    fwid: bytes
    pdi: bytes
    peers: frozenset[bytes]
    cc_mode: bool
    devtools_mode: bool
    multi_gpu: MultiGpu
    locked: bool | None
    unchecked: tuple[int, ...]
    root_key_id: bytes


def multi_gpu_of(report: SpdmReport) -> MultiGpu:
    """How a GPU works together with others: its feature flag, before there was one its protected-PCIe status."""
    flag = report.opaque.get(Opaque.FEATURE_FLAG)
    if flag is not None:
        modes = {0: MultiGpu.NONE, 1: MultiGpu.PASSTHROUGH, 2: MultiGpu.PROTECTED_PCIE}
        return modes.get(int.from_bytes(flag, "little"), MultiGpu.UNKNOWN)
    status = report.opaque.get(Opaque.PROTECTED_PCIE_STATUS, bytes([OFF]))
    return {bytes([OFF]): MultiGpu.NONE, bytes([ON]): MultiGpu.PROTECTED_PCIE}.get(status, MultiGpu.UNKNOWN)


def peers_of(report: SpdmReport, kind: Kind) -> frozenset[bytes]:
    """PDIs at the other ends of a device's NVLinks, big-endian; links that are off are left out.

    A GPU lists a switch for each of its links (little-endian), a switch eight GPUs (big-endian) and their ports.

    Raises:
        EvidenceError: The list is not made of whole identifiers.
    """
    raw = report.opaque.get(Opaque.PDI if kind == "gpu" else Opaque.GPU_PDIS, b"")
    if kind == "switch":
        if raw and len(raw) < _SWITCH_GPUS * PDI_SIZE:
            raise EvidenceError(f"switch report with {len(raw)} bytes of GPUs, expected at least 64")
        raw = raw[: _SWITCH_GPUS * PDI_SIZE]
    if len(raw) % PDI_SIZE:
        raise EvidenceError(f"device report with {len(raw)} bytes of link partners, expected a multiple of {PDI_SIZE}")
    found = {raw[start : start + PDI_SIZE] for start in range(0, len(raw), PDI_SIZE)} - {bytes(PDI_SIZE)}
    return frozenset(pdi[::-1] for pdi in found) if kind == "gpu" else frozenset(found)


def own_pdi(opaque: Mapping[int, bytes], kind: Kind) -> bytes | None:
    """The identifier that a report states of its own device: a switch does, a GPU does not."""
    return opaque.get(Opaque.PDI) if kind == "switch" else None
