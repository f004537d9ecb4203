"""TDX quotes: bytes in, registers out. Layout only; nothing here is verified.

Layout: Intel TDX DCAP Quoting Library API, "Quote Format" versions 4 and 5 (protocol specification, section 5.7).
A quote is header (48 bytes), in version 5 a body descriptor (u16 type, u32 size), body, u32 signature length, signature
data. All integers are little-endian. Whatever follows the signature data is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from attestation.errors import EvidenceError

MAX_QUOTE = 32 * 1024
"""Longest quote that is read, in bytes (protocol specification, section 5.6, rule 4)."""

TEE_TYPE_TDX = 0x81
ECDSA_P256 = 2
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_HEADER = struct.Struct("<HHIHH16s20s")
_DESCRIPTOR = struct.Struct("<HI")
_LENGTH = struct.Struct("<I")
_MIN_SIGNATURE = (
    64 + 64 + 6 + 384 + 64 + 2 + 6
)  # signature, key, outer head, QE report and its signature, auth, chain head

TD10_FIELDS: tuple[tuple[str, int], ...] = (
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rtmr0", 48),
    ("rtmr1", 48),
    ("rtmr2", 48),
    ("rtmr3", 48),
    ("report_data", 64),
)
TD15_FIELDS: tuple[tuple[str, int], ...] = (*TD10_FIELDS, ("tee_tcb_svn2", 16), ("mr_service_td", 48))


class BodyType(IntEnum):
    """Body types of a version 5 quote that are read here."""

    TD_1_0 = 2
    TD_1_5 = 3


FIELDS = {BodyType.TD_1_0: TD10_FIELDS, BodyType.TD_1_5: TD15_FIELDS}


class TdAttribute(IntEnum):
    """Bits of TDATTRIBUTES (Intel TDX module base specification, "TD attributes")."""

    DEBUG = 0
    LASS = 27
    SEPT_VE_DISABLE = 28
    MIGRATABLE = 29
    PKS = 30
    KL = 31
    PERFMON = 63


_ATTRIBUTE_NAMES = {int(bit): bit.name for bit in TdAttribute}


@dataclass(frozen=True, slots=True)
class TdReport:
    """The body of a TDX quote; field names follow the specification, sizes in bytes are in ``TD15_FIELDS``.

    The two 1.5 fields are empty in a 1.0 body.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes = b""
    mr_service_td: bytes = b""

    @property
    def measurements(self) -> bytes:
        """MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0 to RTMR3: 384 bytes, as the image hash takes them."""
        return b"".join(
            (
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                self.rtmr0,
                self.rtmr1,
                self.rtmr2,
                self.rtmr3,
            )
        )


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """A parsed quote: version 4 or 5, body, and the part that is signed."""

    version: int
    body_type: BodyType
    qe_vendor_id: bytes
    report: TdReport
    signed: bytes


def parse_quote(data: bytes) -> TdxQuote:
    """Parse a TDX quote of version 4 or 5.

    Args:
        data: The whole quote, nothing before it and nothing after it.

    Returns:
        The quote; its signature is not looked at.

    Raises:
        EvidenceError: Too long or short, another TEE, version, key type or body, trailing bytes.
    """
    if len(data) > MAX_QUOTE:
        raise EvidenceError(f"quote of {len(data)} bytes, at most {MAX_QUOTE} are read")
    if len(data) < _HEADER.size:
        raise EvidenceError(f"quote of {len(data)} bytes is shorter than its header of {_HEADER.size}")
    version, key_type, tee_type, _, _, vendor, _ = _HEADER.unpack_from(data)
    if tee_type != TEE_TYPE_TDX:
        raise EvidenceError(f"quote of TEE type {tee_type:#x}, expected TDX ({TEE_TYPE_TDX:#x})")
    if key_type != ECDSA_P256:
        raise EvidenceError(f"quote with attestation key type {key_type}, expected ECDSA P-256 ({ECDSA_P256})")
    offset = _HEADER.size
    if version == 4:
        body_type = BodyType.TD_1_0
    elif version == 5:
        body_type, offset = _descriptor(data, offset)
    else:
        raise EvidenceError(f"quote version {version}, expected 4 or 5")
    fields = FIELDS[body_type]
    end = offset + sum(size for _, size in fields)
    if len(data) < end + _LENGTH.size:
        raise EvidenceError(f"quote of {len(data)} bytes ends inside its body, which needs {end + _LENGTH.size}")
    values: dict[str, bytes] = {}
    for name, size in fields:
        values[name] = data[offset : offset + size]
        offset += size
    (length,) = _LENGTH.unpack_from(data, offset)
    if length < _MIN_SIGNATURE:
        raise EvidenceError(f"quote with {length} bytes of signature data, at least {_MIN_SIGNATURE} are needed")
    if end + _LENGTH.size + length != len(data):
        raise EvidenceError(
            f"quote of {len(data)} bytes, its lengths add up to {end + _LENGTH.size + length}",
            hint="bytes after the signature data are never accepted",
        )
    return TdxQuote(version, body_type, vendor, TdReport(**values), data[:end])


def without_padding(data: bytes) -> bytes:
    """Cut zeros that follow a quote's signature data; anything else is returned as it is, for the parser to judge.

    Some interfaces hand out a quote in a buffer of fixed size, filled up with zeros.
    """
    offset = _HEADER.size
    if len(data) < offset + _DESCRIPTOR.size:
        return data
    size = sum(length for _, length in TD10_FIELDS)
    if data[:2] == b"\x05\x00":
        size = _DESCRIPTOR.size + _DESCRIPTOR.unpack_from(data, offset)[1]
    start = offset + size
    if len(data) < start + _LENGTH.size:
        return data
    end = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
    return data[:end] if not any(data[end:]) else data


def attribute_names(td_attributes: bytes) -> list[str]:
    """Name the bits that are set in TDATTRIBUTES (8 bytes), lowest first."""
    value = int.from_bytes(td_attributes, "little")
    return [_ATTRIBUTE_NAMES.get(bit, f"bit {bit}") for bit in range(value.bit_length()) if value >> bit & 1]


def _descriptor(data: bytes, offset: int) -> tuple[BodyType, int]:
    if len(data) < offset + _DESCRIPTOR.size:
        raise EvidenceError("version 5 quote ends inside its body descriptor")
    kind, size = _DESCRIPTOR.unpack_from(data, offset)
    try:
        body_type = BodyType(kind)
    except ValueError:
        raise EvidenceError(
            f"version 5 quote with body type {kind}, expected one of {[int(t) for t in BodyType]}"
        ) from None
    expected = sum(length for _, length in FIELDS[body_type])
    if size != expected:
        raise EvidenceError(f"version 5 quote with a body of {size} bytes, type {kind} has {expected}")
    return body_type, offset + _DESCRIPTOR.size
