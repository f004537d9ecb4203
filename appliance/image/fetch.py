"""Locked packages into the cache: parallel, resumable by file, each checked against its size and digest.

In: locks and archives. Out: ``<home>/image/cache/debs/<sha256>.deb``. A file enters the cache under its digest only
after it was checked, so a second run needs no network. An input that the archive no longer has is one error, one that
differs is another, and an archive that does not answer a third; nothing is ever replaced by something similar.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from appliance.config.home import home
from appliance.engine.progress import Progress, ignore_progress
from appliance.image.errors import ArchiveUnreachableError, InputDiffersError, InputError, InputGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from appliance.engine.progress import ProgressCallback
    from appliance.image.archive import Archives
    from appliance.image.lock import LockedPackage

_PARALLEL = 8
_ATTEMPTS = 4
_CHUNK = 1 << 18
_TIMES = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NAMED = 3


def cache() -> Path:
    """``<home>/image/cache``, made where needed."""
    path = home() / "image" / "cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


def deb_path(package: LockedPackage, directory: Path) -> Path:
    """Where a package is kept in a cache."""
    return directory / "debs" / f"{package.sha256}.deb"


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_cached(package: LockedPackage, directory: Path) -> bool:
    """Whether the cache has the package, whole and unchanged."""
    path = deb_path(package, directory)
    try:
        return path.stat().st_size == package.size and file_digest(path) == package.sha256
    except OSError:
        return False


async def fetch(
    packages: Iterable[LockedPackage],
    archives: Archives,
    *,
    directory: Path | None = None,
    fallback: Archives | None = None,
    progress: ProgressCallback = ignore_progress,
) -> int:
    """Bring every package into the cache.

    Everything that can be had is fetched before an error is raised, so that a later run only needs the rest.

    Args:
        packages: What is locked; the same package twice is fetched once.
        archives: Where it is.
        directory: The cache; :func:`cache` when not given.
        fallback: A snapshot archive that the caller names, asked for what the first no longer has.
        progress: Told the bytes of the step ``packages``.

    Returns:
        Bytes that were fetched.

    Raises:
        InputDiffersError: A file has another size or digest than is locked.
        InputGoneError: An archive answers, and no longer has a file.
        ArchiveUnreachableError: An archive does not answer.
    """
    place = directory or cache()
    (place / "debs").mkdir(parents=True, exist_ok=True)
    wanted = {item.sha256: item for item in packages}
    total = sum(item.size for item in wanted.values())
    here = await asyncio.to_thread(lambda: {item.sha256 for item in wanted.values() if is_cached(item, place)})
    missing = [item for digest, item in sorted(wanted.items()) if digest not in here]
    run = _Run(archives, fallback, place, progress, total, total - sum(item.size for item in missing))
    run.report("")
    if missing:
        connector = aiohttp.TCPConnector(limit=_PARALLEL)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMES, trust_env=True) as session:
            slots = asyncio.Semaphore(_PARALLEL)
            async with asyncio.TaskGroup() as group:
                for item in missing:
                    group.create_task(run.one(session, slots, item))
    run.finish()
    return sum(item.size for item in missing)


@dataclass(slots=True)
class _Run:
    """One run of :func:`fetch`: where from, where to, and what went wrong."""

    archives: Archives
    fallback: Archives | None
    place: Path
    progress: ProgressCallback
    total: int
    done: int
    failed: list[tuple[LockedPackage, InputError]] = field(default_factory=list)

    def report(self, detail: str) -> None:
        self.progress(Progress("packages", self.done, self.total, "bytes", detail))

    async def one(self, session: aiohttp.ClientSession, slots: asyncio.Semaphore, item: LockedPackage) -> None:
        """Fetch one package; a failure is kept for the end, so that the others are fetched."""
        async with slots:
            try:
                try:
                    await self._from(session, self.archives, item)
                except InputGoneError:
                    if self.fallback is None:
                        raise
                    await self._from(session, self.fallback, item)
            except InputError as error:
                self.failed.append((item, error))
            else:
                self.report(item.deb)

    def finish(self) -> None:
        """Raise what went wrong, the worst kind first, with every package of that kind counted."""
        for kind in (InputDiffersError, InputGoneError, ArchiveUnreachableError, InputError):
            found = [(item, error) for item, error in self.failed if type(error) is kind]
            if found:
                found.sort(key=lambda entry: entry[0])
                rest = len(found) - _NAMED
                words = "; ".join(error.message for _, error in found[:_NAMED])
                raise kind(words + (f"; and {rest} more" if rest > 0 else ""), hint=found[0][1].hint)

    async def _from(self, session: aiohttp.ClientSession, archives: Archives, item: LockedPackage) -> None:
        address = archives.address(item)
        attempts = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(ArchiveUnreachableError),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._download(session, archives, address, item)

    async def _download(
        self, session: aiohttp.ClientSession, archives: Archives, address: str, item: LockedPackage
    ) -> None:
        """One attempt: into a file beside its place, checked, then renamed."""
        try:
            async with session.get(address, proxy=archives.proxy) as response:
                if response.status in _GONE:
                    raise InputGoneError(
                        f"{item.deb} of {item.suite} is gone: {address} answers {response.status}",
                        hint="make the locks afresh and look at the difference (just lock), or name an archive that "
                        "keeps old versions: --snapshot URL",
                    )
                if response.status != HTTPStatus.OK:
                    raise ArchiveUnreachableError(
                        f"{address} answers {response.status} {response.reason}",
                        hint="that says nothing about the package; try again, or name another archive: --archive URL",
                    )
                await self._keep(response.content.iter_chunked(_CHUNK), item, address)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ArchiveUnreachableError(
                f"{address}: {str(error) or type(error).__name__}",
                hint="check the network, or name another archive: --archive URL",
            ) from error
        except OSError as error:
            raise InputError(
                f"{item.deb} cannot be written: {error.strerror}",
                hint="make room, or move everything that is fetched with CHRYSALIS_HOME",
            ) from error

    async def _keep(self, chunks: AsyncIterator[bytes], item: LockedPackage, address: str) -> None:
        """Write what comes, never more than is locked, and give it its place once it was checked."""
        target = deb_path(item, self.place)
        handle, name = tempfile.mkstemp(prefix=".fetch-", dir=target.parent)
        digest, size, counted = hashlib.sha256(), 0, 0
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > item.size:
                        break
                    digest.update(chunk)
                    file.write(chunk)
                    counted += len(chunk)
                    self.done += len(chunk)
                    self.report(item.deb)
            self._check(item, address, size, digest.hexdigest())
            Path(name).chmod(0o644)
            Path(name).replace(target)
        except BaseException:
            self.done -= counted
            Path(name).unlink()
            raise

    @staticmethod
    def _check(item: LockedPackage, address: str, size: int, digest: str) -> None:
        if size == item.size and digest == item.sha256:
            return
        seen = f"SHA-256 {digest}" if size == item.size else f"{size} bytes"
        if size > item.size:
            seen = f"more than {item.size} bytes"
        raise InputDiffersError(
            f"{item.deb} differs: {address} gave {seen}, locked are {item.size} bytes with SHA-256 {item.sha256}",
            hint="it was thrown away; do not build from this archive: the same version has other contents there",
        )
