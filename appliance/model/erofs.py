r"""A plan for an EROFS file system of uncompressed files: the same bytes on any machine, for any release of any tool.

In: files. Out: a :class:`~appliance.model.layout.Layout`. Written here rather than by ``mkfs.erofs``, because releases
of that program write different bytes for the same directory and options (1.5 and 1.8.6 do), and a model's name must not
depend on whose distribution packed it. Only what a read-only tree of plain files needs is used, without feature bits,
so that every kernel since 5.4 reads it (``fs/erofs/erofs_fs.h``): extended inodes, flat data, no attributes, no links.

Layout, little-endian::

    0          1024 zero bytes | superblock (128 bytes) | inodes, 64 bytes each: the root, then depth first by name
    block      directories, in the order of their inodes
    block      files, in the order of their inodes, each from a block's beginning

Everything that a machine could bring in is fixed: owner 0, files 0444, directories 0555, all times 0, names in order of
their bytes. Weights lie in one piece, in blocks of the page size, so they are read as fast as the disk gives them.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from appliance.model.errors import CheckpointError
from appliance.model.formats import BLOCK
from appliance.model.layout import Layout, Segment
from appliance.model.verity import MAX_DATA_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from appliance.model.layout import SourceFile

_UUID: Final = UUID("8e07ef98-3737-4b27-9d3a-6527995dfd95")
_SUPER_OFFSET: Final = 1024
_MAGIC: Final = 0xE0F5E1E2
# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time, build_time_nsec, blocks,
# meta_blkaddr, xattr_blkaddr, uuid, volume_name, then features and tables that are not used
_SUPERBLOCK: Final = struct.Struct("<IIIBBHQQIIII16s16s48x")
# i_format, i_xattr_icount, i_mode, reserved, i_size, raw_blkaddr, i_ino, uid, gid, mtime, mtime_nsec, nlink
_INODE: Final = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT: Final = struct.Struct("<QHBB")
_NID_SHIFT: Final = 5  # inodes are addressed in units of 32 bytes
_EXTENDED_PLAIN: Final = 1  # bit 0: 64-byte inode; bits 1 to 3: data layout 0, flat and plain
_FILE_TYPE, _DIRECTORY_TYPE = 1, 2
_FILE_MODE: Final = stat.S_IFREG | 0o444
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o555


@dataclass(slots=True)
class _Node:
    """A file or directory on its way to an inode."""

    source: Path | None = None
    size: int = 0
    children: dict[bytes, _Node] = field(default_factory=dict)
    number: int = 0
    block: int = 0
    parent: _Node | None = None

    @property
    def nid(self) -> int:
        """Its address: of inode ``number`` (from 1) behind the superblock."""
        return (_SUPER_OFFSET + _SUPERBLOCK.size + (self.number - 1) * _INODE.size) >> _NID_SHIFT

    @property
    def is_directory(self) -> bool:
        return self.source is None


def plan(files: Sequence[SourceFile]) -> Layout:
    """The file system of these files.

    Raises:
        CheckpointError: They are more than the file system's block numbers can reach.
    """
    root = _Node()
    for file in files:
        _place(root, file)
    nodes = list(_number(root))
    position = _blocks(_SUPER_OFFSET + _SUPERBLOCK.size + len(nodes) * _INODE.size)
    contents: list[Segment] = []
    for node in nodes:
        if node.is_directory:
            content = _directory(node)
            node.block, node.size = position, len(content)
            contents.append(Segment(position * BLOCK, len(content), content))
            position += _blocks(len(content))
    for node in nodes:
        if node.source is not None and node.size:
            node.block = position
            contents.append(Segment(position * BLOCK, node.size, node.source))
            position += _blocks(node.size)
    if position > MAX_DATA_BLOCKS:
        raise CheckpointError(f"the files need {position} blocks, more than the {MAX_DATA_BLOCKS} of a volume (16 TiB)")
    head = _superblock(root, len(nodes), position) + b"".join(_inode(node) for node in nodes)
    return Layout.of([Segment(_SUPER_OFFSET, len(head), head), *contents], position * BLOCK)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _place(root: _Node, file: SourceFile) -> None:
    *directories, last = file.name.encode().split(b"/")
    node = root
    for part in directories:
        node = node.children.setdefault(part, _Node())
    node.children[last] = _Node(file.source, file.size)


def _number(root: _Node) -> Iterator[_Node]:
    """Every node, depth first by name; gives each its number and parent."""
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        node.number = count
        yield node
        for name in sorted(node.children, reverse=True):
            child = node.children[name]
            child.parent = node
            waiting.append(child)


def _directory(node: _Node) -> bytes:
    """A directory's data: blocks of entries in order of their names, each block's names behind its entries.

    The name offset of a block's first entry tells how many there are; a name ends at the next, at zero or at the end.
    """
    entries = {b".": node, b"..": node.parent or node, **node.children}
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in sorted(entries):
        if used + _DIRENT.size + len(name) > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += _DIRENT.size + len(name)
    packed = []
    for names in blocks:
        table, at = bytearray(), _DIRENT.size * len(names)
        for name in names:
            child = entries[name]
            table += _DIRENT.pack(child.nid, at, _DIRECTORY_TYPE if child.is_directory else _FILE_TYPE, 0)
            at += len(name)
        packed.append(bytes(table) + b"".join(names))
    return b"".join([*(block.ljust(BLOCK, b"\0") for block in packed[:-1]), packed[-1]])


def _inode(node: _Node) -> bytes:
    mode = _DIRECTORY_MODE if node.is_directory else _FILE_MODE
    links = 2 + sum(child.is_directory for child in node.children.values()) if node.is_directory else 1
    return _INODE.pack(_EXTENDED_PLAIN, 0, mode, 0, node.size, node.block, node.number, 0, 0, 0, 0, links)


def _superblock(root: _Node, inodes: int, blocks: int) -> bytes:
    bits = BLOCK.bit_length() - 1
    return _SUPERBLOCK.pack(_MAGIC, 0, 0, bits, 0, root.nid, inodes, 0, 0, blocks, 0, 0, _UUID.bytes, b"")
