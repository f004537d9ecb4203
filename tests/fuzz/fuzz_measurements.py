"""Targets of measurements: what predictors and explanations read of files from outside."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "measurements"))

import measure_support
import ovmf_support
import tdvf_support
from explain_support import Small, log_of
from fuzz_target import PropertyError, Target

from measurements import acpi, acpi_file, authenticode, firmware_volume, gpt_event, tdvf, tdx_firmware, tpm, uki
from measurements.acpi import AcpiTables
from measurements.acpi_file import CaptureFacts
from measurements.errors import MeasurementError
from measurements.eventlog import encode_tcg2, parse_tcg2
from measurements.explain import explain
from measurements.explain_content import said
from measurements.explain_text import lines
from measurements.linux_boot import filled_in
from measurements.picture import render
from measurements.prediction_file import parse_prediction, to_value
from measurements.register_file import parse_registers
from measurements.shape import parse_shape
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, parse_store, signatures

if TYPE_CHECKING:
    from measurements.acpi_file import Captured

ERRORS = (MeasurementError,)
SHAPE = b"""name = "mine"
platform = "tpm"
vcpus = 2
memory_mib = 2048
tpm = true
devices = ["virtio-rng-pci"]
[qemu]
version = "10.0.7"
[firmware]
name = "ovmf"
"""
BASE = Small().tdx()


def _table(signature: bytes, content: bytes) -> bytes:
    return (signature + struct.pack("<I", 36 + len(content))).ljust(36, b"\1") + content


def _tables() -> bytes:
    facs = (b"FACS" + struct.pack("<I", 64)).ljust(64, b"\0")
    parts = (_table(b"DSDT", b"dsdt"), _table(b"FACP", bytes(208)), _table(b"APIC", b"x" * 12))
    return facs + b"".join(parts) + _table(b"RSDT", bytes(8)) + bytes(100)


def _capture() -> bytes:
    facts = CaptureFacts(
        qemu="10.0.7", qemu_sha256="0" * 64, machine="q35", firmware_sha256="0" * 64, shape="mine", inputs="0" * 64,
        command=("qemu-system-x86_64", "-m"),
    )  # fmt: skip
    return acpi_file.encode(AcpiTables(_tables(), b"RSD PTR ".ljust(20, b"\0"), bytes(4096)), facts)


def _captured(data: bytes) -> Captured:
    """Two streams may unpack to the same tables; once read, a capture stays the same."""
    found = acpi_file.parse(data)
    if acpi_file.parse(acpi_file.encode(found.tables, found.facts)) != found:
        raise PropertyError("a capture that is read otherwise once written")
    return found


def _kernel() -> bytes:
    """A kernel with the header of the boot protocol (Linux ``Documentation/arch/x86/boot.rst``)."""
    image = bytearray(measure_support.pe([(".text", b"kernel" * 1000)]))
    image[0x1F1] = 4
    image[0x202:0x208] = b"HdrS\x0f\x02"
    image[0x210:0x212] = b"\0\1"
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", image, 0x236, 0x3F)
    return bytes(image)


def _explained(data: bytes) -> None:
    """Any log against a prediction: explained, told and drawn, whatever it holds; text stays printable."""
    log = parse_tcg2(data)
    for found in (
        explain(BASE, {**BASE.values, "rtmr0": bytes(48)}, log),
        explain(BASE, {**BASE.values, **_replayed(data)}, log),
    ):
        if not all(line.isprintable() for line in lines(found)):
            raise PropertyError("an explanation with a line that does not print")
        render(found)
    for event in log.events:
        for bank in set(log.banks) & {"sha256", "sha384"}:
            if not said(event, bank).text.isprintable():  # type: ignore[arg-type]  # a bank of ours, as just asked
                raise PropertyError("an event with a text that does not print")


def _replayed(data: bytes) -> dict[str, bytes]:
    log = parse_tcg2(data)
    if "sha384" not in log.banks:
        return {}
    values = log.replay("sha384")
    return {f"rtmr{number}": values.get(number + 1, bytes(48)) for number in (0, 2)}


def _logs() -> list[bytes]:
    texts = {hashlib.sha384(b"debug").digest(): b"debug"}
    return [encode_tcg2(log_of(Small(memory=4096, command_line=b"debug").tdx(), texts), register=1),
            encode_tcg2(log_of(Small().tpm()))]  # fmt: skip


def _prediction(data: bytes) -> Any:
    found = parse_prediction(data)
    if parse_prediction(json.dumps(to_value(found)).encode()) != found:
        raise PropertyError("a prediction that is read otherwise once written")
    return found


def _store() -> bytes:
    certificate = ovmf_support.signature_list(IMAGE_SECURITY, bytes(16) + b"digest")
    return ovmf_support.store((GLOBAL, "PK", certificate), (IMAGE_SECURITY, "db", b""))


TARGETS = (
    Target("tdvf", tdvf.parse, ERRORS, lambda: [tdvf_support.firmware()], max_length=1 << 17),
    Target("firmware-volume", firmware_volume.unpack, ERRORS, lambda: [ovmf_support.firmware()], max_length=1 << 16),
    Target("firmware-build", tdx_firmware.build, ERRORS, lambda: [ovmf_support.firmware()], max_length=1 << 16),
    Target("variable-store", parse_store, ERRORS, lambda: [_store()], max_length=1 << 17),
    Target("signature-list", signatures, ERRORS,
           lambda: [ovmf_support.signature_list(IMAGE_SECURITY, bytes(16) + b"digest")], max_length=4096),
    Target("partition-table", gpt_event.gpt_data, ERRORS, lambda: [ovmf_support.disk()], max_length=1 << 15),
    Target("acpi-tables", acpi.tables_of, ERRORS, lambda: [_tables()], max_length=8192),
    Target("acpi-derived", acpi.derive, ERRORS, lambda: [_tables()], max_length=8192),
    Target("acpi-file", _captured, ERRORS, lambda: [_capture()], max_length=8192),
    Target("shape", lambda data: parse_shape(data.decode("utf-8", "replace")), ERRORS, lambda: [SHAPE]),
    Target("kernel-header", lambda data: filled_in(data, initrd_size=100, command_line="quiet", memory=2 << 30), ERRORS,
           lambda: [_kernel()]),
    Target("image-sections", lambda data: tpm.predict(data, boot="disk"), ERRORS, lambda: [measure_support.uki()],
           max_length=1 << 15),
    Target("image-digest", authenticode.digest, ERRORS, lambda: [measure_support.uki(certificate=b"c" * 64)],
           max_length=1 << 15),
    Target("image-parsed", uki.parse, ERRORS, lambda: [measure_support.uki()], max_length=1 << 15),
    Target("registers", parse_registers, ERRORS,
           lambda: [b"pcr4: 0x" + b"11" * 32, json.dumps({"rtmr0": "22" * 48}).encode()]),
    Target("prediction", _prediction, ERRORS, lambda: [json.dumps(to_value(BASE)).encode()]),
    Target("explained-log", _explained, ERRORS, _logs),
)  # fmt: skip
