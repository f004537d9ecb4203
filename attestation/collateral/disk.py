"""Collateral kept on disk: one file a piece, replaced as a whole, thrown away when damaged, bounded in size.

Nothing of it is trusted, and all of it may be lost: a file that cannot be read is as good as none. A reader never sees
half a file, since a file appears by being renamed; there is no ``fsync``, since what a power cut spoils is found by its
digest and fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from attestation.collateral.entry import MAX_ENTRY, Entry
from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 4096
ABANDONED_S: Final = 600.0
"""Age in seconds from which an unfinished file is taken for what a killed writer left."""
_FILE = re.compile(r"[a-z-]{1,32}\.[0-9a-f]{40}\.cbor")
_UNFINISHED = re.compile(r"\.[a-z-]{1,32}\.[0-9a-f]{40}\.cbor\.\d+\.\d+")


class DiskCache:
    """Pieces of collateral in a directory.

    Args:
        directory: Made when the first piece is written (mode 0700).
        max_bytes: All files together; the least recently used go first.
        max_files: Their number.
        clock: Unix time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._clock = clock
        self._numbers = itertools.count()
        self._failed = False  # whether that was said already: a program without rights here would say it for ever

    def read(self, kind: str, identity: str) -> Entry | None:
        """The piece; None where there is none, or only a damaged one, which is removed."""
        path = self._path(kind, identity)
        entry = self._load(path)
        if entry is None or (entry.kind, entry.identity) != (kind, identity):
            return None
        with contextlib.suppress(OSError):
            os.utime(path, (self._clock(), self._clock()))
        return entry

    def write(self, entry: Entry) -> None:
        """Keep a piece. A disk that is full or read-only costs the cache, never the caller."""
        path = self._path(entry.kind, entry.identity)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{next(self._numbers)}")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with unfinished.open("xb") as file:
                    file.write(entry.encode())
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
            self._evict()
        except OSError as error:
            if not self._failed:
                log.warning("collateral not kept", directory=str(self.directory), reason=error.strerror or "?")
            self._failed = True

    def entries(self) -> Iterator[Entry]:
        """Every piece that can be read, in no order."""
        for path, _ in self._files():
            entry = self._load(path)
            if entry is not None:
                yield entry

    def remove(self, entry: Entry) -> None:
        """Forget a piece."""
        with contextlib.suppress(OSError):
            self._path(entry.kind, entry.identity).unlink()

    def _path(self, kind: str, identity: str) -> Path:
        digest = hashlib.sha256(f"{kind}\0{identity}".encode()).hexdigest()[:40]
        return self.directory / f"{kind}.{digest}.cbor"

    def _load(self, path: Path) -> Entry | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENTRY + 1)
        except OSError:
            return None
        try:
            return Entry.parse(data)
        except EvidenceError as error:
            log.warning("damaged collateral thrown away", file=path.name, reason=error.message)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Our files with their status; what killed writers left is removed on the way."""
        found: list[tuple[Path, os.stat_result]] = []
        try:
            with os.scandir(self.directory) as entries:
                for item in entries:
                    try:
                        status = item.stat(follow_symlinks=False)
                    except OSError:
                        continue  # another process removed it
                    if _FILE.fullmatch(item.name):
                        found.append((Path(item.path), status))
                    elif _UNFINISHED.fullmatch(item.name) and self._clock() - status.st_mtime > ABANDONED_S:
                        with contextlib.suppress(OSError):
                            Path(item.path).unlink()
        except OSError:
            return []
        return found

    def _evict(self) -> None:
        files = sorted(self._files(), key=lambda file: file[1].st_mtime)
        size = sum(status.st_size for _, status in files)
        count = len(files)
        for path, status in files:
            if size <= self._max_bytes and count <= self._max_files:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            size -= status.st_size
            count -= 1
