r"""One hash for a directory, the same on every machine.

Layout (this project's own, version 1; the verity root hash takes its place once models come as volumes)::

    SHA-256( "chrysalis tree 1\n"
             for each regular file, ordered by the bytes of its path:
                 u32 length of path | path, UTF-8, "/" between parts
                 u64 length of content | SHA-256 of content, 32 bytes )

Integers are big-endian. Modes, times and empty directories do not count. Anything but files and directories is refused.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from appliance.engine.building import MARKER
from appliance.engine.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"chrysalis tree 1\n"


def tree_hash(directory: Path) -> str:
    """The hash of everything in ``directory`` except this project's marker file: 64 hex digits.

    Raises:
        ModelError: There is no such directory, it holds a link or device, or cannot be read.
    """
    state = hashlib.sha256(_MAGIC)
    try:
        for name, path in sorted(_files(directory)):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
                size = file.tell()
            state.update(len(name).to_bytes(4, "big") + name + size.to_bytes(8, "big") + content.digest())
    except OSError as error:
        raise ModelError(f"{directory} cannot be read: {error.strerror}") from error
    return state.hexdigest()


def _files(directory: Path) -> Iterator[tuple[bytes, Path]]:
    for path in directory.rglob("*") if directory.is_dir() else _missing(directory):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is neither a file nor a directory", hint="copy what it points to")
        if path.is_file() and path != directory / MARKER:
            yield path.relative_to(directory).as_posix().encode(), path


def _missing(directory: Path) -> Iterator[Path]:
    raise ModelError(f"{directory} is not a directory")
