"""Exports: what a consumer's import asks for, read by programs of others, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
from typing import TYPE_CHECKING

import disks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image import export as exporting
from appliance.image.export import ExportError, Form, export
from appliance.image.gpt import SECTOR, encode_tail, parse_table
from appliance.image.release import ReleaseError
from appliance.image.sparse_tar import BLOCK, GRAIN, RECORD, end, header, number
from appliance.image.vhd import FOOTER_BYTES, footer, geometry

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.image.release import Release

MIB, GIB = 1 << 20, 1 << 30


def silent(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return disks.write_release(tmp_path / "release")


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("form", Form)
def test_the_same_release_gives_the_same_bytes(form: Form, release: Release, tmp_path: Path) -> None:
    """In another directory, with another time of the file, from a file without holes."""
    if form is Form.qcow2:
        needs("qemu-img")
    first = export(release, form, tmp_path / "first", silent)
    other = disks.write_release(tmp_path / "elsewhere" / "deeper")
    os.utime(other.path("chrysalis.raw"), (1, 1))
    subprocess.run(["cp", "--sparse=always", "chrysalis.raw", "holes"], cwd=other.directory, check=True)
    (other.directory / "holes").replace(other.path("chrysalis.raw"))
    second = export(other, form, tmp_path / "second", silent)
    assert first.sha256 == second.sha256 == hashlib.sha256((tmp_path / "second").read_bytes()).hexdigest()
    assert first.size == (tmp_path / "first").stat().st_size


def test_raw_is_the_disk(release: Release, tmp_path: Path) -> None:
    made = export(release, Form.raw, tmp_path, silent)
    assert made.path == tmp_path / "chrysalis-engine-cpu-7.raw"
    assert made.path.read_bytes() == disks.disk()
    assert made.sha256 == release.manifest.artefact("chrysalis.raw").sha256


def test_qcow2_holds_the_disk(release: Release, tmp_path: Path) -> None:
    needs("qemu-img")
    told: list[str] = []
    made = export(release, Form.qcow2, tmp_path, silent, tell=told.append)
    assert made.path.name == "chrysalis-engine-cpu-7.qcow2"
    assert [line.split()[:2] for line in told] == [["qemu-img", "convert"], ["qemu-img", "compare"]]
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", made.path]))
    assert (info["format"], info["virtual-size"]) == ("qcow2", 5 * MIB)
    head = made.path.read_bytes()[:32]
    assert struct.unpack(">4sI", head[:8]) == (b"QFI\xfb", 3)  # QEMU's docs/interop/qcow2.txt
    assert struct.unpack(">Q", head[24:32]) == (5 * MIB,)
    subprocess.run(["qemu-img", "convert", "-O", "raw", made.path, tmp_path / "back"], check=True)
    assert (tmp_path / "back").read_bytes() == disks.disk()


def odd_release(tmp_path: Path) -> Release:
    """A disk that is not whole MiB, as real ones are not."""
    layout = disks.table(5 * MIB // SECTOR - 500)
    contents = bytearray(disks.disk()[: layout.sectors * SECTOR])
    tail = encode_tail(layout)
    contents[: len(disks.head_of(contents))] = exporting.encode_head(layout)
    contents[-len(tail) :] = tail
    return disks.write_release(tmp_path / "odd", bytes(contents))


def test_vhd_is_what_azure_takes(tmp_path: Path) -> None:
    """Fixed, whole MiB, footer at the end, table moved; checked by hand and by QEMU."""
    release = odd_release(tmp_path)
    made = export(release, Form.vhd, tmp_path / "disk.vhd", silent)
    contents = made.path.read_bytes()
    data, foot = contents[:-FOOTER_BYTES], contents[-FOOTER_BYTES:]
    assert made.disk == len(data) == 5 * MIB
    table = parse_table(disks.head_of(data), len(data) // SECTOR)
    assert data[-len(encode_tail(table)) :] == encode_tail(table)
    for part in table.partitions:
        where = slice(part.first * SECTOR, (part.last + 1) * SECTOR)
        assert data[where] == release.path("chrysalis.raw").read_bytes()[where]
    assert foot[:8] == b"conectix"
    assert struct.unpack_from(">Q", foot, 16) == (2**64 - 1,)
    assert struct.unpack_from(">QQ", foot, 40) == (5 * MIB, 5 * MIB)
    assert struct.unpack_from(">I", foot, 60) == (2,)
    (said,) = struct.unpack_from(">I", foot, 64)
    assert said == ~(sum(foot) - sum(foot[64:68])) & 0xFFFFFFFF
    assert struct.unpack_from(">I", foot, 24) == (release.manifest.source_date_epoch - 946_684_800,)
    needs("qemu-img")
    info = json.loads(subprocess.check_output(["qemu-img", "info", "-f", "vpc", "--output=json", made.path]))
    assert info["virtual-size"] == 5 * MIB
    (tmp_path / "data").write_bytes(data)
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "vpc", str(tmp_path / "data"), str(made.path)]
    assert "identical" in subprocess.check_output(compare, text=True)


def test_two_releases_have_two_identities(release: Release, tmp_path: Path) -> None:
    one = export(release, Form.vhd, tmp_path / "1", silent).path.read_bytes()[-FOOTER_BYTES:]
    other = disks.write_release(tmp_path / "next", release=8)
    two = export(other, Form.vhd, tmp_path / "2", silent).path.read_bytes()[-FOOTER_BYTES:]
    assert one[68:84] != two[68:84]


@given(st.integers(2048, 2**32))
def test_a_disks_geometry_fits_it(sectors: int) -> None:
    """The specification's appendix: never more than the disk, and fields that fit."""
    cylinders, heads, track = geometry(sectors)
    assert cylinders * heads * track <= sectors
    assert 0 < cylinders <= 65535
    assert 4 <= heads <= 16
    assert track in {17, 31, 63, 255}
    assert len(footer(sectors * SECTOR, 0, bytes(16))) == FOOTER_BYTES


def test_the_tar_is_what_google_takes(release: Release, tmp_path: Path) -> None:
    """One member ``disk.raw`` of whole GiB, sparse in the old GNU form; read by GNU tar and by Python."""
    made = export(release, Form.gcp_tar, tmp_path, silent)
    assert made.path.name == "chrysalis-engine-cpu-7.tar.gz"
    assert made.disk == GIB
    assert made.path.read_bytes()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time
    with tarfile.open(made.path) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.size, member.type, member.issparse()) == ("disk.raw", GIB, b"S", True)
        assert member.mtime == release.manifest.source_date_epoch
        file = archive.extractfile(member)
        assert file is not None
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a reader like any other
    needs("tar")
    subprocess.run(["tar", "-xzSf", made.path], cwd=tmp_path, check=True)
    with (tmp_path / "disk.raw").open("rb") as handle:
        assert hashlib.file_digest(handle, "sha256").hexdigest() == digest
        handle.seek(0)
        contents = handle.read(5 * MIB)
        table = parse_table(disks.head_of(contents), GIB // SECTOR)
        handle.seek(GIB - len(encode_tail(table)))
        assert handle.read() == encode_tail(table)
    assert table.partitions == disks.table().partitions
    for part in table.partitions:
        where = slice(part.first * SECTOR, (part.last + 1) * SECTOR)
        assert contents[where] == disks.disk()[where]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=60),
    st.integers(0, 4),
)
def test_every_map_of_holes_is_read_by_another_program(runs: list[tuple[int, int]], rest: int) -> None:
    pieces, contents, position = [], b"", 0
    for hole, length in runs:
        position += hole * GRAIN
        contents += bytes(hole * GRAIN) + bytes([1 + len(pieces) % 255]) * length * GRAIN
        pieces.append((position, length * GRAIN))
        position += length * GRAIN
    contents += bytes(rest * GRAIN)
    data = b"".join(contents[offset : offset + length] for offset, length in pieces)
    archive = header("disk.raw", len(contents), pieces, 7) + data
    archive += end(len(archive))
    assert len(archive) % RECORD == 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (member,) = opened.getmembers()
        file = opened.extractfile(member)
        assert file is not None
        assert file.read() == contents


def test_numbers_beyond_octal() -> None:
    """GNU tar manual, "Extensions": base 256, marked by the first bit."""
    assert number(8**11 - 1) == b"77777777777\0"
    assert number(8**11) == b"\x80" + (8**11).to_bytes(11, "big")
    for value in (0, 8**11 - 1, 8**11, 2**60):
        assert tarfile.nti(number(value)) == value  # type: ignore[attr-defined]  # tarfile's own reader of numbers
    assert len(header("disk.raw", 2**40, [(0, GRAIN)], 0)) == BLOCK


@pytest.mark.parametrize("form", Form)
def test_an_altered_disk_is_not_exported(form: Form, release: Release, tmp_path: Path) -> None:
    if form is Form.qcow2:
        needs("qemu-img")
    contents = bytearray(disks.disk())
    contents[2 * MIB + 5] ^= 1
    release.path("chrysalis.raw").write_bytes(contents)
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(ReleaseError, match="the manifest says"):
        export(release, form, output, silent)
    assert list(output.iterdir()) == []
    release.path("chrysalis.raw").write_bytes(disks.disk())  # control
    export(release, form, output, silent)


def test_a_file_that_exists_is_kept(release: Release, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        export(release, Form.raw, tmp_path / "there", silent)
    assert (tmp_path / "there").read_text() == "mine"


def test_a_missing_converter_is_named(monkeypatch: pytest.MonkeyPatch, release: Release, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(exporting.MissingToolError, match="qemu-img is not installed") as caught:
        export(release, Form.qcow2, tmp_path / "q", silent)
    assert caught.value.hint == "apt install qemu-utils"
    assert not (tmp_path / "q").exists()
