"""The two forms of data: read back by readers of their own, equal to the reference's tools byte for byte."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checkpoint import Erofs

from appliance.model import CheckpointError, cocoon_tar, erofs
from appliance.model.layout import Layout, Segment, SourceFile

NAMES = st.text("abcXYZ019._-éß√", min_size=1, max_size=120).filter(
    lambda text: text not in {".", ".."} and len(text.encode()) < 256
)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.integers(0, 9000), min_size=1, max_size=40
).map(lambda tree: {name: size for name, size in tree.items() if not any(p in tree for p in parents(name))})


def parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]


def sources(directory: Path) -> list[SourceFile]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return [SourceFile(path.relative_to(directory).as_posix(), path, path.stat().st_size) for path in found]


def written(layout: Layout) -> bytes:
    image = bytearray(layout.size)
    for segment in layout.segments:
        content = segment.content if isinstance(segment.content, bytes) else segment.content.read_bytes()
        image[segment.offset : segment.offset + segment.length] = content
    return bytes(image)


def filled(root: Path, tree: dict[str, int]) -> Path:
    for name, size in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((name.encode() * (size // len(name.encode()) + 1))[:size])
    return root


@given(TREES)
@settings(max_examples=40)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, int]) -> None:
    root = filled(tmp_path_factory.mktemp("tree"), tree)
    files = sources(root)
    image = Erofs(written(erofs.plan(files)))
    expected = {file.name: file.source.read_bytes() for file in files}
    assert image.files() == expected
    assert image.blocks * 4096 == len(image.image)
    with tarfile.open(fileobj=io.BytesIO(written(cocoon_tar.plan(files)))) as tar:
        members = {member.name: member for member in tar.getmembers()}
        packed = {name: tar.extractfile(member) for name, member in members.items() if member.isfile()}
        assert {name.removeprefix("./"): file.read() for name, file in packed.items() if file} == expected
    shutil.rmtree(root)


def test_names_are_in_order_over_many_blocks(tmp_path: Path) -> None:
    """A directory of several blocks is searched by halving, so its names are in the order of their bytes."""
    names = [f"{number:03d}{'n' * (number % 200)}" for number in range(500)] + ["é", "Z", "a" * 255]
    root = filled(tmp_path / "tree", dict.fromkeys(names, 1))
    image = Erofs(written(erofs.plan(sources(root))))
    stored = [name for name, _, _ in image.entries(image.root)]
    assert stored == sorted(stored)
    assert {b".", b".."} | {name.encode() for name in names} == set(stored)
    assert image.inode(image.root)[1] > 3 * 4096


def test_nothing_of_the_machine_is_in_an_inode(tmp_path: Path) -> None:
    root = filled(tmp_path / "tree", {"a/b/c": 5000, "a/d": 0, "e": 4096})
    image = Erofs(written(erofs.plan(sources(root))))
    entries = {name: nid for name, nid, _ in image.entries(image.root)}
    assert entries[b"."] == entries[b".."] == image.root
    mode, _, _, number, when, links = image.inode(image.root)
    assert (mode, number, when, links) == (stat.S_IFDIR | 0o555, 1, 0, 3)
    mode, size, block, number, when, links = image.inode(entries[b"e"])
    assert (mode, size, number, when, links) == (stat.S_IFREG | 0o444, 4096, image.inodes, 0, 1)
    assert block > 0
    inner = {name: nid for name, nid, _ in image.entries(entries[b"a"])}
    assert inner[b".."] == image.root
    assert image.inode(inner[b"d"])[1:3] == (0, 0)


def test_more_than_the_block_numbers_reach_is_refused() -> None:
    erofs.plan([SourceFile("a", Path("a"), 2**43)])  # control: 8 TiB
    with pytest.raises(CheckpointError, match="16 TiB"):
        erofs.plan([SourceFile("a", Path("a"), 2**43), SourceFile("b", Path("b"), 2**43)])


def test_a_layout_has_no_overlap() -> None:
    one, two = Segment(0, 10, b"0123456789"), Segment(10, 5, b"abcde")
    layout = Layout.of([one, two], 4096)
    assert [(piece.at, piece.content) for piece in layout.pieces(8, 4)] == [(0, b"89"), (2, b"ab")]
    assert list(layout.pieces(100, 50)) == []
    with pytest.raises(ValueError, match="begins before"):
        Layout.of([one, Segment(9, 5, b"abcde")], 4096)
    with pytest.raises(ValueError, match="segments end"):
        Layout.of([one, two], 4095)


TREE = {
    "config.json": 300,
    "model.safetensors": 123_456,
    "sub/é.txt": 10,
    "sub-x/a": 512,
    "sub.y/a": 513,
    "n" * 98: 1,
    "n" * 99: 1,
    "n" * 120 + ".txt": 7,
    "deep/" + "d" * 90 + "/" + "e" * 90: 3,
    "empty": 0,
}


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="needs fsck.erofs (erofs-utils)")
def test_erofs_utils_read_it(tmp_path: Path) -> None:
    root = filled(tmp_path / "tree", TREE | {f"many/{number:04d}": number for number in range(600)})
    image = tmp_path / "image"
    image.write_bytes(written(erofs.plan(sources(root))))
    out = tmp_path / "out"
    subprocess.run(["fsck.erofs", f"--extract={out}", image], check=True, capture_output=True)
    assert {file.name: file.source.read_bytes() for file in sources(out)} == {
        file.name: file.source.read_bytes() for file in sources(root)
    }
    damaged = bytearray(image.read_bytes())  # control: the checker does look
    damaged[1152] ^= 0xFF
    image.write_bytes(damaged)
    assert subprocess.run(["fsck.erofs", image], check=False, capture_output=True).returncode


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_the_kernel_mounts_it(tmp_path: Path) -> None:
    if "erofs" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "-q", "erofs"], check=False)
    if "erofs" not in Path("/proc/filesystems").read_text() or not Path("/dev/loop-control").exists():
        pytest.skip("needs a kernel with erofs and loop devices")
    root = filled(tmp_path / "tree", TREE | {f"many/{number:04d}": number for number in range(600)})
    image, point = tmp_path / "image", tmp_path / "mnt"
    image.write_bytes(written(erofs.plan(sources(root))))
    point.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image, point], check=True)
    try:
        assert {file.name: file.source.read_bytes() for file in sources(point)} == {
            file.name: file.source.read_bytes() for file in sources(root)
        }
        assert (point / "many" / "0599").stat().st_mode == stat.S_IFREG | 0o444
        assert not (point / "many" / "0600").exists()
        assert os.statvfs(point).f_blocks * 4096 == image.stat().st_size
    finally:
        subprocess.run(["umount", point], check=True)


def gnu_tar(directory: Path) -> bytes:
    """What the reference's script makes, before its padding."""
    options = [
        "--sort=name",
        "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        "--clamp-mtime",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go+u,go-w",
    ]
    return subprocess.run(
        ["tar", *options, "-C", directory, "-cf", "-", "."], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    ).stdout


def has_gnu_tar() -> bool:
    tar = shutil.which("tar")
    return bool(tar) and b"GNU" in subprocess.run([tar or "", "--version"], capture_output=True, check=False).stdout


@pytest.mark.skipif(not has_gnu_tar(), reason="needs GNU tar")
@pytest.mark.parametrize("padding", [0, 5, 7, 10, 13, 15, 18, 20])
def test_the_tar_is_gnu_tars_then_zeros(tmp_path: Path, padding: int) -> None:
    root = filled(tmp_path / "tree", TREE | {"zeros": padding * 1024})
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (1, 1.5e9))
    root.chmod(0o755)
    reference, ours = gnu_tar(root), written(cocoon_tar.plan(sources(root)))
    assert ours[: len(reference)] == reference
    rest = ours[len(reference) :]
    assert 1 <= len(rest) <= 4096
    assert not any(rest)
    assert len(ours) % 4096 == 0


@pytest.mark.skipif(not has_gnu_tar(), reason="needs GNU tar")
def test_the_headers_of_a_file_beyond_eight_gib(tmp_path: Path) -> None:
    """The size is in a pax header then, and so is the long name: compared up to the content, which is a hole."""
    root = tmp_path / "tree"
    root.mkdir(mode=0o755)
    for name in ("model.safetensors", "x" * 130):
        path = root / name
        path.touch(mode=0o644)
        os.truncate(path, 2**33 + 512)
        with subprocess.Popen(
            ["tar", "--sort=name", "--format=posix", "--clamp-mtime", "--mtime=@0", "--owner=0", "--group=0",
             "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--numeric-owner",
             "--mode=go+u,go-w", "-C", root, "-cf", "-", "."],
            stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            reference = process.stdout.read(512 + 3 * 512)
            process.kill()
        path.unlink()
        head, body, *_ = cocoon_tar.plan([SourceFile(name, path, 2**33 + 512)]).segments[:3]
        assert isinstance(head.content, bytes)
        assert isinstance(body.content, bytes)
        assert head.content + body.content == reference
