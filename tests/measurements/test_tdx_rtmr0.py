"""RTMR0: from raw ACPI tables three of three, and as real machines measured it.

Samples: fortanix/tdx-measure ``tests/fixtures`` (three sets of QEMU's ACPI tables with MRTD and RTMR0; the set
runtime-capture is of a live machine); Dstack-TEE/dstack ``verifier/fixtures`` (two quotes with logs) and
google/go-eventlog ``testdata/eventlogs/ccel/CCEL_unpadded.data.bin`` (a log of firmware before 2024.11 that knows
secure boot). Where a sample has no ACPI tables, the three digests of ACPI are taken from its log and said to be so;
everything else is computed. Neither a log nor a quote is ever handed to the predictor.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tdvf_support as made

from attestation.tdx import parse_quote, without_padding
from measurements import acpi, tdvf, tdx, tdx_firmware, tdx_rtmr0
from measurements.artefacts import Artefacts
from measurements.eventlog import read_tcg2
from measurements.prediction import replay
from measurements.shape import Firmware, Qemu, Shape

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SampleTable

    from measurements.prediction import PredictedEvent

FORTANIX = "fortanix__tdx-measure/tests/fixtures"
DSTACK = "Dstack-TEE__dstack/dstack/verifier/fixtures"
DSTACK_MEMORY = (
    (made.TEMPORARY, 0x810000, 0x10000),
    (made.TEMPORARY, 0x80B000, 0x2000),
    (made.TD_HOB, 0x809000, 0x2000),
    (made.TEMPORARY, 0x800000, 0x6000),
)
"""Memory that dstack's firmware takes: the machine's configuration states it (``tdvf.td_hob`` of its measurement)."""
ACPI = slice(8, 11)
PLAIN = tdx_firmware.Build(secure_boot=False, named_kernel=False, programs=tdx_firmware.USUAL_PROGRAMS)


def shape(memory_mib: int = 2048, *, version: str | None = "2025.02-8+deb13u1", qemu: str = "10.1.0") -> Shape:
    """A machine that boots directly."""
    return Shape(
        name="machine",
        platform="tdx",
        boot="direct",
        vcpus=2,
        memory_mib=memory_mib,
        qemu=Qemu(version=qemu),
        firmware=Firmware(name="OVMF.fd", version=version),
    )


@pytest.mark.parametrize("name", ["canonical-defaults", "q35-with-hpet", "runtime-capture"])
def test_raw_acpi_tables_give_the_register(name: str, shared: Path, sample_table: SampleTable) -> None:
    folder = shared / "samples" / FORTANIX / name
    machine = json.loads((folder / "metadata.json").read_text())["boot_config"]
    expected = json.loads((folder / "expected.json").read_text())["rtmr0"]
    artefacts = Artefacts(firmware=made.firmware(), acpi=acpi.derive((folder / "acpi_tables.bin").read_bytes()))
    prediction = tdx.predict(artefacts, shape(int(machine["memory"].removesuffix("M")), version="2025.02-3ubuntu2"))
    value = prediction.registers["rtmr0"].value.hex()
    sample_table(name, "fortanix/tdx-measure", f"RTMR0 {expected[:16]}", f"RTMR0 {value[:16]}")
    assert value == expected


def test_a_live_machine_s_firmware_file_and_tables_give_mrtd_and_the_register(shared: Path) -> None:
    folder = shared / "samples" / FORTANIX / "runtime-capture"
    artefacts = Artefacts(firmware=made.found(made.UBUNTU), acpi=acpi.derive((folder / "acpi_tables.bin").read_bytes()))
    values = tdx.predict(artefacts, shape(16384, version="2025.02-3ubuntu2", qemu="9.2.1")).values
    assert {name: values[name].hex() for name in ("mrtd", "rtmr0")} == json.loads(
        (folder / "expected.json").read_text()
    )


def without_acpi(
    memory: int, layout: tdx_firmware.Layout, build: tdx_firmware.Build
) -> tuple[tuple[PredictedEvent, ...], tuple[PredictedEvent, ...]]:
    """Events before and behind those of ACPI."""
    firmware = made.firmware(memory=DSTACK_MEMORY)
    loader = b"".join(
        (1).to_bytes(4, "little") + name.encode().ljust(124, b"\0") for name in (acpi.RSDP_FILE, acpi.TABLES_FILE)
    )
    events = tdx_rtmr0.events(
        tdx_rtmr0.Machine(
            firmware=firmware,
            parsed=tdvf.parse(firmware),
            layout=layout,
            build=build,
            memory=memory,
            acpi=acpi.AcpiTables(b"", b"", loader),
            boot="direct",
        )
    )
    return events[: ACPI.start], events[ACPI.stop :]


@pytest.mark.parametrize(("name", "gib"), [("tdx-lite-getquote", 2), ("quote-report", 64)])
def test_events_of_a_real_quote_but_for_acpi(name: str, gib: int, shared: Path, sample_table: SampleTable) -> None:
    sample = json.loads((shared / "samples" / DSTACK / f"{name}.json").read_text())
    assert json.loads(sample["vm_config"])["memory_size"] == gib * 2**30
    logged = [bytes.fromhex(event["digest"]) for event in json.loads(sample["event_log"]) if event["imr"] == 0]
    before, behind = without_acpi(gib * 2**30, tdx_firmware.layout("2025.02"), PLAIN)
    digests = [event.digest for event in before] + logged[ACPI] + [event.digest for event in behind]
    seen = parse_quote(without_padding(bytes.fromhex(sample["quote"]))).report.rtmr0
    value = replay(digests, "sha384")
    sample_table(name, "Dstack-TEE/dstack", f"RTMR0 {value.hex()[:16]}", f"RTMR0 {seen.hex()[:16]}")
    assert digests == logged
    assert value == seen


def test_events_of_firmware_before_2024_11_that_knows_secure_boot(shared: Path, sample_table: SampleTable) -> None:
    path = shared / "samples" / "google__go-eventlog/testdata/eventlogs/ccel/CCEL_unpadded.data.bin"
    log, _ = read_tcg2(path.read_bytes())
    logged = [event.digests["sha384"] for event in log.events if event.register == 1 and event.extended]
    known = replace(PLAIN, secure_boot=True)
    for gib in (1, 2, 4, 8, 16, 32, 64):  # nothing beside the log says how much memory the machine had
        before, behind = without_acpi(gib * 2**30, tdx_firmware.layout("2024.02-3+tdx1.0"), known)
        if before[0].digest == logged[0]:
            break
    digests = [event.digest for event in before] + logged[ACPI] + [event.digest for event in behind]
    sample_table(path.name, "google/go-eventlog", f"{len(digests)} events", f"{len(logged)} events")
    assert digests[1:] == logged[1:]
