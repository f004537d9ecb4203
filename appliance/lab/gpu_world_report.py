"""Reports of synthetic devices: an SPDM 1.1 request for all measurements and the signed response to it.

Layout: DMTF DSP0274 1.1, sections 10.11.1 and 10.11.2; the driver hands both out as one string. Opaque data is the
vendor's: u16 type, u16 length and value, over and over.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.lab.gpu_world_attack import ReportFault
from appliance.lab.gpu_world_pki import new_key, raw_sign

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from appliance.lab.gpu_world_pki import Device

NONCE_BYTES = 32
DIGEST_BYTES = 48
GPU_MEASUREMENTS = 64
SWITCH_MEASUREMENTS = 31
OFF, ON = b"\x55", b"\xaa"
"""How the vendor writes a switched-off and a switched-on feature."""

_VERSION = 0x11
_REQUEST, _RESPONSE, _ERROR = 0xE0, 0x60, 0x7F
_DMTF = 1
_DIGEST_OF_FIRMWARE = 1
_DRIVER_VERSION = 3
_FWID = 20


@dataclass(frozen=True, slots=True)
class Board:
    """What a GPU says of itself besides measurements.

    Attributes:
        driver: Version of the driver.
        vbios: Version of the VBIOS, five bytes in hexadecimal with dots.
        project: Board project.
        project_sku: Its variant.
        chip_sku: The chip's variant.
        blackwell: Whether the fields are those of that generation.
        switches: Identifiers of the switches at its 18 links, if there are any: 8 bytes each.
    """

    driver: str
    vbios: str
    project: str = "1010"
    project_sku: str = "0200"
    chip_sku: str = "882"
    blackwell: bool = False
    switches: tuple[bytes, ...] = ()

    def fields(self, device: Device, measured: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Opaque fields in the order of real reports."""
        protected = ON if self.switches else OFF
        return [
            (6, _gpu_vbios(self.vbios)),
            (14, (0x3B1).to_bytes(4, "little")),
            (15, self.chip_sku.encode().ljust(9, b"\0")),
            (16, b"0".ljust(5, b"\0")),
            (17, self.project.encode().ljust(5, b"\0")),
            (18, self.project_sku.encode().ljust(5, b"\0")),
            (19, bytes(2)),
            (_DRIVER_VERSION, self.driver.encode() + b"\0"),
            (4, bytes.fromhex("a001000000000000" if self.blackwell else "8001000000000000")),
            (12, _counts(measured)),
            (13, bytes.fromhex("00c00100")),
            (11, ON if self.blackwell else OFF),
            (_FWID, device.fwid),
            *(_BLACKWELL if self.blackwell else ((21, protected),)),
            *(((22, _links(self.switches)),) if self.switches else ()),
        ]


_BLACKWELL = ((33, b"\x07\x07"), (35, b"GB100\0"), (34, b"\x01\0"), (36, b"\x01\0"))
"""What is enabled, the chip's name, version of the opaque data, and the feature flag: several GPUs pass through."""
_LINKS = 18


@dataclass(frozen=True, slots=True)
class SwitchBoard:
    """What an NVSwitch says of itself besides measurements.

    Attributes:
        bios: Version of its firmware.
        gpus: Identifiers of the GPUs that are connected, 8 bytes each, at most 8.
        position: Its place on the board.
        locked: Whether its configuration can no longer be changed.
    """

    bios: str
    gpus: tuple[bytes, ...] = ()
    position: int = 0
    locked: bool = True

    def fields(self, device: Device, measured: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Opaque fields in the order of real reports."""
        ports = bytes(range(len(self.gpus))).rjust(64, b"\xff")
        return [
            (6, self.bios.encode()),
            (22, device.pdi),
            (12, _counts(measured)[:108]),
            (26, b"".join(self.gpus).ljust(64, b"\0") + ports),
            (23, bytes.fromhex("ec00")),
            (24, self.position.to_bytes(2, "little")),
            (25, self.locked.to_bytes(2, "little")),
        ]


@dataclass(slots=True)
class Report:
    """A report before it is signed.

    Attributes:
        nonce: The verifier's 32 bytes.
        measured: Digests of 48 bytes, the first for index 1.
        fields: Opaque fields.
        fault: What is wrong with it.
        own_nonce: The device's 32 bytes.
    """

    nonce: bytes
    measured: Sequence[bytes]
    fields: Sequence[tuple[int, bytes]]
    fault: ReportFault = ReportFault.NONE
    own_nonce: bytes = field(default_factory=lambda: os.urandom(NONCE_BYTES))

    def signed(self, key: EllipticCurvePrivateKey) -> bytes:
        """Request and response, signed by ``key`` as far as the fault lets it be."""
        fault = self.fault
        nonce = os.urandom(NONCE_BYTES) if fault in {ReportFault.REPLAYED, ReportFault.RENAMED} else self.nonce
        request = struct.pack("<BBBB32sB", _VERSION, _REQUEST, 1, 0xFF, nonce, 0)
        message = request + self._response()
        signature = raw_sign(new_key() if fault is ReportFault.OTHER_SIGNER else key, message)
        return self._spoiled(message, signature)

    def _response(self) -> bytes:
        record, count = self._record()
        opaque = self._opaque()
        fault = self.fault
        code = _ERROR if fault is ReportFault.OTHER_MESSAGE else _RESPONSE
        length = 0xFFFFFF if fault is ReportFault.LONG_RECORD else len(record)
        opaque_length = 0xFFFF if fault is ReportFault.LONG_OPAQUE else len(opaque)
        head = struct.pack("<BBBBB", _VERSION, code, 0, 0, count) + length.to_bytes(3, "little")
        return head + record + self.own_nonce + struct.pack("<H", opaque_length) + opaque

    def _record(self) -> tuple[bytes, int]:
        blocks = []
        for index, digest in enumerate(self.measured, start=1):
            size = 0x4000 if self.fault is ReportFault.LONG_BLOCK and index == 1 else len(digest) + 3
            named = 1 if self.fault is ReportFault.TWICE_MEASURED and index == 2 else index
            head = struct.pack("<BBHBH", named, _DMTF, size, _DIGEST_OF_FIRMWARE, len(digest))
            blocks.append(head + digest)
        return b"".join(blocks), len(blocks)

    def _opaque(self) -> bytes:
        fields = dict(self.fields)
        if self.fault is ReportFault.WRONG_FWID:
            fields[_FWID] = bytes(byte ^ 0xFF for byte in fields[_FWID])
        listed = list(fields.items())
        if self.fault is ReportFault.TWICE_NAMED:
            listed.append((_DRIVER_VERSION, b"999.99\0"))
        parts = [struct.pack("<HH", kind, len(value)) + value for kind, value in listed]
        if self.fault is ReportFault.LONG_FIELD:
            kind, value = listed[-1]
            parts[-1] = struct.pack("<HH", kind, 0x4000) + value
        return b"".join(parts)

    def _spoiled(self, message: bytes, signature: bytes) -> bytes:
        fault = self.fault
        if fault is ReportFault.BAD_SIGNATURE:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        if fault is ReportFault.RENAMED:
            message = message[:4] + self.nonce + message[36:]
        if fault is ReportFault.ALTERED:
            at = 37 + 8 + len(self.measured) * (7 + DIGEST_BYTES) - 1  # the last digest, which no manifest names
            message = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        whole = message + signature
        if fault is ReportFault.TRUNCATED:
            return whole[:-1]
        return whole + b"\0" if fault is ReportFault.TRAILING else whole


def _counts(measured: Sequence[bytes]) -> bytes:
    """How often each register was extended, u32 each."""
    return b"".join(int(any(digest)).to_bytes(4, "little") for digest in measured)


def _gpu_vbios(version: str) -> bytes:
    """``aa.bb.cc.dd.ee`` as a little-endian u32 of the first four bytes and one of the last."""
    first, last = bytes.fromhex(version.replace(".", ""))[:4], bytes.fromhex(version[-2:])
    return first[::-1] + last.ljust(4, b"\0")


def _links(switches: tuple[bytes, ...]) -> bytes:
    """Which switch is at the other end of each link; identifiers are little-endian here, big-endian in switches."""
    return b"".join(switches[link % len(switches)][::-1] for link in range(_LINKS))


def measured_values(golden: Mapping[int, Sequence[bytes]], count: int, more: Mapping[int, bytes]) -> list[bytes]:
    """What a healthy device measures: of each golden entry the last alternative, zeros elsewhere.

    Args:
        golden: Alternatives by index, as manifests count: from 0.
        count: How many measurements the device has.
        more: Other values by index, over the golden ones.
    """
    values = {index: alternatives[-1] for index, alternatives in golden.items()} | dict(more)
    return [values.get(index, bytes(DIGEST_BYTES)) for index in range(count)]
