"""SPDM 1.1 GET_MEASUREMENTS request and MEASUREMENTS response, as an NVIDIA device signs them: bytes in, values out.

Source: DMTF DSP0274 1.1.1, sections 10.11.1 and 10.11.2 (tables 40 to 45), and NVIDIA's opaque data: fields of
``type (u16le) ‖ length (u16le) ‖ value``, whose numbers are those of the vendor's published verifier. All integers are
little-endian::

    request   version 0x11, code 0xe0, param1, param2, nonce (32), slot                          37 bytes
    response  version 0x11, code 0x60, param1, param2, blocks (1), record length (3), record,
              nonce (32), opaque length (2), opaque data, signature (96)
    block     index (1), specification 1, size (2), value type (1), value size (2), value

Every byte is consumed, every length bounded, no index and no opaque field may come twice. Nothing here is verified.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.gpu.evidence import MAX_REPORT

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_SIZE = 37
NONCE_SIZE = 32
SIGNATURE_SIZE = 96
"""ECDSA over P-384: r and s of 48 bytes, big-endian."""

MAX_OPAQUE = 4096
_VERSION = 0x11
_GET_MEASUREMENTS = 0xE0
_MEASUREMENTS = 0x60
_SIGNATURE_REQUESTED = 0x01
_ALL_MEASUREMENTS = 0xFF
_DMTF = 1
_ERROR = 0x7F
_HEAD = "an SPDM 1.1 GET_MEASUREMENTS request and its MEASUREMENTS response"


class Opaque(enum.IntEnum):
    """Fields of the opaque data. 22 and 26 mean different things in a GPU's and in a switch's report."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_ID = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    MEASUREMENT_COUNTS = 12
    CPR_INFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDI = 22
    FLOORSWEPT_PORTS = 23
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    GPU_PDIS = 26
    GPU_LINK_CONN = 32
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36
    INVALID = 255


@dataclass(frozen=True, slots=True)
class Measurement:
    """One block: the DMTF value type (bit 7: raw bytes, not a digest) and the value."""

    value_type: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdmReport:
    """A parsed report.

    Attributes:
        nonce: The requester's 32 bytes.
        slot: Certificate slot that was asked to sign.
        measurements: By SPDM index, from 1.
        response_nonce: The device's own 32 bytes.
        opaque: The opaque data's fields by number.
        signed: What the signature is over: request and response without it.
        signature: 96 bytes.
    """

    nonce: bytes
    slot: int
    measurements: Mapping[int, Measurement]
    response_nonce: bytes
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    def text(self, field: Opaque) -> str:
        """A text field without its zero padding, empty if it is missing.

        Raises:
            EvidenceError: It holds something other than printable ASCII.
        """
        raw = self.opaque.get(field, b"").rstrip(b"\0")
        if any(not 0x20 <= byte < 0x7F for byte in raw):
            raise EvidenceError(f"opaque field {field.name} is {raw[:16].hex()}, expected printable ASCII")
        return raw.decode("ascii")


def parse_report(data: bytes) -> SpdmReport:
    """Read a report.

    Raises:
        EvidenceError: Too long or short, another message, bytes left over, a length that does not fit, an index or an
            opaque field that comes twice.
    """
    if len(data) > MAX_REPORT:
        raise EvidenceError(f"device report of {len(data)} bytes, at most {MAX_REPORT} are read")
    reader = _Reader(data)
    head = reader.take(4, "request head")
    if head[:2] != bytes([_VERSION, _GET_MEASUREMENTS]):
        raise EvidenceError(f"device report starts with {head[:2].hex()}, expected 11e0: {_HEAD}")
    if not head[2] & _SIGNATURE_REQUESTED or head[3] != _ALL_MEASUREMENTS:
        raise EvidenceError(
            f"device report answers a request with parameters {head[2:].hex()}, expected 01ff: all measurements, signed"
        )
    nonce = reader.take(NONCE_SIZE, "request nonce")
    slot = reader.take(1, "slot")[0]
    answer = reader.take(4, "response head")
    if answer[:2] == bytes([_VERSION, _ERROR]):
        raise EvidenceError(
            f"the device answered with SPDM error {answer[2]:#04x}", hint="reset the GPU; dmesg has the driver's words"
        )
    if answer[:2] != bytes([_VERSION, _MEASUREMENTS]):
        raise EvidenceError(f"response starts with {answer[:2].hex()}, expected 1160: {_HEAD}")
    count = reader.take(1, "number of blocks")[0]
    record = reader.take(reader.number(3, "record length"), "measurement record")
    measurements = _blocks(record, count)
    response_nonce = reader.take(NONCE_SIZE, "response nonce")
    length = reader.number(2, "opaque length")
    if length > MAX_OPAQUE:
        raise EvidenceError(f"device report with {length} bytes of opaque data, at most {MAX_OPAQUE} are read")
    opaque = _fields(reader.take(length, "opaque data"))
    signed = data[: reader.offset]
    signature = reader.take(SIGNATURE_SIZE, "signature")
    reader.end("the signature")
    return SpdmReport(
        nonce=nonce,
        slot=slot,
        measurements=measurements,
        response_nonce=response_nonce,
        opaque=opaque,
        signed=signed,
        signature=signature,
    )


def _blocks(record: bytes, count: int) -> Mapping[int, Measurement]:
    reader = _Reader(record)
    found: dict[int, Measurement] = {}
    for _ in range(count):
        index, specification = reader.take(2, "measurement block")
        size = reader.number(2, "block size")
        block = _Reader(reader.take(size, f"measurement block {index}"))
        value_type = block.take(1, "value type")[0]
        value = block.take(block.number(2, "value size"), f"value of measurement {index}")
        block.end(f"measurement {index}")
        if specification != _DMTF:
            raise EvidenceError(f"measurement {index} follows specification {specification}, expected {_DMTF} (DMTF)")
        if index in found:
            raise EvidenceError(f"measurement index {index} comes twice")
        if not 0 < index < 0xFE:
            raise EvidenceError(f"measurement index {index}, expected 1 to 253")
        found[index] = Measurement(value_type, value)
    reader.end(f"{count} measurement blocks")
    if not found:
        raise EvidenceError("device report without measurements")
    return found


def _fields(data: bytes) -> Mapping[int, bytes]:
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while reader.left:
        number = reader.number(2, "opaque field number")
        value = reader.take(reader.number(2, "opaque field length"), f"opaque field {number}")
        if number in found:
            raise EvidenceError(f"opaque field {number} comes twice")
        found[number] = value
    return found


class _Reader:
    """Takes bytes from the front; says what was being read when they end."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    @property
    def left(self) -> int:
        return len(self._data) - self.offset

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise EvidenceError(f"device report ends inside its {what}: {size} bytes announced, {self.left} left")
        self.offset += size
        return self._data[self.offset - size : self.offset]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def end(self, what: str) -> None:
        if self.left:
            raise EvidenceError(f"{self.left} bytes follow {what}")
