"""Copying and hashing a volume's data: in order, in processes, with memory that does not depend on the model's size.

In: a layout to write, or a file to read. Out: the digests of its blocks, in order. Each job is one range of the data:
a process gathers it, writes it (when packing), hashes its blocks and gives back the digests, a 128th of what it read.
Processes, not threads: a block is hashed in microseconds, and threads would spend longer on the interpreter's lock.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from appliance.model.errors import CheckpointError, PackError
from appliance.model.formats import BLOCK
from appliance.model.layout import Piece
from appliance.model.verity import DIGEST, digests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.model.layout import Layout

CHUNK: Final = 1 << 23
"""Bytes of one job: 8 MiB."""
_WORTH_PROCESSES: Final = 8 * CHUNK
"""Below this, starting processes takes longer than it saves."""
_MAX_WORKERS: Final = 16

Run = Callable[["Job"], "Future[bytes]"]


@dataclass(frozen=True, slots=True)
class Job:
    """One range of the data.

    Attributes:
        offset: Of the range.
        length: A whole number of blocks.
        pieces: What it consists of; zero elsewhere.
        target: The file that gets it at ``offset``; None when it is only hashed.
        salt: Hashed before each block.
    """

    offset: int
    length: int
    pieces: tuple[Piece, ...]
    target: Path | None
    salt: bytes

    def run(self) -> bytes:
        """Do it; the digests of its blocks.

        Raises:
            CheckpointError: A file became shorter or longer since the volume was planned.
            OSError: A file cannot be read or written.
        """
        buffer = bytearray(self.length)
        view = memoryview(buffer)
        for piece in self.pieces:
            part = view[piece.at : piece.at + piece.length]
            if isinstance(piece.content, bytes):
                part[:] = piece.content
            else:
                _read(piece.content, piece.start, part)
        if self.target is not None:
            _write(self.target, self.offset, view)
        return digests(view, self.salt)


def write(
    layout: Layout, target: Path, salt: bytes, *, workers: int | None = None, done: Callable[[int], None]
) -> Iterator[bytes]:
    """Write a layout's data into an existing file; gives the digests of its blocks in order.

    Args:
        layout: What to write.
        target: The file; it is not truncated, and what is zero in the layout must be zero in it or within a job.
        salt: Hashed before each block.
        workers: Processes; as many as there are processors by default.
        done: Told how many bytes are finished.

    Raises:
        CheckpointError: A source changed its size meanwhile.
        PackError: A file cannot be read or written.
    """
    ranges = ((at, min(CHUNK, layout.size - at)) for at in range(0, layout.size, CHUNK))
    jobs = (Job(at, size, tuple(layout.pieces(at, size)), target, salt) for at, size in ranges)
    return _run(jobs, layout.size, workers, done)


def read(
    source: Path, size: int, salt: bytes, *, workers: int | None = None, done: Callable[[int], None]
) -> Iterator[bytes]:
    """Hash the first ``size`` bytes of a file (a whole number of blocks); gives the digests of its blocks in order.

    Raises:
        CheckpointError: The file became shorter.
        PackError: It cannot be read.
    """
    ranges = ((at, min(CHUNK, size - at)) for at in range(0, size, CHUNK))
    jobs = (Job(at, length, (Piece(0, at, length, source),), None, salt) for at, length in ranges)
    return _run(jobs, size, workers, done)


def _run(jobs: Iterator[Job], size: int, workers: int | None, done: Callable[[int], None]) -> Iterator[bytes]:
    count = min(workers or len(os.sched_getaffinity(0)), _MAX_WORKERS) if size >= _WORTH_PROCESSES else 1
    finished = 0
    try:
        with _runner(count) as run:
            waiting = deque(run(job) for job in islice(jobs, 2 * count))
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(run(job) for job in islice(jobs, 1))
                finished += len(found) // DIGEST
                done(finished * BLOCK)
                yield found
    except OSError as error:
        raise PackError(f"{error.filename or 'the volume'}: {error.strerror}", hint=advice(error)) from None
    except BrokenProcessPool:
        raise PackError("a process that hashed ended", hint="is there enough memory? each needs about 40 MB") from None


def advice(error: OSError) -> str:
    """What to do about a file that cannot be read or written."""
    return "free space, or name another place with --output" if error.errno == errno.ENOSPC else ""


@contextmanager
def _runner(count: int) -> Iterator[Run]:
    if count == 1:
        yield _here
        return
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        try:
            yield lambda job: pool.submit(job.run)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _here(job: Job) -> Future[bytes]:
    finished: Future[bytes] = Future()
    finished.set_result(job.run())
    return finished


def _read(path: Path, start: int, part: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        got = 0
        while got < len(part):
            count = file.readinto(part[got:])
            if not count:
                raise CheckpointError(
                    f"{path} ends at byte {start + got}, expected at least {start + len(part)}",
                    hint="it changed meanwhile: wait until nobody writes to it and start again",
                )
            got += count


def _write(path: Path, offset: int, view: memoryview) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        put = 0
        while put < len(view):
            put += file.write(view[put:]) or 0
