"""The file of a capture: read back as it was, the same bytes for the same values, and bounded in both lengths."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements import acpi_file
from measurements.acpi import AcpiTables
from measurements.acpi_file import AcpiFileError, CaptureFacts
from measurements.shape import Qemu, Shape

FACTS = CaptureFacts(
    qemu="7.2.22",
    qemu_sha256="1" * 64,
    machine="q35",
    firmware_sha256="2" * 64,
    shape="tpm-1c-2g-disk",
    inputs="3" * 64,
    command=("qemu-system-x86_64", "-machine", "q35"),
)
TABLES = AcpiTables(b"DSDT" + bytes(4096), b"RSD PTR ", bytes(128))
SHAPE = Shape(name="s", platform="tpm", vcpus=2, memory_mib=4096, qemu=Qemu(version="7.2"), tpm=True)


def written(**changes: Any) -> bytes:
    values = json.loads(acpi_file.encode(TABLES, FACTS)) | changes
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@given(tables=st.binary(min_size=1, max_size=2048), rsdp=st.binary(min_size=1, max_size=36))
def test_what_is_written_is_read(tables: bytes, rsdp: bytes) -> None:
    given_ = AcpiTables(tables, rsdp, bytes(64))
    read = acpi_file.parse(acpi_file.encode(given_, FACTS))
    assert read.tables == given_
    assert read.facts == FACTS


def test_a_file_is_canonical() -> None:
    assert written() == acpi_file.encode(TABLES, FACTS)
    assert b" " not in written().replace(b"chrysalis acpi capture 1", b"")
    with pytest.raises(AcpiFileError, match="canonically"):
        acpi_file.parse(json.dumps(json.loads(written()), indent=1).encode())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "malformed"),
        (b"\xff", "not JSON"),
        (b" " * (acpi_file.MAX_FILE_BYTES + 1), "at most"),
        (written(format="chrysalis acpi capture 2"), "format"),
        (written(more=1), "more"),
        (written(qemu="; rm"), "qemu"),
        (written(inputs="x"), "inputs"),
        (written(command=[]), "command"),
        (written(command=["a\nb"]), "command"),
        (written(tables="!"), "tables of the capture is not base64"),
        (written(tables=base64.b64encode(b"no stream").decode()), "tables of the capture is not base64"),
        (written(tables=packed(b"")), "empty"),
        (written(tables=base64.b64encode(zlib.compress(b"x" * 64)[:-4]).decode()), "cut off"),
        (written(tables=base64.b64encode(zlib.compress(b"x") + b"y").decode()), "followed by something"),
        (written(tables=packed(bytes(acpi_file.MAX_TABLES + 1))), "more than"),
        (written(rsdp=packed(bytes(acpi_file.MAX_ROOT + 1))), "rsdp of the capture has more"),
        (written(loader=packed(bytes(acpi_file.MAX_LOADER + 1))), "loader of the capture has more"),
    ],
)
def test_anything_else_is_refused(content: bytes, said: str) -> None:
    assert acpi_file.parse(written()).tables == TABLES  # the control
    with pytest.raises(AcpiFileError, match=said):
        acpi_file.parse(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(AcpiFileError):
        acpi_file.parse(content)


def test_what_moves_tables_is_in_the_digest_and_nothing_else() -> None:
    before = acpi_file.table_inputs(SHAPE)
    for change in (
        {"platform": "tdx"},
        {"vcpus": 3},
        {"memory_mib": 2048},
        {"cpu": "EPYC-v4"},
        {"qemu": Qemu(version="10.0")},
        {"disks": ("image",)},
        {"network": False},
        {"tpm": False},
        {"gpus": 1},
        {"devices": ("edu",)},
    ):
        assert acpi_file.table_inputs(SHAPE.model_copy(update=change)) != before
    for change in ({"name": "t"}, {"boot": "direct"}, {"firmware": None}, {"instance": "i"}):
        assert acpi_file.table_inputs(SHAPE.model_copy(update=change)) == before
