"""Locks from signed indexes, over HTTP, with apt's own verification; every refusal has a control that is accepted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from locks_archive import PLANS

from appliance.image.errors import (
    ArchiveUnreachableError,
    IndexDiffersError,
    LockError,
    ResolveError,
    SignatureRefusedError,
)
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_make import make_locks
from appliance.image.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from locks_archive import Key, Server, SmallArchive


def made(checkout: Path, server: Server, key: Key) -> dict[str, PackageLock]:
    return resolve(checkout / "image/packages", server.archives, plans=PLANS, keyring=key.public)


def names(lock: PackageLock) -> dict[str, str]:
    return {item.package: item.version for item in lock.packages}


def test_a_lock_holds_what_apt_installs(checkout: Path, server: Server, key: Key, archive: SmallArchive) -> None:
    locks = made(checkout, server, key)
    base = locks["base"]
    assert names(base) == {
        "base-files": "1.0",
        "coreutils": "9",
        "libc-small": "2.1",  # the first alternative
        "kernel": "6.12.2",  # the security archive has the newer one
        "initrd-tool": "1:3.0~rc1+b2",
    }
    kernel = next(item for item in base.packages if item.package == "kernel")
    assert (kernel.suite, kernel.component, kernel.archive) == ("trixie-security", "main", "debian-security")
    for item in base.packages:
        data = (archive.root / item.archive / item.filename).read_bytes()
        assert (item.sha256, item.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert names(locks["engine"]) == {"engine": "1", "blob": "5"}  # base is always beside it
    assert names(locks["firmware"]) == {"firmware": "2025"}  # alone: what it depends on is not asked for
    assert dict(base.indexes)["trixie"] == "Thu, 01 Jan 2026 00:00:00 UTC"


def test_no_lock_names_a_host_and_the_text_is_stable(checkout: Path, server: Server, key: Key) -> None:
    first, second = (made(checkout, server, key) for _ in range(2))
    for name, lock in first.items():
        text = lock.to_bytes()
        assert text == second[name].to_bytes()
        assert b"://" not in text
        assert b"127.0.0.1" not in text
        assert PackageLock.parse(text) == lock
        rows = [line for line in text.decode().splitlines() if '"sha256"' in line]
        assert len(rows) == len(lock.packages)
        assert all(json.loads(row.strip().rstrip(",")) for row in rows)


def test_a_release_file_of_another_key_is_refused(
    checkout: Path, server: Server, key: Key, stranger: Key, archive: SmallArchive
) -> None:
    archive.publish(stranger)
    with pytest.raises(SignatureRefusedError):
        made(checkout, server, key)
    assert made(checkout, server, stranger)  # control: the same files, the keyring that has the key


def test_a_release_file_changed_after_signing_is_refused(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    signed = archive.root / "debian/dists/trixie/InRelease"
    text = signed.read_text()
    assert made(checkout, server, key)  # control
    signed.write_text(text.replace("Label: Test", "Label: Tests"))
    with pytest.raises(SignatureRefusedError):
        made(checkout, server, key)


def test_an_unsigned_release_file_is_refused(checkout: Path, server: Server, key: Key, archive: SmallArchive) -> None:
    signed = archive.root / "debian/dists/trixie/InRelease"
    signed.unlink()  # Release is there, its signature is not
    with pytest.raises((SignatureRefusedError, ArchiveUnreachableError)) as caught:
        made(checkout, server, key)
    assert "trixie" in str(caught.value)


def test_an_index_changed_after_signing_is_refused(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    assert made(checkout, server, key)  # control
    for path in archive.index("trixie").parent.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(IndexDiffersError):
        made(checkout, server, key)


def test_an_archive_that_does_not_answer_is_told_from_one_that_lies(checkout: Path, server: Server, key: Key) -> None:
    archives = replace(server.archives, acquire=(("Retries", "0"),))
    server.shutdown()
    server.server_close()
    with pytest.raises(ArchiveUnreachableError):
        resolve(checkout / "image/packages", archives, plans=PLANS, keyring=key.public)


def test_a_package_that_does_not_exist_is_named(checkout: Path, server: Server, key: Key) -> None:
    (checkout / "image/packages/initrd.list").write_text("no-such-package\n")
    with pytest.raises(ResolveError, match="no-such-package"):
        made(checkout, server, key)


def test_components_that_a_plan_does_not_allow_are_not_seen(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    (checkout / "image/packages/initrd.list").write_text("driver\n")
    archive.add("trixie", "driver", "550", component="non-free")
    archive.publish()
    with pytest.raises(ResolveError, match="driver"):
        made(checkout, server, key)
    archive.add("trixie", "driver", "550")
    archive.publish()
    assert names(made(checkout, server, key)["base"])["driver"] == "550"  # control: in main


def test_making_locks_again_tells_the_difference(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    def make() -> list[str]:
        return make_locks(checkout, server.archives, plans=PLANS, keyring=key.public)

    first = make()
    assert "base: new lock, 5 packages" in first[0]
    files = {path: path.read_bytes() for path in (checkout / "image/lock").iterdir()}
    assert make() == []
    assert files == {path: path.read_bytes() for path in (checkout / "image/lock").iterdir()}

    archive.add("trixie-security", "kernel", "6.12.3", depends="libc-small, fresh")
    archive.add("trixie", "fresh", "1")
    archive.publish()
    (checkout / "image/packages/initrd.list").write_text("")
    words = make()
    assert words[0].startswith("  + fresh 1 (")
    assert words[1] == "  - initrd-tool 1:3.0~rc1+b2"
    assert words[2] == "  ~ kernel 6.12.2 → 6.12.3 (trixie-security/main)"
    assert words[3].startswith("base: 1 changed, 1 came, 1 went; 5 packages, ")
    assert names(read_lock(checkout / "image/lock/base.json"))["kernel"] == "6.12.3"


def test_the_same_version_with_other_contents_is_never_locked(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    make_locks(checkout, server.archives, plans=PLANS, keyring=key.public)
    before = (checkout / "image/lock/engine.json").read_bytes()
    archive.add("trixie", "engine", "1", depends="blob", text="another engine")
    archive.publish()
    with pytest.raises(LockError, match="engine 1 has other contents than are locked"):
        make_locks(checkout, server.archives, plans=PLANS, keyring=key.public)
    assert (checkout / "image/lock/engine.json").read_bytes() == before
    archive.add("trixie", "engine", "1.1", depends="blob", text="another engine")  # control: a version of its own
    archive.publish()
    words = make_locks(checkout, server.archives, plans=PLANS, keyring=key.public)
    assert words[0].startswith("  ~ engine 1 → 1.1")


def test_an_archive_that_goes_back_in_time_is_refused(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    """A replayed archive: everything in it is signed, and it lacks the last security update."""

    def make(*, older: bool = False) -> list[str]:
        return make_locks(checkout, server.archives, plans=PLANS, keyring=key.public, older=older)

    archive.date = "Fri, 02 Jan 2026 00:00:00 UTC"
    archive.publish()
    make()
    before = (checkout / "image/lock/base.json").read_bytes()
    archive.withdraw("trixie-security", "kernel")
    archive.date = "Thu, 01 Jan 2026 00:00:00 UTC"
    archive.publish()
    with pytest.raises(LockError, match="the lock was made from one of Fri, 02 Jan 2026") as caught:
        make()
    assert "--older" in caught.value.hint
    assert (checkout / "image/lock/base.json").read_bytes() == before
    archive.date = "Sat, 03 Jan 2026 00:00:00 UTC"  # control: a later day; the older version is pointed out
    archive.publish()
    assert make()[0] == "  ~ kernel 6.12.2 → 6.12.1 (trixie/main, OLDER than what is locked)"
    archive.date = "Thu, 01 Jan 2026 00:00:00 UTC"
    archive.publish()
    assert make(older=True) == []


def test_an_archive_whose_indexes_ran_out_is_refused(
    checkout: Path, server: Server, key: Key, archive: SmallArchive
) -> None:
    archive.valid_until = "Fri, 02 Jan 2026 00:00:00 UTC"
    archive.publish()
    with pytest.raises(ResolveError, match="expired") as caught:
        made(checkout, server, key)
    assert "--archive URL" in caught.value.hint
    unchecked = replace(server.archives, acquire=(("Check-Valid-Until", "false"),))
    words: list[str] = []
    lists = checkout / "image/packages"
    assert resolve(lists, unchecked, plans=PLANS, keyring=key.public, say=words.append)  # control: as a machine may say
    assert "told not to look at the age" in words[0]
