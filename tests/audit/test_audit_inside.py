"""Where two files differ: the path that a person changed, the section, the byte."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure_support import uki

from appliance.audit.inside import file_difference, listed_difference, most_telling, paths_by_digest, reached

if TYPE_CHECKING:
    from pathlib import Path

SITE = "/usr/lib/chrysalis/lib/python3.13/site-packages"
MODULE = f"{SITE}/appliance/worker/book.py"
CODE = f"{SITE}/appliance/worker/__pycache__/book.cpython-313.pyc"
RECORD = f"{SITE}/chrysalis_appliance_guest-0.1.0.dist-info/RECORD"


def listing(**digests: str) -> str:
    names = {"module": MODULE, "code": CODE, "record": RECORD, "passwd": "/etc/passwd"}
    return "".join(f"{names[name]}\tfile 0644 0:0 10 {digest}\n" for name, digest in digests.items())


def test_the_module_is_named_and_not_what_follows_from_it() -> None:
    one = listing(module="aa", code="aa", record="aa", passwd="aa")
    two = listing(module="bb", code="bb", record="bb", passwd="aa")
    found = listed_difference("chrysalis.root.raw", one, two)
    assert found is not None
    assert found.subject == f"chrysalis.root.raw:{MODULE}"
    assert "10 aa as published" in found.text
    assert "10 bb as rebuilt" in found.text
    assert CODE in found.text
    assert listed_difference("chrysalis.root.raw", one, one) is None


@pytest.mark.parametrize(
    ("first", "second", "words"), [("", "aa", "not in the published"), ("aa", "", "not in the rebuilt")]
)
def test_a_path_that_only_one_has_is_told(first: str, second: str, words: str) -> None:
    one, two = (listing(passwd="aa", **({"module": text} if text else {})) for text in (first, second))
    found = listed_difference("chrysalis.root.raw", one, two)
    assert found is not None
    assert found.path == MODULE
    assert words in found.text


@given(st.sets(st.sampled_from([MODULE, CODE, RECORD, "/etc/passwd", "/init"]), min_size=1))
def test_what_is_derived_is_named_only_where_nothing_else_differs(paths: set[str]) -> None:
    named = most_telling(paths)
    assert named in paths
    sources = {path for path in paths if path not in {CODE, RECORD}}
    assert not sources or named in sources


@pytest.mark.parametrize(
    ("name", "one", "two", "words"),
    [
        ("chrysalis.efi", uki(), uki({".uname": b"6.13.0"}), "section .uname differs"),
        ("chrysalis.efi", uki(), uki(command_line="roothash=1"), "section .cmdline differs"),
        ("chrysalis.raw", b"abcdef", b"abcDef", "the first differing byte is at 3"),
        ("chrysalis.raw", b"abc", b"abcd", "the first differing byte is at 3"),
        ("chrysalis.root.files", b"/b\tfile\n/a\tfile\n", b"/a\tfile\n/b\tfile\n", "the order of its lines differs"),
    ],
)
def test_the_place_in_a_file(tmp_path: Path, name: str, one: bytes, two: bytes, words: str) -> None:
    for directory, data in (("one", one), ("two", two), ("same", one)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_bytes(data)
    found = file_difference(name, tmp_path / "one", tmp_path / "two")
    assert found is not None
    assert found.text == words
    assert file_difference(name, tmp_path / "one", tmp_path / "same") is None
    assert file_difference("other", tmp_path / "one", tmp_path / "two") is None


def test_a_list_names_the_root_and_the_path(tmp_path: Path) -> None:
    for directory, digest in (("one", "aa"), ("two", "bb")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "chrysalis.initrd.files").write_text(f"/init\tfile 0755 0:0 1 {digest}\n")
    found = file_difference("chrysalis.initrd.files", tmp_path / "one", tmp_path / "two")
    assert found is not None
    assert found.subject == "chrysalis.initrd:/init"


def test_a_changed_source_file_is_found_in_the_image_by_name_and_contents(tmp_path: Path) -> None:
    contents = {"appliance/worker/book.py": b"book", "docs/page.md": b"page", "appliance/other.py": b"book"}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    digest = hashlib.sha256(b"book").hexdigest()
    (tmp_path / "chrysalis.root.files").write_text(f"/usr\tdirectory 0755 0:0\n{MODULE}\tfile 0644 0:0 4 {digest}\n")
    found = reached([*contents, "appliance/gone.py"], tmp_path, paths_by_digest(tmp_path))
    assert found == {"appliance/worker/book.py": f"chrysalis.root.raw:{MODULE}"}
