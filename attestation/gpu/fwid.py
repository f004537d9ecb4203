"""The firmware identifier (FWID) that a device's leaf certificate carries: DER in, 48 bytes out.

Two layouts are met (TCG DICE Attestation Architecture 1.1, sections 6.1.1 and 5.1)::

    2.23.133.5.4.1    Hopper, LS10   SEQUENCE { INTEGER 1, SubjectPublicKeyInfo of the device key,
                                                SEQUENCE { OID sha384, OCTET STRING fwid } }
    2.23.133.5.4.1.1  Blackwell      DiceTcbInfo: SEQUENCE { …, [6] SEQUENCE OF { OID sha384, OCTET STRING fwid }, … }

Of several in a DiceTcbInfo the first is the one that the report repeats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509

from attestation.errors import EvidenceError
from attestation.gpu.chain import spki

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
FWID_SIZE: Final = 48
_SHA384: Final = bytes.fromhex("608648016503040202")
_INTEGER, _OCTETS, _OID, _SEQUENCE, _FWIDS = 0x02, 0x04, 0x06, 0x30, 0xA6
_MAX_EXTENSION: Final = 2048


def certified_fwid(leaf: x509.Certificate, device: x509.Certificate) -> bytes:
    """The FWID of a leaf, 48 bytes.

    Args:
        leaf: Certificate of the key that signs reports.
        device: The certificate above it; the older layout repeats its key, which has to be the same.

    Raises:
        EvidenceError: There is none, there are two, or it cannot be read.
    """
    found = [item for item in leaf.extensions if item.oid in {COMPOSITE_DEVICE_ID, TCB_INFO}]
    if len(found) != 1 or not isinstance(found[0].value, x509.UnrecognizedExtension):
        raise EvidenceError(f"leaf certificate with {len(found)} firmware identifiers, expected one")
    data = found[0].value.value
    if len(data) > _MAX_EXTENSION:
        raise EvidenceError(f"firmware identifier of {len(data)} bytes, at most {_MAX_EXTENSION} are read")
    if found[0].oid == TCB_INFO:
        return _from_tcb_info(data)
    return _from_composite(data, device)


def _from_composite(data: bytes, device: x509.Certificate) -> bytes:
    parts = list(_items(_whole(data, _SEQUENCE)))
    if [tag for tag, _, _ in parts] != [_INTEGER, _SEQUENCE, _SEQUENCE]:
        raise EvidenceError("firmware identifier is not a version, a key and a digest")
    if parts[1][2] != spki(device):
        raise EvidenceError("firmware identifier names another device key than the chain")
    return _digest(parts[2][1])


def _from_tcb_info(data: bytes) -> bytes:
    lists = [content for tag, content, _ in _items(_whole(data, _SEQUENCE)) if tag == _FWIDS]
    if len(lists) != 1:
        raise EvidenceError(f"DiceTcbInfo with {len(lists)} lists of firmware identifiers, expected one")
    digests = [content for tag, content, _ in _items(lists[0]) if tag == _SEQUENCE]
    if not digests:
        raise EvidenceError("DiceTcbInfo without a firmware identifier")
    return _digest(digests[0])


def _digest(data: bytes) -> bytes:
    parts = [(tag, content) for tag, content, _ in _items(data)]
    if [tag for tag, _ in parts] != [_OID, _OCTETS] or parts[0][1] != _SHA384 or len(parts[1][1]) != FWID_SIZE:
        raise EvidenceError("firmware identifier is not one SHA-384 digest")
    return parts[1][1]


def _whole(data: bytes, tag: int) -> bytes:
    items = list(_items(data))
    if len(items) != 1 or items[0][0] != tag:
        raise EvidenceError(f"firmware identifier is not one DER item of tag {tag:#04x}")
    return items[0][1]


def _items(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content and whole encoding of each DER item; lengths of up to two bytes."""
    offset = 0
    while offset < len(data):
        start, tag = offset, data[offset]
        if tag & 0x1F == 0x1F or offset + 1 >= len(data):
            raise EvidenceError("firmware identifier with a DER tag that is not used here, or cut off")
        length, offset = data[offset + 1], offset + 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[offset : offset + size], "big")
            if not 1 <= size <= 2 or offset + size > len(data) or length < (0x80 if size == 1 else 0x100):
                raise EvidenceError("firmware identifier with a DER length that is not the shortest, or cut off")
            offset += size
        if length > len(data) - offset:
            raise EvidenceError(f"firmware identifier announces {length} bytes where {len(data) - offset} are left")
        yield tag, data[offset : offset + length], data[start : offset + length]
        offset += length
