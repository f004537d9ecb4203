"""The lock format: strict, stable, one package a line."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image.errors import LockFormatError
from appliance.image.lock import LockedPackage, PackageLock, read_lock
from appliance.image.lock_lists import parse_list

if TYPE_CHECKING:
    from pathlib import Path

GOOD = LockedPackage(
    package="libstdc++6",
    version="1:14.2.0-19+deb13u1~x",
    architecture="amd64",
    sha256="ab" * 32,
    size=7,
    filename="pool/main/g/gcc-14/libstdc++6_14.2.0-19+deb13u1~x_amd64.deb",
    suite="trixie",
    component="main",
)
NAME = string.ascii_lowercase + string.digits
packages = st.builds(
    LockedPackage,
    package=st.text(f"{NAME}+-.", min_size=1, max_size=9).map("a{}".format),
    version=st.text(f"{NAME}.+~-", max_size=9).map("1:2{}".format) | st.just("0"),
    architecture=st.sampled_from(["amd64", "all"]),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    size=st.integers(1, 2**40),
    filename=st.text(f"{NAME}_+", min_size=1, max_size=9).map("pool/{}.deb".format),
    suite=st.sampled_from(["trixie", "trixie-security"]),
    component=st.sampled_from(["main", "non-free"]),
)


@given(st.lists(packages, max_size=6, unique_by=lambda item: item.deb))
def test_a_lock_reads_back_and_has_one_text(items: list[LockedPackage]) -> None:
    lock = PackageLock.make("x", [("trixie", "a day")], items)
    assert PackageLock.parse(lock.to_bytes()) == lock
    assert PackageLock.make("x", [("trixie", "a day")], reversed(items)).to_bytes() == lock.to_bytes()
    assert len([line for line in lock.to_bytes().splitlines() if b'"sha256"' in line]) == len(items)


def test_the_file_name_of_a_package_escapes_the_epoch() -> None:
    assert GOOD.deb == "libstdc++6_1%3a14.2.0-19+deb13u1~x_amd64.deb"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("package", "../x"), ("package", "X"), ("package", "a\n"), ("version", ""), ("version", "1 2"),
        ("version", "١"),
        ("sha256", "AB" * 32), ("sha256", "ab" * 31), ("size", 0), ("size", True), ("size", "7"),
        ("filename", "/etc/passwd.deb"), ("filename", "pool/../../x.deb"), ("filename", "./x.deb"),
        ("filename", "pool/x.tar"), ("filename", "http://host/x.deb"), ("suite", "a/b"), ("component", ""),
    ],
)  # fmt: skip
def test_what_no_archive_names_is_refused(field: str, value: object) -> None:
    assert replace(GOOD)  # control
    with pytest.raises(LockFormatError):
        replace(GOOD, **{field: value})  # type: ignore[arg-type]  # the wrong value is the point


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"name": "x",', '"name": "x", "more": 1,'),
        lambda text: text.replace('"size": 7', '"size": 7.0'),
        lambda text: text.replace('"package": ', '"package":'),
        lambda text: text.replace(', "component": "main"', ""),
        lambda text: text + "\n",
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "null",
    ],
)  # fmt: skip
def test_a_lock_that_was_edited_is_refused(change: object) -> None:
    text = PackageLock.make("x", [("trixie", "a day")], [GOOD]).to_bytes().decode()
    assert PackageLock.parse(text.encode()).packages == (GOOD,)  # control
    with pytest.raises(LockFormatError):
        PackageLock.parse(change(text).encode())  # type: ignore[operator]  # parametrised functions are objects here


def test_a_lock_has_its_files_name(tmp_path: Path) -> None:
    lock = PackageLock.make("x", [], [GOOD])
    (tmp_path / "x.json").write_bytes(lock.to_bytes())
    assert read_lock(tmp_path / "x.json") == lock
    (tmp_path / "y.json").write_bytes(lock.to_bytes())
    with pytest.raises(LockFormatError, match="expected 'y'"):
        read_lock(tmp_path / "y.json")
    with pytest.raises(LockFormatError, match="just lock"):
        read_lock(tmp_path / "missing.json")


def test_lists_are_names_and_reasons() -> None:
    text = "# all\n  cc  # why\n\naa\nbb\n^libx-[0-9.]+$\n"
    assert parse_list(text, "l") == ("^libx-[0-9.]+$", "aa", "bb", "cc")


@pytest.mark.parametrize("text", ["a b\n", "--option\n", "-o\n", "aa\naa\n", "Über\n", "x=1\n", "$(x)\n"])
def test_a_list_with_anything_else_is_refused(text: str) -> None:
    with pytest.raises(LockFormatError, match=r"l\.list:"):
        parse_list(text, "l.list")


def test_the_digest_is_of_contents_alone() -> None:
    lock = PackageLock.make("x", [("trixie", "a day")], [GOOD])
    assert replace(lock, name="y", indexes=()).digest == lock.digest
    assert PackageLock.make("x", [], [replace(GOOD, sha256="cd" * 32)]).digest != lock.digest
    assert json.loads(lock.to_bytes())["packages"][0]["sha256"] == "ab" * 32
