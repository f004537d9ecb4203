"""Wheels by a real pip from a real index over HTTP; each refusal with a control."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from locks_archive import Server, serving

from appliance.image.errors import ArchiveUnreachableError, InputDiffersError, InputGoneError, LockFormatError
from appliance.image.fetch_wheels import fetch_wheels, wheel_path, wheelhouse
from appliance.image.lock_wheels import LockedWheel, WheelLock
from appliance.image.resolve_tags import image_tags, platforms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.engine.progress import Progress

TAGS = {"plain": "py3-none-any", "native": "cp313-cp313-manylinux_2_28_x86_64"}


def add(index: Path, name: str, text: str = "") -> LockedWheel:
    """A wheel in a simple index (PEP 503)."""
    folder = index / "simple" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-{TAGS[name]}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in (
            (f"{name}.py", f"# {text}\n"),
            (f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
            (f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAGS[name]}\n"),
            (f"{name}-1.0.dist-info/RECORD", ""),
        ):
            wheel.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), data)
    link = f'<a href="{path.name}">{path.name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    data = path.read_bytes()
    return LockedWheel(name, "1.0", path.name, hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def lock(tmp_path: Path) -> WheelLock:
    return WheelLock.make("test", [add(tmp_path / "index", name) for name in TAGS])


@pytest.fixture
def index(tmp_path: Path, lock: WheelLock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    assert lock.wheels
    with serving(tmp_path / "index") as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        monkeypatch.setenv("PIP_RETRIES", "0")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        yield server


async def test_a_second_run_starts_no_pip(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    """One of the wheels is for Python 3.13 on Linux alone: this Python and machine do not matter."""
    reports: list[Progress] = []
    first = await fetch_wheels(lock, directory=tmp_path / "cache", progress=reports.append)
    assert {path.name for path in first.iterdir()} == {item.filename for item in lock.wheels}
    assert (reports[0].done, reports[-1].done) == (0, lock.size)
    assert {item.detail for item in reports} >= {item.filename for item in lock.wheels}
    assert [item.done for item in reports] == sorted(item.done for item in reports)
    index.asked.clear()
    assert await fetch_wheels(lock, directory=tmp_path / "cache") == first
    assert index.asked == []
    assert wheelhouse(lock, directory=tmp_path / "cache") == first


async def test_only_what_is_missing_is_asked_for(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await fetch_wheels(lock, directory=cache)
    index.asked.clear()
    wheel_path(lock.wheels[0], cache).write_bytes(b"damaged")
    await fetch_wheels(lock, directory=cache)
    assert {path.split("/")[2] for path in index.asked} == {lock.wheels[0].name}


async def test_a_wheel_that_is_gone(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    folder = tmp_path / "index/simple/native"
    page = (folder / "index.html").read_text()
    (folder / "index.html").write_text("<!DOCTYPE html><html><body></body></html>")
    with pytest.raises(InputGoneError, match="no longer offers") as caught:
        await fetch_wheels(lock, directory=tmp_path / "cache")
    assert "just lock" in caught.value.hint
    (folder / "index.html").write_text(page)  # control
    assert await fetch_wheels(lock, directory=tmp_path / "cache")


async def test_a_wheel_that_differs(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    add(tmp_path / "index", "plain", text="another")
    with pytest.raises(InputDiffersError):
        await fetch_wheels(lock, directory=tmp_path / "cache")
    assert not wheel_path(lock.wheels[1], tmp_path / "cache").exists()
    add(tmp_path / "index", "plain")  # control: as it was
    assert await fetch_wheels(lock, directory=tmp_path / "cache")


async def test_an_index_that_does_not_answer(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    index.shutdown()
    index.server_close()
    with pytest.raises(ArchiveUnreachableError):
        await fetch_wheels(lock, directory=tmp_path / "cache")


async def test_without_a_network_what_is_missing_is_named(lock: WheelLock, index: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(InputGoneError, match="is not in the cache"):
        wheelhouse(lock, directory=cache)
    await fetch_wheels(lock, directory=cache)
    path = wheel_path(lock.wheels[0], cache)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data + b"x")
    with pytest.raises(InputDiffersError):
        wheelhouse(lock, directory=cache)
    path.write_bytes(data)  # control
    assert wheelhouse(lock, directory=cache).is_dir()


def test_a_lock_reads_back_and_an_edited_one_is_refused(lock: WheelLock) -> None:
    text = lock.to_bytes()
    assert WheelLock.parse(text) == lock
    assert len([line for line in text.splitlines() if b'"sha256"' in line]) == len(lock.wheels)
    for change in (lambda t: t + b" ", lambda t: t.replace(b"1.0", b"1.1", 1), lambda t: b"{}", lambda t: t[:-9]):
        with pytest.raises(LockFormatError):
            WheelLock.parse(change(text))
    with pytest.raises(LockFormatError, match="plain is locked twice"):
        WheelLock.make("x", [lock.wheels[1], replace(lock.wheels[1], size=1)])


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "A"), ("name", "a/b"), ("version", "1 2"), ("filename", "../x.whl"), ("filename", "x.tar.gz"),
     ("sha256", "0"), ("size", 0), ("size", "1")],
)  # fmt: skip
def test_what_no_index_names_is_refused(lock: WheelLock, field: str, value: object) -> None:
    with pytest.raises(LockFormatError):
        replace(lock.wheels[0], **{field: value})  # type: ignore[arg-type]  # the wrong value is the point


def test_the_images_tags_are_its_own_and_the_best_first() -> None:
    tags = [str(tag) for tag in image_tags()]
    assert tags[0] == "cp313-cp313-manylinux_2_41_x86_64"
    assert tags.index("cp313-cp313-manylinux_2_17_x86_64") < tags.index("cp313-abi3-manylinux_2_41_x86_64")
    assert tags.index("cp39-abi3-manylinux2014_x86_64") < tags.index("py3-none-any")
    for foreign in ("cp312-cp312-manylinux_2_17", "cp313-cp313-manylinux_2_42", "cp313-cp313t-linux"):
        assert f"{foreign}_x86_64" not in tags
    assert platforms()[0] == "manylinux_2_41_x86_64"
