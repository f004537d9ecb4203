"""A capture of ACPI tables as a file: small enough to lie beside a shape, so that an auditor needs no QEMU.

Layout: canonical JSON (keys sorted, no white space, ASCII, no final newline); the three files of QEMU's configuration
device are base64 of a zlib stream (RFC 1950). Everything is bounded, the unpacked lengths too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from measurements.acpi import AcpiTables
from measurements.errors import MeasurementError
from measurements.shape import Digest, Word

if TYPE_CHECKING:
    from measurements.shape import Shape

FORMAT: Final = "chrysalis acpi capture 1"
MAX_FILE_BYTES = 512 * 1024
MAX_TABLES, MAX_ROOT, MAX_LOADER = 4 << 20, 64, 256 * 1024
"""Unpacked, in bytes. QEMU makes 128 KiB, 20 or 36 bytes and 4 KiB, and more for the largest machines only."""

Text = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,512}$")]
_MOVES_TABLES = frozenset({
    "platform", "vcpus", "memory_mib", "cpu", "qemu", "disks", "network", "tpm", "gpus", "devices",
})  # fmt: skip


class AcpiFileError(MeasurementError):
    """A file is no capture of ACPI tables."""


class CaptureFacts(BaseModel):
    """How tables were captured.

    Attributes:
        qemu: Version of the QEMU that built them.
        qemu_sha256: Of its binary.
        machine: Machine type that it made.
        firmware_sha256: Of the firmware that ran: it places the windows that the tables name.
        shape: Name of the shape.
        inputs: :func:`table_inputs` of the shape.
        command: What was started, its directory left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    qemu: Word
    qemu_sha256: Digest
    machine: Word
    firmware_sha256: Digest
    shape: Word
    inputs: Digest
    command: Annotated[tuple[Text, ...], Field(min_length=1, max_length=512, strict=False)]


class Captured(CaptureFacts):
    """Tables and how they were captured."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    tables: AcpiTables

    @property
    def facts(self) -> CaptureFacts:
        """The facts alone."""
        return CaptureFacts(**{name: getattr(self, name) for name in CaptureFacts.model_fields})


class _File(CaptureFacts):
    """The file as it stands."""

    format: Literal["chrysalis acpi capture 1"]
    tables: str
    rsdp: str
    loader: str


def encode(tables: AcpiTables, facts: CaptureFacts) -> bytes:
    """The file."""
    values = facts.model_dump(mode="json") | {
        "format": FORMAT,
        "tables": _pack(tables.tables),
        "rsdp": _pack(tables.rsdp),
        "loader": _pack(tables.loader),
    }
    return _canonical(values)


def parse(content: bytes) -> Captured:
    """Read a file.

    Raises:
        AcpiFileError: Not what :func:`encode` writes, or beyond its bounds.
    """
    if len(content) > MAX_FILE_BYTES:
        raise AcpiFileError(f"a capture of {len(content)} bytes, at most {MAX_FILE_BYTES} are read")
    try:
        values = json.loads(content)
        canonical = _canonical(values) == content
        read = _File.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise AcpiFileError(f"the capture is malformed: {wrong[:400]}") from None
    except (ValueError, RecursionError):
        raise AcpiFileError("the capture is not JSON") from None
    if not canonical:
        raise AcpiFileError("the capture is not written canonically: keys sorted, no white space")
    tables = AcpiTables(
        tables=_unpack("tables", read.tables, MAX_TABLES),
        rsdp=_unpack("rsdp", read.rsdp, MAX_ROOT),
        loader=_unpack("loader", read.loader, MAX_LOADER),
    )
    return Captured(**{name: getattr(read, name) for name in CaptureFacts.model_fields}, tables=tables)


def table_inputs(shape: Shape) -> str:
    """SHA-256, as hex, of what of a shape moves the tables; how it boots and what it is called does not."""
    values = shape.model_dump(mode="json", include=set(_MOVES_TABLES))
    return hashlib.sha256(_canonical(values)).hexdigest()


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _unpack(name: str, text: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), limit + 1)
    except (ValueError, binascii.Error, zlib.error):
        raise AcpiFileError(f"{name} of the capture is not base64 of a zlib stream") from None
    if len(content) > limit:
        raise AcpiFileError(f"{name} of the capture has more than {limit} bytes")
    if not content or not unpacker.eof or unpacker.unused_data:
        raise AcpiFileError(f"{name} of the capture is empty, cut off or followed by something")
    return content
