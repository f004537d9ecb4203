"""Collateral that is at hand: handed over, or in files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attestation.collateral.sources import check_platform
from attestation.dcap import MAX_COLLATERAL
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from pathlib import Path


class StaticCollateral:
    """Collateral that was handed over: stapled, bundled or made by the lab."""

    def __init__(self, collateral: bytes) -> None:
        self._collateral = collateral

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return it, whatever the platform: if it is another's, verification says so."""
        check_platform(fmspc, ca)
        return self._collateral


class FileCollateral:
    """One file, or a directory of ``<FMSPC>-<ca>.json``; read again whenever it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Read the platform's file.

        Raises:
            CollateralError: No such file, or it is too long.
        """
        check_platform(fmspc, ca)
        return await asyncio.to_thread(self._load, f"{fmspc}-{ca}.json")

    def _load(self, name: str) -> bytes:
        path = self._path / name if self._path.is_dir() else self._path
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._read.get(path)
            if known and known[0] == stamp:
                return known[1]
            if status.st_size > MAX_COLLATERAL:
                raise CollateralError(f"{path} has {status.st_size} bytes, at most {MAX_COLLATERAL} are read")
            content = path.read_bytes()
        except OSError as error:
            raise CollateralError(
                f"no collateral in {path}: {error.strerror}", hint="fetch it, or name another source"
            ) from None
        if len(self._read) > 64:
            self._read.clear()
        self._read[path] = (stamp, content)
        return content
