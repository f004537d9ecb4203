r"""dm-verity's hash tree, version 1: geometry, superblock, and the tree from the hashes of the data blocks.

In: sizes and digests. Out: bytes of the hash area and the root hash. No file is opened here.

Hash area (cryptsetup, ``lib/verity/verity_hash.c``; kernel, ``Documentation/admin-guide/device-mapper/verity.rst``)::

    block 0              superblock (512 bytes, rest zero)
    block 1 …            the highest level's block, then each lower level, the level over the data last
    a hash block         128 digests of 32 bytes, unused ones zero
    a digest             SHA-256(salt | block)
    root hash            the digest of the highest level's only block; of the data block where there is only one

Superblock (cryptsetup, ``lib/verity/verity.c``, ``struct verity_sb``, little-endian)::

    8 "verity\0\0" | u32 version 1 | u32 hash type 1 | 16 uuid | 32 algorithm | u32 data block size
    u32 hash block size | u64 data blocks | u16 salt size | 6 zero | 256 salt | 168 zero
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.model.errors import VolumeFormatError
from appliance.model.formats import ALGORITHM, BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.model.formats import VolumeFormat

DIGEST: Final = 32
FANOUT: Final = BLOCK // DIGEST
MAX_DATA_BLOCKS: Final = 2**32 - 1
"""16 TiB: what the block numbers of the file system can name."""

_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")
_MAGIC: Final = b"verity\0\0"
_FIELDS: Final = (
    "signature",
    "version",
    "hash type",
    "uuid",
    "algorithm",
    "data block size",
    "hash block size",
    "data blocks",
    "salt size",
    "salt",
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where everything of a hash area is, by the number of data blocks.

    Attributes:
        data_blocks: Blocks that are hashed.
        levels: Hash blocks of each level, the one over the data first; empty for a single data block.
    """

    data_blocks: int
    levels: tuple[int, ...]

    @classmethod
    def of(cls, data_blocks: int) -> Geometry:
        """The geometry of so many data blocks.

        Raises:
            VolumeFormatError: None, or more than the format can hold.
        """
        if not 1 <= data_blocks <= MAX_DATA_BLOCKS:
            raise VolumeFormatError(f"{data_blocks} data blocks, expected 1 to {MAX_DATA_BLOCKS}")
        levels, left = [], data_blocks
        while left > 1:
            left = -(-left // FANOUT)
            levels.append(left)
        return cls(data_blocks, tuple(levels))

    @property
    def hash_blocks(self) -> int:
        """Blocks of the hash area, superblock included."""
        return 1 + sum(self.levels)

    def offset(self, level: int) -> int:
        """Where a level begins in the hash area, in bytes; level 0 is the one over the data."""
        return BLOCK * (1 + sum(self.levels[level + 1 :]))

    @classmethod
    def of_whole(cls, size: int) -> Geometry:
        """The geometry of data and hash area that are together ``size`` bytes: there is one or none.

        Raises:
            VolumeFormatError: No volume has that size.
        """
        total, rest = divmod(size, BLOCK)
        low, high = 1, max(1, min(total, MAX_DATA_BLOCKS))
        while low < high:
            middle = (low + high) // 2
            if middle + cls.of(middle).hash_blocks < total:
                low = middle + 1
            else:
                high = middle
        found = cls.of(low)
        if rest or low + found.hash_blocks != total:
            raise VolumeFormatError(
                f"{size} bytes are not the size of any model volume", hint="the file was cut or added to: copy it again"
            )
        return found


def digests(data: memoryview, salt: bytes) -> bytes:
    """The digest of each block of ``data`` (a whole number of blocks), one after the other."""
    fresh = hashlib.sha256(salt).copy
    found = bytearray()
    for start in range(0, len(data), BLOCK):
        state = fresh()
        state.update(data[start : start + BLOCK])
        found += state.digest()
    return bytes(found)


def superblock(form: VolumeFormat, data_blocks: int) -> bytes:
    """The first block of the hash area: one block."""
    packed = _SUPERBLOCK.pack(
        _MAGIC, 1, 1, form.uuid.bytes, ALGORITHM.encode(), BLOCK, BLOCK, data_blocks, len(form.salt), form.salt
    )
    return packed.ljust(BLOCK, b"\0")


def check_superblock(block: bytes, form: VolumeFormat, data_blocks: int) -> None:
    """Compare a hash area's first block with the one that this format and size have.

    Raises:
        VolumeFormatError: Names the field, what it is and what it should be.
    """
    expected = superblock(form, data_blocks)
    if block == expected:
        return
    if len(block) != BLOCK or not block.startswith(_MAGIC):
        raise VolumeFormatError(
            f"no verity superblock where a volume of {data_blocks} data blocks has it",
            hint="the volume is of another size or format, or is no model volume: chrysalis model show FILE",
        )
    rows = zip(_FIELDS, _SUPERBLOCK.unpack_from(block), _SUPERBLOCK.unpack_from(expected), strict=True)
    field, seen, wanted = next((row for row in rows if row[1] != row[2]), ("padding", "not zero", "zero"))
    shown = [value.rstrip(b"\0").hex() if isinstance(value, bytes) else value for value in (seen, wanted)]
    raise VolumeFormatError(
        f"verity superblock: {field} is {shown[0]}, expected {shown[1]} for format {form.name}",
        hint="every value of the table is fixed by the format: pack the model again with chrysalis model pack",
    )


class Tree:
    """The levels of a hash tree, from the data's digests in order; holds at most one block a level.

    Args:
        geometry: Of the volume.
        form: Its format.
        emit: Gets offset in the hash area and content, in whole blocks; called for every byte of it once.
    """

    def __init__(self, geometry: Geometry, form: VolumeFormat, emit: Callable[[int, bytes], None]) -> None:
        self._geometry = geometry
        self._form = form
        self._emit = emit
        self._pending = [bytearray() for _ in geometry.levels]
        self._positions = [geometry.offset(level) for level in range(len(geometry.levels))]
        self._root = b""
        self._seen = 0

    def add(self, found: bytes) -> None:
        """Take the digests of the next data blocks."""
        self._seen += len(found) // DIGEST
        self._push(0, found)

    def finish(self) -> bytes:
        """Write what is left and the superblock; the root hash: 32 bytes.

        Raises:
            VolumeFormatError: Not every data block's digest was given.
        """
        if self._seen != self._geometry.data_blocks:
            raise VolumeFormatError(f"{self._seen} blocks were hashed, expected {self._geometry.data_blocks}")
        for level, pending in enumerate(self._pending):
            if pending:
                rest = bytes(pending).ljust(BLOCK, b"\0")
                pending.clear()
                self._close(level, rest)
        self._emit(0, superblock(self._form, self._geometry.data_blocks))
        return self._root

    def _push(self, level: int, found: bytes) -> None:
        if level == len(self._pending):
            self._root = found
            return
        pending = self._pending[level]
        pending += found
        whole = len(pending) // BLOCK * BLOCK
        if whole:
            blocks = bytes(pending[:whole])
            del pending[:whole]
            self._close(level, blocks)

    def _close(self, level: int, blocks: bytes) -> None:
        self._emit(self._positions[level], blocks)
        self._positions[level] += len(blocks)
        self._push(level + 1, digests(memoryview(blocks), self._form.salt))
