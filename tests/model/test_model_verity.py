"""The hash tree: the kernel's own tool makes the same one, and its sizes are those of the formula."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import VolumeFormatError
from appliance.model.formats import BLOCK, FORMATS, find
from appliance.model.verity import MAX_DATA_BLOCKS, Geometry, Tree, check_superblock, digests, superblock

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.model.formats import VolumeFormat


def grown(data: bytes, form: VolumeFormat, step: int = 3) -> tuple[bytes, bytes]:
    """Hash area and root hash."""
    geometry = Geometry.of(len(data) // BLOCK)
    area = bytearray(geometry.hash_blocks * BLOCK)
    written = set()

    def emit(offset: int, content: bytes) -> None:
        blocks = set(range(offset, offset + len(content), BLOCK))
        assert not blocks & written
        written.update(blocks)
        area[offset : offset + len(content)] = content

    tree = Tree(geometry, form, emit)
    for at in range(0, len(data), step * BLOCK):
        tree.add(digests(memoryview(data)[at : at + step * BLOCK], form.salt))
    root = tree.finish()
    assert written == set(range(0, len(area), BLOCK))
    return bytes(area), root


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="needs veritysetup (cryptsetup-bin)")
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 130, 128 * 128, 128 * 128 + 1])
def test_veritysetup_makes_the_same(tmp_path: Path, form: VolumeFormat, blocks: int) -> None:
    data = hashlib.shake_128(b"data").digest(2 * BLOCK) * (blocks // 2 + 1)
    data = data[: (blocks - 1) * BLOCK] + bytes([7]) * BLOCK
    (tmp_path / "data").write_bytes(data)
    command = ["veritysetup", "format", f"--salt={form.salt.hex()}", f"--uuid={form.uuid}"]
    paths = [tmp_path / "data", tmp_path / "hash"]
    told = subprocess.run([*command, *paths], check=True, capture_output=True, text=True).stdout
    area, root = grown(data, form, step=50)
    assert area == (tmp_path / "hash").read_bytes()
    assert f"Root hash:      \t{root.hex()}" in told


def test_known_roots() -> None:
    """The same on a machine without veritysetup; the values were compared with it."""
    data = b"".join(bytes([number % 251]) * BLOCK for number in range(300))
    assert {name: grown(data, form)[1].hex() for name, form in FORMATS.items()} == {
        "erofs": "86d6e61e8d6467d966c67c85a1f9bded7df54f7d7deb8dfe204f85c1720d17a2",
        "cocoon-tar": "cf7c19570a75fae158887383580bd6449cf98a1c42214314e4989bc91a3c10dd",
    }


def test_the_salt_is_what_it_says() -> None:
    assert FORMATS["erofs"].salt == hashlib.sha256(b"chrysalis model volume 1").digest()


@given(st.integers(1, MAX_DATA_BLOCKS))
def test_a_size_tells_its_geometry(blocks: int) -> None:
    geometry = Geometry.of(blocks)
    whole = (blocks + geometry.hash_blocks) * BLOCK
    assert Geometry.of_whole(whole) == geometry
    for wrong in (whole + 1, whole - 512):
        with pytest.raises(VolumeFormatError, match="not the size"):
            Geometry.of_whole(wrong)


def test_sizes_between_volumes_are_refused() -> None:
    """Where one more data block needs one more hash block, a size is left out."""
    sizes = {(blocks + Geometry.of(blocks).hash_blocks) * BLOCK for blocks in range(1, 2000)}
    for total in range(2 * BLOCK, max(sizes), BLOCK):
        if total in sizes:
            Geometry.of_whole(total)
        else:
            with pytest.raises(VolumeFormatError):
                Geometry.of_whole(total)
    for size in (0, BLOCK, 2**60):
        with pytest.raises(VolumeFormatError):
            Geometry.of_whole(size)


@pytest.mark.parametrize("blocks", [0, -1, MAX_DATA_BLOCKS + 1])
def test_a_number_of_blocks_that_is_none(blocks: int) -> None:
    with pytest.raises(VolumeFormatError, match="data blocks, expected 1 to"):
        Geometry.of(blocks)


def test_a_tree_of_too_few_blocks_is_not_finished() -> None:
    tree = Tree(Geometry.of(3), FORMATS["erofs"], lambda _offset, _content: None)
    tree.add(bytes(64))
    with pytest.raises(VolumeFormatError, match="2 blocks were hashed, expected 3"):
        tree.finish()


@pytest.mark.parametrize(
    ("offset", "field"),
    [
        (8, "version"),
        (12, "hash type"),
        (16, "uuid"),
        (32, "algorithm"),
        (64, "data block size"),
        (68, "hash block size"),
        (72, "data blocks"),
        (80, "salt size"),
        (88, "salt"),
        (88 + 40, "salt"),
        (84, "padding"),
        (400, "padding"),
        (4095, "padding"),
    ],
)
def test_each_field_of_the_superblock_is_fixed(offset: int, field: str) -> None:
    form = FORMATS["erofs"]
    block = bytearray(superblock(form, 77))
    check_superblock(bytes(block), form, 77)  # control
    block[offset] ^= 1
    with pytest.raises(VolumeFormatError, match=f"superblock: {field} is .*, expected .* for format erofs") as caught:
        check_superblock(bytes(block), form, 77)
    assert caught.value.hint


@given(st.binary(max_size=5000))
def test_any_other_block_is_refused(block: bytes) -> None:
    with pytest.raises(VolumeFormatError):
        check_superblock(block, FORMATS["erofs"], 77)


def test_formats_by_name() -> None:
    assert find("erofs") is FORMATS["erofs"]
    with pytest.raises(VolumeFormatError, match="'ext4', expected one of erofs, cocoon-tar"):
        find("ext4")
