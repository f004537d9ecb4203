"""MRTD, the digest of what a TDX machine is made of before it starts: firmware and page order in, 48 bytes out.

MRTD is one SHA-384 over a record for every page that is added (``TDH.MEM.PAGE.ADD``) and, where a section is measured,
a record and the contents of every 256 bytes of it (``TDH.MR.EXTEND``). Both records have 128 bytes: a name, at 16 the
guest's physical address (u64, little-endian), zeros.

Source: Intel TDX Module Base Architecture Specification (348549), section "Measurement of the Initial TD Contents". The
order of the calls is the monitor's: QEMU 9 and later hand every page to KVM's ``KVM_TDX_INIT_MEM_REGION``, which adds
and extends one page after the other; with the patches for QEMU 8, a section's pages were all added, then all extended.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Literal

from measurements import tdvf

if TYPE_CHECKING:
    from collections.abc import Iterator

PageOrder = Literal["single pass", "two passes"]
"""``single pass``: each page is added, then measured; ``two passes``: a section is added, then measured."""

CHUNK = 256
"""How many bytes one ``TDH.MR.EXTEND`` measures."""
SINGLE_PASS_SINCE = 9
"""First QEMU whose patches or own code measure in a single pass."""

_RECORD = struct.Struct("<16sQ104x")
_ADD = b"MEM.PAGE.ADD"
_EXTEND = b"MR.EXTEND"


def page_order(qemu: tuple[int, ...]) -> PageOrder:
    """The order in which a QEMU of this version (numbers, as ``Qemu.numbers``) makes a machine's memory."""
    return "single pass" if qemu[0] >= SINGLE_PASS_SINCE else "two passes"


def mrtd(firmware: bytes, parsed: tdvf.Tdvf, order: PageOrder) -> bytes:
    """Digest of the memory that a machine starts with.

    Args:
        firmware: The file.
        parsed: Its metadata, as :func:`measurements.tdvf.parse` read them from the same file.
        order: Of adding and measuring.

    Returns:
        48 bytes.
    """
    state = hashlib.sha384()
    for section in parsed.sections:
        for part in _records(firmware, section, order):
            state.update(part)
    return state.digest()


def _records(firmware: bytes, section: tdvf.Section, order: PageOrder) -> Iterator[bytes]:
    """What one section adds to the stream, in pieces."""
    added = not section.attributes & tdvf.ADDED_LATER
    measured = bool(section.attributes & tdvf.EXTENDED)
    pages = range(section.address, section.end, tdvf.PAGE)
    if order == "two passes":
        if added:
            yield from (_RECORD.pack(_ADD, page) for page in pages)
        if measured:
            yield from (_measured(firmware, section, page) for page in pages)
        return
    for page in pages:
        if added:
            yield _RECORD.pack(_ADD, page)
        if measured:
            yield _measured(firmware, section, page)


def _measured(firmware: bytes, section: tdvf.Section, page: int) -> bytes:
    """Records and contents of one page; what is not in the file is zero."""
    inside = page - section.address
    start, end = section.offset + inside, section.offset + section.raw_size
    content = firmware[start : min(start + tdvf.PAGE, end)].ljust(tdvf.PAGE, b"\0")
    return b"".join(
        _RECORD.pack(_EXTEND, page + place) + content[place : place + CHUNK] for place in range(0, tdvf.PAGE, CHUNK)
    )
