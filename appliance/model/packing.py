"""``pack``: a checkpoint directory becomes a model volume; the same directory gives the same bytes anywhere.

In: a directory. Out: the volume's file (and for ``cocoon-tar`` one with the hash area beside it) and its name. The data
is read once: copied, hashed and the tree grown in one pass. A file appears under its name when it is whole.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.engine.progress import Progress, ProgressCallback, ignore_progress
from appliance.model import cocoon_tar, erofs, stream
from appliance.model.checkpoint import examine
from appliance.model.errors import PackError
from appliance.model.formats import BLOCK, FormatName, find
from appliance.model.naming import VolumeName
from appliance.model.verity import Geometry, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLANNERS: Final = {"erofs": erofs.plan, "cocoon-tar": cocoon_tar.plan}
HASH_SUFFIX: Final = ".verity"
"""Added to the data file's name where the hash area has a file of its own."""


@dataclass(frozen=True, slots=True)
class PackedModel:
    """A model volume that was written.

    Attributes:
        name: ``base@commit:roothash``, as the measured configuration and the root contract have it.
        format: ``erofs`` or ``cocoon-tar``.
        path: The file with the data.
        hash_path: The file with the hash area: the same one for ``erofs``.
        data_blocks: Blocks of 4096 bytes that are hashed; measured beside the name.
        hash_offset: Where the hash area begins in ``hash_path``, bytes.
        size: Bytes of all that was written.
        files: How many files went in.
        left_out: What was not put in, because it belongs to a download tool.
        seconds: How long it took.
    """

    name: str
    format: FormatName
    path: Path
    hash_path: Path
    data_blocks: int
    hash_offset: int
    size: int
    files: int
    left_out: tuple[str, ...]
    seconds: float


def pack(
    directory: Path,
    output: Path,
    *,
    name: str,
    commit: str = "local",
    format: FormatName = "erofs",  # noqa: A002 - what the configuration and the command line call it
    progress: ProgressCallback = ignore_progress,
    workers: int | None = None,
) -> PackedModel:
    """Make a model volume.

    Args:
        directory: The checkpoint.
        output: The file to make; one that is there is replaced at the end.
        name: The model's base name, which requests carry.
        commit: The checkpoint's version, as its publisher counts.
        format: ``erofs``, or ``cocoon-tar`` for the reference's machines.
        progress: Told of the steps; the second counts bytes.
        workers: Processes that hash; as many as there are processors by default. More than one need a main module that
            can be imported again (multiprocessing, "spawn").

    Raises:
        CheckpointError: The directory holds what must not be in a volume.
        VolumeFormatError: The name, the commit or the format is none.
        PackError: The volume cannot be written.
    """
    begun = time.monotonic()
    form = find(format)
    VolumeName.parse(f"{name}@{commit}:{'0' * 64}")
    progress(Progress("check the files", 0, 1, "steps", str(directory)))
    checkpoint = examine(directory)
    layout = _PLANNERS[format](checkpoint.files)
    geometry = Geometry.of(layout.blocks)
    hash_path = output if form.one_file else output.with_name(output.name + HASH_SUFFIX)
    hash_offset = layout.size if form.one_file else 0
    step = Progress("write and hash", 0, layout.size, "bytes", output.name)
    progress(step)
    try:
        with ExitStack() as stack:
            data = stack.enter_context(_appearing(output, layout.size))
            area = data if form.one_file else stack.enter_context(_appearing(hash_path, 0))
            with area.open("r+b", buffering=0) as file:

                def emit(offset: int, content: bytes) -> None:
                    os.pwrite(file.fileno(), content, hash_offset + offset)

                tree = Tree(geometry, form, emit)
                for digests in stream.write(
                    layout,
                    data,
                    form.salt,
                    workers=workers,
                    done=lambda count: progress(Progress(step.step, count, layout.size, "bytes", step.detail)),
                ):
                    tree.add(digests)
                root = tree.finish()
    except OSError as error:
        raise PackError(f"{error.filename or output}: {error.strerror}", hint=stream.advice(error)) from None
    return PackedModel(
        name=str(VolumeName(name, commit, root.hex())),
        format=format,
        path=output,
        hash_path=hash_path,
        data_blocks=layout.blocks,
        hash_offset=hash_offset,
        size=layout.size + geometry.hash_blocks * BLOCK,
        files=len(checkpoint.files),
        left_out=checkpoint.left_out,
        seconds=time.monotonic() - begun,
    )


@contextmanager
def _appearing(path: Path, size: int) -> Iterator[Path]:
    """A new file of so many zero bytes, on disk and under its name when the block ends well, gone when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.truncate(descriptor, size)
        yield partial
        os.fsync(descriptor)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
