"""A signed archive on a local server, for every test of this room."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from locks_archive import Key, Server, SmallArchive, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    missing = [name for name in ("gpg", "apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian packages gnupg, apt, dpkg)")
    made = Key.make(tmp_path_factory.mktemp("keys") / "good")
    yield made
    made.close()


@pytest.fixture(scope="session")
def stranger(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """A key that no keyring of the tests holds."""
    made = Key.make(tmp_path_factory.mktemp("keys") / "stranger")
    yield made
    made.close()


@pytest.fixture
def archive(tmp_path: Path, key: Key) -> SmallArchive:
    made = SmallArchive(tmp_path / "archive", key)
    made.add("trixie", "base-files", "1.0", essential=True)
    made.add("trixie", "coreutils", "9", essential=True, depends="libc-small | libc-other")
    made.add("trixie", "libc-small", "2.1")
    made.add("trixie", "libc-other", "2.1")
    made.add("trixie", "kernel", "6.12.1", depends="libc-small (>= 2)")
    made.add("trixie-security", "kernel", "6.12.2", depends="libc-small (>= 2)")
    made.add("trixie", "initrd-tool", "1:3.0~rc1+b2")
    made.add("trixie", "engine", "1", depends="blob", text="engine")
    made.add("trixie", "blob", "5")
    made.add("trixie", "firmware", "2025", depends="nothing-that-exists")
    made.publish()
    return made


@pytest.fixture
def server(archive: SmallArchive) -> Iterator[Server]:
    with serving(archive.root) as running:
        yield running


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with lists only."""
    lists = tmp_path / "checkout/image/packages"
    lists.mkdir(parents=True)
    (lists / "base.list").write_text("# why\nkernel  # it boots\n")
    (lists / "initrd.list").write_text("initrd-tool\n")
    (lists / "engine.list").write_text("engine\n")
    (lists / "firmware.list").write_text("firmware\n")
    return tmp_path / "checkout"
