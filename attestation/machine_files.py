"""Files that the kernel or a boot stage leaves for evidence, read to a limit: a path in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.errors import CollectionError

if TYPE_CHECKING:
    from pathlib import Path


def read_file(path: Path, limit: int) -> bytes:
    """What a file holds, empty where there is none.

    Args:
        path: The file; its size is not asked for, because those of the kernel have none.
        limit: Longest that is read, in bytes.

    Raises:
        CollectionError: It cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CollectionError(
            f"{path} cannot be read: {error.strerror}", hint="the kernel shows it to root alone: boot leaves a copy"
        ) from None
    if len(data) > limit:
        raise CollectionError(f"{path} has more than {limit} bytes")
    return data
