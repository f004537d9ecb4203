"""What stays in a root: rules, links, libraries; byte code and lists that are the same anywhere."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image.seal.elf import Elf, read_elf
from appliance.image.seal.errors import SealError
from appliance.image.seal.finish import compile_python, date_passwords, list_files
from appliance.image.seal.program import main
from appliance.image.seal.rules import Rules, glob_pattern, matcher
from appliance.image.seal.tree import choose, extract, seal


def elf(needed: tuple[str, ...] = (), runpath: str | None = None, interpreter: str | None = None) -> bytes:
    """A 64-bit ELF file with just what a loader reads (System V ABI: headers, one load segment, a dynamic section)."""
    strings = io.BytesIO(b"\0")
    strings.seek(0, os.SEEK_END)
    offsets = []
    for name in [*needed, *([runpath] if runpath else [])]:
        offsets.append(strings.tell())
        strings.write(name.encode() + b"\0")
    table = strings.getvalue()
    start = 64 + 3 * 56
    interp = (interpreter or "").encode() + b"\0"
    entries = [(1, at) for at in offsets[: len(needed)]]
    if runpath:
        entries.append((29, offsets[-1]))
    entries += [(5, start), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    body = table + interp + dynamic
    headers = [(1, start, start, len(body)), (2, start + len(table) + len(interp), 0, len(dynamic))]
    if interpreter:
        headers.append((3, start + len(table), 0, len(interp)))
    packed = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, at, address, address, size, size, 1) for kind, at, address, size in headers
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
    return (head + packed).ljust(start, b"\0") + body


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return root


def rules(text: str) -> Rules:
    found = Rules()
    found.read(text, "test.rules")
    return found


def left(root: Path) -> set[str]:
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/usr/bin/*", "/usr/bin/ls", True),
        ("/usr/bin/*", "/usr/bin/sub/ls", False),
        ("/usr/lib/**", "/usr/lib/a/b/c", True),
        ("/usr/lib/**.pyc", "/usr/lib/a/b.pyc", True),
        ("/etc/{passwd,group}", "/etc/group", True),
        ("/etc/{passwd,group}", "/etc/groups", False),
        ("/a/lib{kmod,x*}.so.?", "/a/libxyz.so.2", True),
        ("/a/c++.conf", "/a/c++.conf", True),
        ("/a/c++.conf", "/a/ccc.conf", False),
        ("/x{,@}.service", "/x@.service", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(matcher([glob]).fullmatch(path)) is matches


def test_no_globs_match_nothing() -> None:
    assert not matcher([]).fullmatch("")


@given(st.text(alphabet="abc*?{},/+.[]()|\\^$", max_size=12))
def test_a_glob_never_is_more_than_a_pattern(glob: str) -> None:
    try:
        pattern = glob_pattern(glob)
    except RecursionError:  # pragma: no cover - no such text is that deep
        pytest.fail("recursion")
    assert isinstance(pattern, str)


def test_elf_tables_are_read() -> None:
    found = read_elf(elf(("liba.so.1", "libb.so"), "$ORIGIN/x:/y", "/lib64/ld.so"))
    assert found == Elf(("liba.so.1", "libb.so"), ("$ORIGIN/x", "/y"), "/lib64/ld.so")
    assert read_elf(b"#!/bin/sh\n") is None


def test_a_real_program_names_the_c_library() -> None:
    found = read_elf(Path(os.path.realpath(sys.executable)).read_bytes())
    assert found is not None
    assert any(name.startswith("libc.so") for name in found.needed)


@given(st.integers(0, 400), st.binary(max_size=64))
def test_malformed_elf_files_are_refused_by_name(at: int, junk: bytes) -> None:
    data = bytearray(elf(("liba.so",), "/x"))
    data[at : at + len(junk)] = junk
    try:
        read_elf(bytes(data))
    except SealError as error:
        assert "ELF" in str(error)  # noqa: PT017 - most of the changed files are still well-formed


def test_what_a_kept_file_needs_stays_and_the_rest_goes(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "/usr/bin/tool": elf(("libone.so.1",), None, "/lib64/ld-linux-x86-64.so.2"),
            "/usr/bin/sh": elf(("libone.so.1",)),
            "/usr/lib/x86_64-linux-gnu/libone.so.1": "libone.so.1.2",
            "/usr/lib/x86_64-linux-gnu/libone.so.1.2": elf(("libtwo.so",), "$ORIGIN/private"),
            "/usr/lib/x86_64-linux-gnu/private/libtwo.so": elf(("libthree.so",)),
            "/usr/lib/x86_64-linux-gnu/private/libthree.so": elf(),
            "/usr/lib/x86_64-linux-gnu/unused.so": elf(),
            "/usr/lib64/ld-linux-x86-64.so.2": elf(),
            "/lib64": "usr/lib64",
            "/bin": "usr/bin",
            "/usr/share/doc/tool": b"words",
        },
    )
    counts = seal(root, rules("keep /usr/bin/tool\ndirectory /proc\nlink /sbin/init ../bin/tool\n"))
    assert left(root) == {
        "/usr/bin/tool",
        "/usr/lib/x86_64-linux-gnu/libone.so.1",
        "/usr/lib/x86_64-linux-gnu/libone.so.1.2",
        "/usr/lib/x86_64-linux-gnu/private/libtwo.so",
        # libtwo's own search path does not have it; whoever loads libtwo looks there, as systemd's own libraries do
        "/usr/lib/x86_64-linux-gnu/private/libthree.so",
        "/usr/lib64/ld-linux-x86-64.so.2",
        "/lib64",
        "/bin",
        "/sbin/init",
    }
    assert (root / "proc").is_dir()
    assert not (root / "usr/share").exists()
    assert counts["removed"] == 3


def test_a_library_that_is_nowhere_is_an_error_unless_a_bundle_brings_its_own(tmp_path: Path) -> None:
    root = write(tmp_path, {"/usr/bin/tool": elf(("libgone.so",))})
    with pytest.raises(SealError, match=r"/usr/bin/tool needs libgone\.so"):
        choose(root, rules("keep /usr/bin/tool"))
    assert "/usr/bin/tool" in choose(root, rules("bundle /usr/bin/tool")).kept


def test_rules_that_name_nothing_or_are_none_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"/a": b""})
    with pytest.raises(SealError, match="keep /b: nothing of that name"):
        choose(root, rules("keep /b"))
    for line in ("keep", "keep a", "remove /a", "link /a", "keep /a /b"):
        with pytest.raises(SealError, match=r"test\.rules:2"):
            rules(f"keep /a  # fine\n{line}\n")


def test_drop_is_stronger_than_keep(tmp_path: Path) -> None:
    root = write(tmp_path, {"/lib/a.py": b"", "/lib/test/b.py": b""})
    seal(root, rules("keep /lib/**\ndrop /lib/test/**"))
    assert left(root) == {"/lib/a.py"}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = write(tmp_path, {"/a": "b", "/b": "a"})
    with pytest.raises(SealError, match="too many symbolic links"):
        choose(root, rules("keep /a"))


def test_links_stay_inside_the_tree(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"/a": "../../../../etc/passwd", "/etc/passwd": b"inside", "/b": "/etc/passwd"})
    assert choose(root, rules("keep /a")).kept == {"/a", "/etc/passwd"}
    assert choose(root, rules("keep /b")).kept == {"/b", "/etc/passwd"}


def test_extract_copies_and_leaves_the_root_alone(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"/usr/bin/a": elf(("libx.so",)), "/usr/lib/libx.so": elf(), "/usr/b": b"theirs"})
    target = write(tmp_path / "target", {"/usr/b": b"ours"})
    before = list_files(root)
    assert extract(root, rules("keep /usr/bin/a\nkeep /usr/b"), target) == 3
    assert left(target) == {"/usr/bin/a", "/usr/lib/libx.so", "/usr/b"}
    assert (target / "usr/b").read_bytes() == b"ours"
    assert list_files(root) == before


def test_no_file_gives_its_caller_other_rights(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"/bin/mount": b"", "/bin/group": b"", "/bin/plain": b""})
    for name, mode in (("mount", 0o4755), ("group", 0o2755), ("plain", 0o755)):
        (root / "bin" / name).chmod(mode)
    extract(root, rules("keep /bin/*"), tmp_path / "copy")
    seal(root, rules("keep /bin/*"))
    for place in (root, tmp_path / "copy"):
        assert {path.stat().st_mode & 0o7777 for path in (place / "bin").iterdir()} == {0o755}


def test_byte_code_is_the_same_wherever_it_is_made_and_is_not_checked(tmp_path: Path) -> None:
    sources = {
        f"/usr/lib/p/m{number}.py": f"NAME = 'shared'\ndef f{number}(x): return x\n".encode() for number in range(9)
    }
    found = []
    for place in ("one", "another-place"):
        root = write(tmp_path / place, sources)
        compile_python(root, "/usr/lib/p")
        found.append({path.name: path.read_bytes() for path in root.rglob("*.pyc")})
    assert found[0] == found[1]
    assert len(found[0]) == 9
    for content in found[0].values():
        assert struct.unpack_from("<I", content, 4) == (1,)  # PEP 552: hash-based, check_source not set
        assert b"/usr/lib/p/m" in content
        assert str(tmp_path).encode() not in content


def test_passwords_are_dated_like_the_image(tmp_path: Path) -> None:
    path = tmp_path / "shadow"
    path.write_text("root:*:20779:0:99999:7:::\nnobody:!*::::::\nshort\n")
    date_passwords(path, 1767225600)
    assert path.read_text() == "root:*:20454:0:99999:7:::\nnobody:!*::::::\nshort\n"


def test_the_list_names_kind_mode_owner_size_digest_and_target(tmp_path: Path) -> None:
    root = write(tmp_path, {"/d/f": b"content", "/l": "d/f"})
    (root / "d/f").chmod(0o640)
    (root / "d").chmod(0o755)
    owner = f"{os.getuid()}:{os.getgid()}"
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert list_files(root) == (f"/d\tdirectory 0755 {owner}\n/d/f\tfile 0640 {owner} 7 {digest}\n/l\tlink d/f\n")


def test_a_call_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BUILDROOT", str(tmp_path))
    assert main(["both"]) == 2
