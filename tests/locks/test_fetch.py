"""Locked packages from a server into the cache and into a flat repository."""

from __future__ import annotations

import resource
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from locks_archive import PLANS, serving

from appliance.image.archive import snapshot
from appliance.image.errors import (
    ArchiveUnreachableError,
    InputDiffersError,
    InputError,
    InputGoneError,
    LockFormatError,
)
from appliance.image.fetch import deb_path, fetch
from appliance.image.fetch_repository import INDEX, combined, make_repository
from appliance.image.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from locks_archive import Key, Server, SmallArchive

    from appliance.engine.progress import Progress
    from appliance.image.lock import LockedPackage, PackageLock


@pytest.fixture
def locks(checkout: Path, server: Server, key: Key) -> dict[str, PackageLock]:
    found = resolve(checkout / "image/packages", server.archives, plans=PLANS, keyring=key.public)
    server.asked.clear()
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def find(lock: PackageLock, name: str) -> LockedPackage:
    return next(item for item in lock.packages if item.package == name)


async def test_a_second_run_asks_nobody(locks: dict[str, PackageLock], server: Server, place: Path) -> None:
    base = locks["base"]
    reports: list[Progress] = []
    assert await fetch(base.packages, server.archives, directory=place, progress=reports.append) == base.size
    assert len(server.asked) == len(base.packages)
    assert (reports[-1].done, reports[-1].total) == (base.size, base.size)
    assert [item.done for item in reports] == sorted(item.done for item in reports)
    server.asked.clear()
    assert await fetch(base.packages, server.archives, directory=place) == 0
    assert server.asked == []


async def test_what_is_gone_is_named_with_both_choices_and_the_rest_is_fetched(
    locks: dict[str, PackageLock], server: Server, place: Path, archive: SmallArchive
) -> None:
    base = locks["base"]
    lost = find(base, "kernel")
    kept = archive.file(lost).read_bytes()
    archive.file(lost).unlink()
    with pytest.raises(InputGoneError, match=r"kernel_6\.12\.2_all\.deb of trixie-security is gone") as caught:
        await fetch(base.packages, server.archives, directory=place)
    assert "just lock" in caught.value.hint
    assert "--snapshot URL" in caught.value.hint
    assert all(deb_path(item, place).exists() for item in base.packages if item is not lost)
    archive.file(lost).write_bytes(kept)  # control: the same, with the file there
    assert await fetch(base.packages, server.archives, directory=place) == lost.size


async def test_a_snapshot_that_the_caller_names_has_what_is_gone(
    locks: dict[str, PackageLock], server: Server, place: Path, archive: SmallArchive,
    tmp_path: Path,
) -> None:  # fmt: skip
    base = locks["base"]
    shutil.copytree(archive.root, tmp_path / "old/archive")
    for name in ("kernel", "libc-small"):
        archive.file(find(base, name)).unlink()
    with serving(tmp_path / "old") as old:
        fallback = snapshot(f"{old.url}/archive/{{archive}}/")
        await fetch(base.packages, server.archives, directory=place, fallback=fallback)
        assert sorted(old.asked) == [
            "/archive/debian-security/pool/main/k/kernel/kernel_6.12.2_all.deb",
            "/archive/debian/pool/main/l/libc-small/libc-small_2.1_all.deb",
        ]


async def test_what_differs_is_no_reason_to_ask_a_snapshot(
    locks: dict[str, PackageLock], server: Server, place: Path, archive: SmallArchive,
    tmp_path: Path,
) -> None:  # fmt: skip
    base = locks["base"]
    shutil.copytree(archive.root, tmp_path / "old")
    changed = find(base, "libc-small")
    data = bytearray(archive.file(changed).read_bytes())
    data[-1] ^= 1
    archive.file(changed).write_bytes(data)
    with serving(tmp_path / "old") as old:
        fallback = snapshot(f"{old.url}/{{archive}}")
        with pytest.raises(InputDiffersError, match=r"libc-small_2\.1_all\.deb differs"):
            await fetch(base.packages, server.archives, directory=place, fallback=fallback)
        assert old.asked == []
    assert not deb_path(changed, place).exists()
    assert list((place / "debs").glob(".fetch-*")) == []


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1]], ids=["longer", "shorter"])
async def test_another_size_differs(
    locks: dict[str, PackageLock],
    server: Server,
    place: Path,
    archive: SmallArchive,
    change: Callable[[bytes], bytes],
) -> None:
    item = find(locks["base"], "kernel")
    archive.file(item).write_bytes(change(archive.file(item).read_bytes()))
    with pytest.raises(InputDiffersError):
        await fetch([item], server.archives, directory=place)


async def test_a_busy_server_is_asked_again_and_a_dead_one_is_another_error(
    locks: dict[str, PackageLock], server: Server, place: Path
) -> None:
    item = find(locks["base"], "kernel")
    path = f"/{item.archive}/{item.filename}"
    server.failures[path] = [503, 502]
    assert await fetch([item], server.archives, directory=place) == item.size
    deb_path(item, place).unlink()
    server.failures[path] = [503] * 20
    with pytest.raises(ArchiveUnreachableError, match="503"):
        await fetch([item], server.archives, directory=place)


async def test_a_damaged_file_of_the_cache_is_fetched_again(
    locks: dict[str, PackageLock], server: Server, place: Path
) -> None:
    item = find(locks["base"], "kernel")
    await fetch([item], server.archives, directory=place)
    deb_path(item, place).write_bytes(b"damaged")
    assert await fetch([item], server.archives, directory=place) == item.size


async def test_a_full_disk_is_told_as_one(locks: dict[str, PackageLock], server: Server, place: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails the same way."""
    item = find(locks["base"], "kernel")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            await fetch([item], server.archives, directory=place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert type(caught.value) is InputError
    assert "CHRYSALIS_HOME" in caught.value.hint
    assert list((place / "debs").iterdir()) == []
    assert await fetch([item], server.archives, directory=place) == item.size  # control


async def test_a_repository_is_the_same_bytes_and_apt_installs_from_it_alone(
    locks: dict[str, PackageLock], server: Server, place: Path, tmp_path: Path
) -> None:
    both = [locks["base"], locks["engine"]]
    packages = combined(both).packages
    for directory in (place, tmp_path / "another"):
        await fetch(packages, server.archives, directory=directory)
    first = make_repository(both, directory=place)
    second = make_repository(reversed(both), directory=tmp_path / "another")
    assert first.name == second.name
    assert (first / INDEX).read_bytes() == (second / INDEX).read_bytes()
    assert {path.name for path in first.iterdir()} == {INDEX, *(item.deb for item in packages)}
    assert make_repository(both, directory=place) == first
    said = simulate(tmp_path / "root", first, "engine", "kernel")
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Inst ")} == {
        "engine", "blob", "kernel", "libc-small", "base-files", "coreutils",
    }  # fmt: skip


def simulate(root: Path, repository: Path, *names: str) -> str:
    """What apt would install into an empty root from this repository."""
    for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg",
                   "var/cache/apt/archives/partial"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("")
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file://{repository} ./\n")
    options = ["-o", f"Dir={root}/", "-o", f"Dir::State::status={root}/var/lib/dpkg/status",
               "-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64"]  # fmt: skip
    for words in (["update"], ["--simulate", "--no-install-recommends", "install", "?essential", *names]):
        done = subprocess.run(["apt-get", *options, *words], capture_output=True, text=True, check=True)
    return done.stdout


async def test_a_repository_needs_every_package_as_it_is_locked(
    locks: dict[str, PackageLock], server: Server, place: Path
) -> None:
    base = locks["base"]
    await fetch(base.packages, server.archives, directory=place)
    item = find(base, "kernel")
    data = deb_path(item, place).read_bytes()
    deb_path(item, place).write_bytes(data[:-1])
    with pytest.raises(InputDiffersError, match="kernel"):
        make_repository([base], directory=place)
    deb_path(item, place).unlink()
    with pytest.raises(InputGoneError, match="not in the cache"):
        make_repository([base], directory=place)
    deb_path(item, place).write_bytes(data)  # control
    assert make_repository([base], directory=place).is_dir()


def test_locks_that_disagree_are_not_combined(locks: dict[str, PackageLock]) -> None:
    base = locks["base"]
    other = replace(find(base, "kernel"), sha256="0" * 64)
    with pytest.raises(LockFormatError, match="locked twice"):
        combined([base, replace(base, name="other", packages=(other,))])
