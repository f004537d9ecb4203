"""A release's disk in the form that somebody's import takes. The same release gives the same bytes, anywhere, any day.

``raw``      the disk as it was built; any hypervisor.
``qcow2``    QEMU's own form, version 3; OpenStack, libvirt, Proxmox.
``vhd``      a fixed VHD of whole MiB; Azure (page blob upload).
``gcp-tar``  ``disk.raw`` of whole GiB, sparse in the old GNU form, in a gzipped tar archive; Google Cloud.

Where a consumer wants a rounder size the disk grows by zeros and its second partition table moves to the end: PCR 5
alone follows.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shlex
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from appliance.image.artefacts import DISK, describe
from appliance.image.errors import ImageError, MissingToolError
from appliance.image.gpt import HEAD_SECTORS, SECTOR, encode_head, encode_tail, parse_table, resized
from appliance.image.release import open_artefact, require_digest
from appliance.image.sparse_tar import GRAIN, end, header
from appliance.image.vhd import MAX_BYTES as VHD_MAX_BYTES
from appliance.image.vhd import footer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from appliance.image.release import Release

CHUNK_BYTES = 4 << 20
HEAD_BYTES = HEAD_SECTORS * SECTOR
TAIL_BYTES = HEAD_BYTES - SECTOR
MIB, GIB = 1 << 20, 1 << 30
GZIP_LEVEL = 6
_ZEROS = bytes(GRAIN)


class ExportError(ImageError):
    """A release could not be written in another form."""


class Form(StrEnum):
    """A form of a disk."""

    raw = "raw"
    qcow2 = "qcow2"
    vhd = "vhd"
    gcp_tar = "gcp-tar"


SUFFIX = {Form.raw: ".raw", Form.qcow2: ".qcow2", Form.vhd: ".vhd", Form.gcp_tar: ".tar.gz"}
ROUNDED_TO = {Form.raw: SECTOR, Form.qcow2: SECTOR, Form.vhd: MIB, Form.gcp_tar: GIB}
NEXT = {
    Form.raw: "write it with chrysalis image flash, or attach it to a virtual machine with UEFI and a TPM",
    Form.qcow2: "import it into an image store as a UEFI image, with a TPM",
    Form.vhd: "upload it as a page blob and make a confidential VM image (generation 2) of it",
    Form.gcp_tar: "upload it to a bucket and make an image with guest OS features UEFI_COMPATIBLE, TDX_CAPABLE",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was made: where, its length, its SHA-256 in hex, and the size of the disk inside, in bytes."""

    path: Path
    size: int
    sha256: str
    disk: int


def export(
    release: Release,
    form: Form,
    output: Path,
    report: Callable[[str, int, int], None],
    *,
    tell: Callable[[str], None] = lambda _line: None,
) -> Exported:
    """Write a release's disk in another form.

    Args:
        release: The release, its signature checked.
        form: The form.
        output: The file to make, or a directory for a file of the usual name.
        report: Told the step in words, bytes done, and bytes in all.
        tell: Told each command that is run, as a shell takes it.

    Raises:
        ReleaseError: The disk's file is not the manifest's.
        ExportError: The file exists, cannot be written, or the disk is too large for the form.
        MissingToolError: The form needs qemu-img, which is not installed.
    """
    entry = release.manifest.artefact(DISK)
    size = -(-entry.size // ROUNDED_TO[form]) * ROUNDED_TO[form]
    if form is Form.vhd and size > VHD_MAX_BYTES:
        raise ExportError(f"a disk of {size} bytes, a fixed VHD holds {VHD_MAX_BYTES}")
    if output.is_dir():
        manifest = release.manifest
        profile = f"{manifest.profile}-debug" if manifest.debug else manifest.profile
        output /= f"{manifest.image_id}-{profile}-{manifest.release}{SUFFIX[form]}"
    with _made(output) as path:
        match form:
            case Form.raw:
                _write_raw(path, disk(release, size, report))
            case Form.vhd:
                _write_raw(path, disk(release, size, report))
                created = release.manifest.source_date_epoch
                identity = uuid.UUID(bytes=release.digest[:16], version=4).bytes
                with path.open("ab") as handle:
                    handle.write(footer(size, created, identity))
            case Form.qcow2:
                _write_qcow2(path, release, report, tell)
            case Form.gcp_tar:
                _write_tar(path, release, size, report)
    made = describe(output)
    return Exported(output, made.size, made.sha256, size)


def disk(release: Release, size: int, report: Callable[[str, int, int], None]) -> Iterator[tuple[int, bytes]]:
    """The disk, grown to ``size`` bytes, as offset and data; what is not given is zero.

    Raises:
        ReleaseError: What was read is not the manifest's disk; told at the end, when all of it was read.
    """
    entry = release.manifest.artefact(DISK)
    with open_artefact(release, entry) as source:
        head = source.read(HEAD_BYTES)
        table = resized(parse_table(head, entry.size // SECTOR), size // SECTOR)
        whole = hashlib.sha256(head)
        yield 0, encode_head(table)
        position, before_tail = HEAD_BYTES, entry.size - TAIL_BYTES
        while data := source.read(CHUNK_BYTES):
            whole.update(data)
            yield position, data[: max(before_tail - position, 0)]
            position += len(data)
            report("exporting", position, entry.size)
        require_digest(entry, whole.hexdigest())
        yield size - TAIL_BYTES, encode_tail(table)


@contextmanager
def _made(output: Path) -> Iterator[Path]:
    """A file beside the wanted one, which takes its name when all of it is there."""
    if output.exists():
        raise ExportError(f"{output} exists", hint="name another file with --output, or remove it")
    part = output.with_name(f".{output.name}.part")
    try:
        yield part
        part.replace(output)
    except OSError as error:
        raise ExportError(f"{output}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _write_raw(path: Path, pieces: Iterator[tuple[int, bytes]]) -> None:
    """Write a disk; zeros are left out where the file system can."""
    length = 0
    with path.open("wb") as handle:
        for offset, data in pieces:
            length = offset + len(data)
            for start, piece in _not_zero(offset, data):
                handle.seek(start)
                handle.write(piece)
        handle.truncate(length)
        handle.flush()
        os.fsync(handle.fileno())


def _not_zero(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The runs of grains that are not all zero; grains are counted from the disk's beginning."""
    position, run = 0, 0
    while position < len(data):
        length = min(GRAIN - (offset + position) % GRAIN, len(data) - position)
        if data[position : position + length] == _ZEROS[:length]:
            if run < position:
                yield offset + run, data[run:position]
            run = position + length
        position += length
    if run < len(data):
        yield offset + run, data[run:]


def _write_qcow2(
    path: Path, release: Release, report: Callable[[str, int, int], None], tell: Callable[[str], None]
) -> None:
    """By QEMU's own converter, one request at a time: its allocation order, and so the file, is always the same."""
    for _ in disk(release, release.manifest.artefact(DISK).size, report):
        pass  # the converter reads the file by itself: its digest first
    source, made = str(release.path(DISK)), str(path)
    convert = ("convert", "-m", "1", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1")
    _run(["qemu-img", *convert, source, made], tell)
    _run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, made], tell)


def _write_tar(path: Path, release: Release, size: int, report: Callable[[str, int, int], None]) -> None:
    """The map of what is not zero stands before the data, so the disk is written first and read from there."""
    scratch = path.with_name(f"{path.name}.disk")
    try:
        _write_raw(scratch, disk(release, size, report))
        pieces = list(_pieces(scratch, size))
        with (
            scratch.open("rb") as source,
            path.open("wb") as raw,
            gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed,
        ):
            written = packed.write(header("disk.raw", size, pieces, release.manifest.source_date_epoch))
            total = sum(length for _, length in pieces)
            for offset, length in pieces:
                source.seek(offset)
                for start in range(0, length, CHUNK_BYTES):
                    written += packed.write(source.read(min(CHUNK_BYTES, length - start)))
                    report("compressing", min(written, total), total)
            packed.write(end(written))
    finally:
        scratch.unlink(missing_ok=True)


def _pieces(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """What of a disk is not zero, by content: offset and length of each run of whole grains."""
    run: tuple[int, int] | None = None
    with path.open("rb") as handle:
        position = 0
        while position < size:
            position = _after_hole(handle.fileno(), position, size)
            handle.seek(position)
            data = handle.read(CHUNK_BYTES)
            for start, piece in _not_zero(position, data):
                if run is not None and sum(run) == start:
                    run = run[0], run[1] + len(piece)
                else:
                    if run is not None:
                        yield run
                    run = start, len(piece)
            position += len(data)
    if run is not None:
        yield run


def _after_hole(descriptor: int, position: int, size: int) -> int:
    """Where the next data may be, in whole grains; a hole needs no reading."""
    try:
        found = os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise
    return found - found % GRAIN


def _run(command: list[str], tell: Callable[[str], None]) -> None:
    tell(shlex.join(command))
    try:
        done = subprocess.run(  # noqa: S603 - fixed words and paths of this room, printed before it runs
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise MissingToolError(f"{command[0]} is not installed", hint="apt install qemu-utils") from None
    if done.returncode != 0:
        raise ExportError(f"{command[0]} {command[1]}: {done.stderr.decode(errors='replace').strip()[-400:]}")
