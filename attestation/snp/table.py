"""The certificate table that a host gives its guest (GHCB standardization 56421, revision 2.03, section 4.1.8.1).

Entries of 24 bytes (GUID in its mixed-endian form, u32 offset, u32 length), ended by one of zeros; offsets count from
the table's beginning. All of it is the host's word.
"""

from __future__ import annotations

import binascii
import struct
from uuid import UUID

from attestation.errors import EvidenceError
from attestation.snp.evidence import LIMITS

MAX_TABLE = 64 * 1024
_ENTRY = struct.Struct("<16sII")
_MAX_ENTRIES = 32
_NAMES = {
    UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "vcek",
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "vlek",
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ask",
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ark",
    UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea"): "crl",
}
_PEM_BEGIN, _PEM_END = b"-----BEGIN ", b"-----END "


def parse_table(data: bytes) -> dict[str, bytes]:
    """Read a table.

    Args:
        data: As the kernel hands it over; may be empty.

    Returns:
        DER by name (:data:`attestation.snp.evidence.LIMITS`); entries of other kinds are left out.

    Raises:
        EvidenceError: Too long, an entry twice, or one that is not where it says.
    """
    if len(data) > MAX_TABLE:
        raise EvidenceError(f"certificate table of {len(data)} bytes, at most {MAX_TABLE} are read")
    entries = _entries(data)
    begin = (len(entries) + 1) * _ENTRY.size
    found: dict[str, bytes] = {}
    for guid, offset, length in entries:
        name = _NAMES.get(UUID(bytes_le=guid))
        if name is None:
            continue
        if offset < begin or offset + length > len(data):
            raise EvidenceError(f"certificate {name} is said to be at {offset}, {length} bytes, outside the table")
        if name in found:
            raise EvidenceError(f"certificate {name} is in the table twice")
        content = _to_der(name, data[offset : offset + length])
        if not 0 < len(content) <= LIMITS[name]:
            raise EvidenceError(f"certificate {name} of {len(content)} bytes, expected 1 to {LIMITS[name]}")
        found[name] = content
    return found


def make_table(certificates: dict[str, bytes]) -> bytes:
    """Write a table of the given certificates, as a host does."""
    guids = {name: guid.bytes_le for guid, name in _NAMES.items()}
    offset = (len(certificates) + 1) * _ENTRY.size
    heads, bodies = b"", b""
    for name, content in certificates.items():
        heads += _ENTRY.pack(guids[name], offset + len(bodies), len(content))
        bodies += content
    return heads + bytes(_ENTRY.size) + bodies


def _entries(data: bytes) -> list[tuple[bytes, int, int]]:
    found: list[tuple[bytes, int, int]] = []
    if not data:
        return found
    for start in range(0, _MAX_ENTRIES * _ENTRY.size, _ENTRY.size):
        if start + _ENTRY.size > len(data):
            raise EvidenceError("certificate table without its last entry, which is zeros")
        entry: tuple[bytes, int, int] = _ENTRY.unpack_from(data, start)
        if not any(entry[0]) and not any(entry[1:]):
            return found
        found.append(entry)
    raise EvidenceError(f"certificate table of more than {_MAX_ENTRIES} entries")


def _to_der(name: str, content: bytes) -> bytes:
    """Hosts keep PEM as well as DER."""
    if not content.startswith(_PEM_BEGIN):
        return content
    lines = content.strip().splitlines()
    if len(lines) < 3 or not lines[-1].startswith(_PEM_END):
        raise EvidenceError(f"certificate {name} is PEM without an end")
    try:
        return binascii.a2b_base64(b"".join(lines[1:-1]), strict_mode=True)
    except binascii.Error:
        raise EvidenceError(f"certificate {name} is PEM that cannot be read") from None
