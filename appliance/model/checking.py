"""``verify`` and ``show``: what a model volume's file is, and whether every byte of it is the named model's.

In: a file. Out: a :class:`VolumeSummary`, or the refusal that says what differs. Neither needs privileges or
the kernel's dm-verity; ``verify`` reads everything, the guest checks each block when it is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.engine.progress import Progress, ProgressCallback, ignore_progress
from appliance.model import stream
from appliance.model.errors import PackError, VolumeFormatError, VolumeMismatchError
from appliance.model.formats import BLOCK, FORMATS, FormatName, VolumeFormat, find
from appliance.model.naming import VolumeName
from appliance.model.packing import HASH_SUFFIX
from appliance.model.verity import DIGEST, Geometry, Tree, check_superblock, digests

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class VolumeSummary:
    """What a model volume says of itself; its hash area alone was read.

    Attributes:
        format: ``erofs`` or ``cocoon-tar``.
        root_hash: Of the tree that is in it: 64 hex digits.
        data_blocks: Blocks of 4096 bytes that are hashed.
        hash_path: The file with the hash area.
        hash_offset: Where it begins there, bytes.
        size: Bytes of data and hash area.
    """

    format: FormatName
    root_hash: str
    data_blocks: int
    hash_path: Path
    hash_offset: int
    size: int


def show(path: Path) -> VolumeSummary:
    """What a file is; nothing but its size, superblock and highest hash block is looked at.

    Raises:
        VolumeFormatError: It is no model volume.
    """
    beside = path.with_name(path.name + HASH_SUFFIX)
    try:
        if beside.exists():
            return _summary(FORMATS["cocoon-tar"], path, beside)
        return _summary(FORMATS["erofs"], path, path)
    except OSError as error:
        raise VolumeFormatError(f"{error.filename or path}: {error.strerror}") from None


def verify(
    path: Path,
    name: str,
    *,
    format: FormatName | None = None,  # noqa: A002 - what the configuration and the command line call it
    data_blocks: int | None = None,
    progress: ProgressCallback = ignore_progress,
    workers: int | None = None,
) -> VolumeSummary:
    """Check every byte of a volume against a model's name.

    Args:
        path: The data's file.
        name: ``base@commit:hash``.
        format: What it must be; None for what it is.
        data_blocks: How many there must be; None for as many as there are.
        progress: Told of the bytes read.
        workers: Processes that hash.

    Raises:
        VolumeFormatError: It is no model volume, or one of another format or size.
        VolumeMismatchError: It is another model's, or was altered; says which block.
        PackError: It cannot be read.
    """
    expected = VolumeName.parse(name).root_hash
    summary = show(path)
    if summary.format != find(format or summary.format).name or data_blocks not in {None, summary.data_blocks}:
        raise VolumeFormatError(
            f"{path.name} has format {summary.format} and {summary.data_blocks} data blocks,"
            f" expected {format or summary.format} and {data_blocks or summary.data_blocks}"
        )
    if summary.root_hash != expected:
        raise VolumeMismatchError(
            f"{path.name} has root hash {summary.root_hash}, expected {expected}",
            hint="it is another model or version, or its hash area was altered: get the file again",
        )
    try:
        _compare(path, summary, expected, progress, workers)
    except OSError as error:
        raise PackError(f"{error.filename or summary.hash_path}: {error.strerror}") from None
    return summary


def _summary(form: VolumeFormat, path: Path, hash_path: Path) -> VolumeSummary:
    size = path.stat().st_size
    if form.one_file:
        geometry = Geometry.of_whole(size)
        offset = geometry.data_blocks * BLOCK
    else:
        geometry, offset = Geometry.of(size // BLOCK), 0
        if size % BLOCK or hash_path.stat().st_size != geometry.hash_blocks * BLOCK:
            raise VolumeFormatError(
                f"{path.name} and {hash_path.name} do not have the sizes of a model volume's two files"
            )
    with hash_path.open("rb") as file:
        file.seek(offset)
        check_superblock(file.read(BLOCK), form, geometry.data_blocks)
        if geometry.levels:
            top = file.read(BLOCK)
        else:
            with path.open("rb") as data:
                top = data.read(BLOCK)
    root = digests(memoryview(top), form.salt).hex()
    whole = size if form.one_file else size + geometry.hash_blocks * BLOCK
    return VolumeSummary(form.name, root, geometry.data_blocks, hash_path, offset, whole)


def _compare(
    path: Path, summary: VolumeSummary, expected: str, progress: ProgressCallback, workers: int | None
) -> None:
    """Grow the tree from the data and compare it with the one that is there."""
    form, total = FORMATS[summary.format], summary.data_blocks * BLOCK
    geometry = Geometry.of(summary.data_blocks)
    differs: list[int] = []
    with summary.hash_path.open("rb", buffering=0) as file:

        def emit(offset: int, content: bytes) -> None:
            there = os.pread(file.fileno(), len(content), summary.hash_offset + offset)
            if there != content and not differs:
                differs.append(offset + _first_difference(there, content))

        tree = Tree(geometry, form, emit)
        for found in stream.read(
            path,
            total,
            form.salt,
            workers=workers,
            done=lambda count: progress(Progress("read and hash", count, total, "bytes", path.name)),
        ):
            tree.add(found)
        root = tree.finish().hex()
    if root == expected and not differs:
        return
    if root == expected:
        raise VolumeMismatchError(
            f"{summary.hash_path.name}: byte {summary.hash_offset + differs[0]} is in the hash area and differs;"
            " the data is right",
            hint="get the file again, or pack the directory",
        )
    lowest = geometry.offset(0) if geometry.levels else 0
    block = (differs[0] - lowest) // DIGEST if differs and differs[0] >= lowest else 0
    raise VolumeMismatchError(
        f"{path.name}: data block {block} (byte {block * BLOCK}) is not the one that was packed:"
        f" root hash {root}, expected {expected}",
        hint="get the file again, or pack the directory",
    )


def _first_difference(seen: bytes, expected: bytes) -> int:
    return next((at for at, pair in enumerate(zip(seen, expected, strict=False)) if pair[0] != pair[1]), len(seen))
