"""The whole predictor: which artefact moves which register, what is said where one is missing, real machines' RTMRs.

Samples: Dstack-TEE/dstack ``verifier/fixtures`` (RTMR1 and RTMR2 of two quotes; digests of kernel, command line and
initrd are those that the machine's configuration states, or for the second quote its log's, as the files themselves
are not there); google/go-eventlog ``testdata/eventlogs/ccel/cos-113-intel-tdx.bin`` (a machine that booted a disk).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import cbor2
import measure_support as images
import pytest
import tdvf_support as made
from test_acpi_tables import tables
from test_tdx_linux_boot import bzimage
from test_tdx_rtmr0 import DSTACK, shape

from appliance.lab.firmware_variables import added
from appliance.lab.secure_boot import SecureBootKeys
from attestation.tdx import parse_quote, without_padding
from measurements import acpi, authenticode, gpt_event, tdx, tdx_firmware, tdx_rtmr1, tpm
from measurements.artefacts import Artefacts, PlainKernel
from measurements.errors import ArtefactError, MeasurementError
from measurements.eventlog import read_tcg2
from measurements.prediction import PredictedEvent, replay
from measurements.shape import Qemu

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SampleTable

    from measurements.prediction import Prediction

IMAGE = images.uki()
PLAIN = PlainKernel(kernel=bzimage(), initrd=b"initrd" * 1000, command_line="console=ttyS0")
REGISTERS = {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid"}
SECURE_BOOT_DRIVER = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
CALLING = hashlib.sha384(b"Calling EFI Application from Boot Option").digest()
SEPARATOR = hashlib.sha384(bytes(4)).digest()
LEAVING = [
    hashlib.sha384(text).digest()
    for text in (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
]


def disk() -> bytes:
    """First sectors of a disk with one partition."""
    entries = (bytes(range(1, 17)) + bytes(range(17, 33)) + struct.pack("<QQQ", 2048, 4095, 0)).ljust(128, b"\0")
    entries = entries.ljust(128 * 128, b"\0")
    fields = struct.pack("<QQQQ16sQIII", 1, 8191, 34, 8158, bytes(16), 2, 128, 128, zlib.crc32(entries))
    head = struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, 0, 0) + fields
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    return bytes(512) + head.ljust(512, b"\0") + entries


USUAL = Artefacts(
    firmware=made.firmware(),
    image=IMAGE,
    disk=disk(),
    acpi=acpi.derive(tables()),
    measured_config=hashlib.sha256(b"configuration").digest(),
)


def names(prediction: Prediction, register: str) -> list[str]:
    """Events of a register."""
    return [event.name for event in prediction.registers[register].events]


@pytest.mark.parametrize("boot", ["direct", "disk"])
def test_every_register_is_predicted(boot: str) -> None:
    machine = shape().model_copy(update={"boot": boot})
    prediction = tdx.predict(USUAL, machine)
    assert (prediction.platform, prediction.boot, prediction.shape) == ("tdx", boot, "machine")
    assert prediction.registers.keys() == REGISTERS
    assert not prediction.unpredicted
    for name, register in prediction.registers.items():
        assert len(register.value) == 48
        assert all(len(event.digest) == 48 for event in register.events)
        assert register.extended is (name not in {"mrtd", "mrconfigid"})
        if register.extended:
            assert register.value == replay((event.digest for event in register.events), "sha384")
    assert prediction.values["rtmr3"] == bytes(48)


def test_what_is_booted_directly() -> None:
    prediction = tdx.predict(USUAL, shape())
    kernel = images.pe([(".text", b"kernel" * 1000), (".data", b"data")])
    assert [event.digest for event in prediction.registers["rtmr1"].events] == [
        authenticode.digest(IMAGE, "sha384"),
        CALLING,
        SEPARATOR,
        authenticode.digest(kernel, "sha384"),
        *LEAVING,
    ]
    assert names(prediction, "rtmr1") == [
        *("image", "calling a boot option", "separator", "kernel", "leaving firmware", "left firmware"),
    ]


def test_what_is_booted_from_a_disk() -> None:
    prediction = tdx.predict(USUAL, shape().model_copy(update={"boot": "disk"}))
    assert names(prediction, "rtmr1") == [
        *("calling a boot option", "separator", "partition table", "image", "kernel"),
        *("leaving firmware", "left firmware"),
    ]
    table = prediction.registers["rtmr1"].events[2].digest
    assert table == hashlib.sha384(gpt_event.gpt_data(disk())).digest()
    assert names(prediction, "rtmr0")[-4:] == ["boot order", "boot option 1", "boot option 0", "boot option 2"]


def test_firmware_before_2024_11_has_the_separator_in_the_other_register() -> None:
    before = tdx.predict(USUAL, shape(version="2024.02"))
    after = tdx.predict(USUAL, shape(version="2024.11"))
    assert names(before, "rtmr0") == [*names(after, "rtmr0"), "separator"]
    assert names(after, "rtmr1").count("separator") == names(before, "rtmr1").count("separator") + 1 == 1


def test_the_image_is_measured_as_by_a_tpm() -> None:
    """A TPM's registers 11 and 9, one after the other; words of user space are for a TPM alone."""
    seen = tpm.predict(IMAGE, boot="direct", phases=()).events
    assert names(tdx.predict(USUAL, shape()), "rtmr2") == [event.name for event in (*seen[11], *seen[9])]


def test_a_stub_before_256_measures_nothing_into_it() -> None:
    old = replace(USUAL, image=images.uki(stub="255.4-1"))
    assert names(tdx.predict(old, shape()), "rtmr2") == ["command line", "initrd"]


@pytest.mark.parametrize(
    ("release", "known"), [(b"6.8.0-45-generic", False), (b"6.9.1", True), (b"6.12.57+deb13", True)]
)
def test_kernels_before_6_9_are_not_predicted(release: bytes, known: bool) -> None:
    kernel = bytearray(bzimage())
    struct.pack_into("<H", kernel, 0x20E, 0x1000)
    kernel[0x1200 : 0x1200 + len(release) + 1] = release + b"\0"
    for artefacts in (
        replace(USUAL, image=images.uki({".linux": bytes(kernel)})),
        replace(USUAL, image=None, kernel=replace(PLAIN, kernel=bytes(kernel))),
    ):
        prediction = tdx.predict(artefacts, shape())
        assert ("rtmr2" in prediction.registers) is known
        assert ("Linux 6.8" in prediction.unpredicted.get("rtmr2", "")) is not known


def moved(changed: Artefacts, before: Artefacts = USUAL) -> set[str]:
    """Registers that another artefact moves."""
    values = [tdx.predict(artefacts, shape()).values for artefacts in (before, changed)]
    assert values[0].keys() == values[1].keys()
    return {name for name in values[0] if values[0][name] != values[1][name]}


@pytest.mark.parametrize(
    ("change", "registers"),
    [
        ({"firmware": made.firmware(code=b"\x91" * 0x3000)}, {"mrtd"}),
        ({"firmware": made.firmware(variables=made.empty_variables()[:-1] + b"\0")}, {"rtmr0"}),
        ({"firmware": made.firmware(code=SECURE_BOOT_DRIVER)}, {"mrtd", "rtmr0"}),
        ({"acpi": acpi.derive(tables(size=0x3000))}, {"rtmr0"}),
        ({"image": images.uki(command_line=images.COMMAND_LINE + " quiet")}, {"rtmr1", "rtmr2"}),
        ({"image": images.uki({".text": b"another stub"})}, {"rtmr1"}),
        ({"disk": bytes(512)}, set()),
        ({"measured_config": bytes(32)}, {"mrconfigid"}),
    ],
)
def test_an_artefact_moves_its_registers_alone(change: dict[str, object], registers: set[str]) -> None:
    assert moved(replace(USUAL, **change)) == registers


def test_memory_and_monitor_move_what_they_should() -> None:
    values = tdx.predict(USUAL, shape()).values
    for machine, registers in (
        (shape(4096), {"rtmr0"}),
        (shape(qemu="9.2.1"), set()),
        (shape(qemu="8.2.2"), {"mrtd"}),
    ):
        seen = tdx.predict(USUAL, machine).values
        assert {name for name in values if values[name] != seen[name]} == registers


@pytest.mark.parametrize(
    ("qemu", "named", "moves"),
    [("9.2.1", False, True), ("10.1.0", False, True), ("10.1.0", True, False), ("10.2.0", False, False)],
)
def test_a_plain_kernel_moves_with_memory_where_its_header_is_filled_in(qemu: str, named: bool, moves: bool) -> None:
    code = b"etc/boot/" if named else b""
    artefacts = replace(USUAL, firmware=made.firmware(code=code), image=None, kernel=PLAIN)
    small, large = (tdx.predict(artefacts, shape(memory, qemu=qemu)) for memory in (1024, 4096))
    assert (small.values["rtmr1"] != large.values["rtmr1"]) is moves
    unchanged = authenticode.digest(PLAIN.kernel, "sha384")
    assert (small.registers["rtmr1"].events[0].digest != unchanged) is moves
    assert ("memory" in small.registers["rtmr1"].events[0].inputs) is moves
    assert names(small, "rtmr2") == ["command line", "initrd"]
    options = "console=ttyS0 initrd=initrd\0".encode("utf-16-le")
    assert small.registers["rtmr2"].events[0].digest == hashlib.sha384(options).digest()
    assert small.unpredicted.keys() == {"rtmr3"}
    alone = tdx.predict(replace(artefacts, kernel=replace(PLAIN, initrd=None)), shape(qemu=qemu))
    assert names(alone, "rtmr2") == ["command line"]
    bare = replace(PLAIN, initrd=None, command_line="")
    assert tdx.predict(replace(artefacts, kernel=bare), shape(qemu=qemu)).values["rtmr2"] == bytes(48)


@pytest.mark.parametrize(
    ("artefacts", "missing"),
    [
        (replace(USUAL, acpi=None), {"rtmr0": "no ACPI tables"}),
        (replace(USUAL, image=None), {"rtmr1": "no image", "rtmr2": "no image", "rtmr3": "no image"}),
        (replace(USUAL, measured_config=None), {"mrconfigid": "no measured config"}),
        (replace(USUAL, measured_config=b"short"), {"mrconfigid": "5 bytes"}),
        (replace(USUAL, image=b"MZ"), {"rtmr1": "not a PE image", "rtmr2": "not a PE image"}),
        (replace(USUAL, image=images.uki(stub="258")), {"rtmr1": "stub 258", "rtmr2": "stub 258"}),
        (
            replace(USUAL, kernel=PLAIN),
            dict.fromkeys(("rtmr1", "rtmr2", "rtmr3"), "an image and a plain kernel"),
        ),
        (
            replace(USUAL, firmware=made.firmware(variables=bytes(4096))),
            {"rtmr0": "variable store", "rtmr1": "variable"},
        ),
        (
            replace(USUAL, acpi=replace(acpi.derive(tables()), loader=b"\1\0\0\0etc/vmgenid_guid".ljust(128, b"\0"))),
            {"rtmr0": "etc/vmgenid_guid"},
        ),
    ],
)
def test_what_one_register_misses_the_others_do_not(artefacts: Artefacts, missing: dict[str, str]) -> None:
    prediction = tdx.predict(artefacts, shape())
    assert prediction.unpredicted.keys() == missing.keys()
    assert prediction.registers.keys() == REGISTERS - missing.keys()
    for name, words in missing.items():
        assert words in prediction.unpredicted[name]


def test_later_firmware_measures_what_is_no_artefact() -> None:
    prediction = tdx.predict(USUAL, shape(version="2026.08+ds-2"))
    assert prediction.unpredicted.keys() == {"rtmr0"}
    assert "SMBIOS" in prediction.unpredicted["rtmr0"]


def test_firmware_of_no_stated_version_is_measured_but_its_order_is_not_known() -> None:
    for machine in (shape(version=None), shape().model_copy(update={"firmware": None})):
        prediction = tdx.predict(USUAL, machine)
        assert prediction.unpredicted.keys() == {"rtmr0", "rtmr1"}
        assert "not stated" in prediction.unpredicted["rtmr0"]


@pytest.mark.parametrize(
    "machine",
    [
        shape().model_copy(update={"platform": "tpm"}),
        shape().model_copy(update={"qemu": None}),
        shape().model_copy(update={"qemu": Qemu(version="10.1", machine="pc")}),
    ],
)
def test_other_machines_are_refused(machine: object) -> None:
    with pytest.raises(MeasurementError):
        tdx.predict(USUAL, machine)  # type: ignore[arg-type]  # parametrised as object


@pytest.mark.parametrize("firmware", [None, b"", made.firmware()[:-1]])
def test_nothing_is_said_without_firmware(firmware: bytes | None) -> None:
    with pytest.raises(ArtefactError):
        tdx.predict(replace(USUAL, firmware=firmware), shape())


@pytest.mark.parametrize("command_line", ["a\0b", "ä", "a" * 65_537])
def test_command_lines_that_firmware_would_not_hand_on_are_not_predicted(command_line: str) -> None:
    artefacts = replace(USUAL, image=None, kernel=replace(PLAIN, command_line=command_line))
    assert "ASCII" in tdx.predict(artefacts, shape()).unpredicted["rtmr2"]


def test_a_plain_kernel_is_not_found_on_a_disk() -> None:
    artefacts = replace(USUAL, image=None, kernel=PLAIN)
    prediction = tdx.predict(artefacts, shape().model_copy(update={"boot": "disk"}))
    assert "boot directly" in prediction.unpredicted["rtmr1"]


def test_a_device_with_a_place_in_the_boot_order_is_not_predicted() -> None:
    device = {"devices": ("virtio-scsi-pci,bootindex=1",)}
    assert "rtmr0" in tdx.predict(USUAL, shape().model_copy(update=device)).registers
    prediction = tdx.predict(USUAL, shape().model_copy(update={**device, "boot": "disk"}))
    assert "bootindex" in prediction.unpredicted["rtmr0"]


def given(digest: bytes, name: str) -> PredictedEvent:
    """An event whose digest a sample states."""
    return PredictedEvent(digest, name, "stated by the sample")


def test_rtmr1_and_rtmr2_of_a_real_quote_from_stated_digests(shared: Path, sample_table: SampleTable) -> None:
    sample = json.loads((shared / "samples" / DSTACK / "tdx-lite-getquote.json").read_text())
    stated = cbor2.loads(base64.b64decode(json.loads(sample["vm_config"])["tdx_measurement"]["measurement"]))["image"]
    report = parse_quote(without_padding(bytes.fromhex(sample["quote"]))).report
    kernel = given(stated["kernel_authenticode"], "kernel")
    events = tdx_rtmr1.started(kernel, tdx_firmware.layout("2025.02"))
    value = replay((event.digest for event in events), "sha384")
    sample_table(
        "tdx-lite-getquote", "Dstack-TEE/dstack", f"RTMR1 {value.hex()[:16]}", f"RTMR1 {report.rtmr1.hex()[:16]}"
    )
    assert value == report.rtmr1
    assert replay([stated["cmdline_sha384"], stated["initrd_sha384"]], "sha384") == report.rtmr2


def test_rtmr1_of_another_real_quote(shared: Path, sample_table: SampleTable) -> None:
    sample = json.loads((shared / "samples" / DSTACK / "quote-report.json").read_text())
    log = json.loads(sample["event_log"])
    logged = {number: [bytes.fromhex(event["digest"]) for event in log if event["imr"] == number] for number in (1, 2)}
    report = parse_quote(without_padding(bytes.fromhex(sample["quote"]))).report
    events = tdx_rtmr1.started(given(logged[1][0], "kernel"), tdx_firmware.layout("2025.02"))
    value = replay((event.digest for event in events), "sha384")
    sample_table("quote-report", "Dstack-TEE/dstack", f"RTMR1 {value.hex()[:16]}", f"RTMR1 {report.rtmr1.hex()[:16]}")
    assert value == report.rtmr1
    assert [event.digest for event in events] == logged[1]
    assert replay(logged[2], "sha384") == report.rtmr2


def test_the_order_of_a_disk_boot_is_that_of_a_real_machine(shared: Path) -> None:
    path = shared / "samples/google__go-eventlog/testdata/eventlogs/ccel/cos-113-intel-tdx.bin"
    log, _ = read_tcg2(path.read_bytes())
    logged = [event for event in log.events if event.register == 2 and event.extended]
    events = tdx.predict(USUAL, shape().model_copy(update={"boot": "disk"})).registers["rtmr1"].events
    assert [event.digest for event in events[:2]] == [event.digests["sha384"] for event in logged[:2]]
    assert [event.digest for event in events[-2:]] == [event.digests["sha384"] for event in logged[-2:]]
    assert [event.type_name for event in logged[2:4]] == ["EV_EFI_GPT_EVENT", "EV_EFI_BOOT_SERVICES_APPLICATION"]
    assert [event.name for event in events[2:4]] == ["partition table", "image"]


def test_enforced_secure_boot_measures_whom_firmware_trusts() -> None:
    """Keys and signature are the test's own; the entry of ``db`` is laid out here by hand."""
    keys = SecureBootKeys.new(dt.datetime(2026, 11, 1, tzinfo=dt.UTC))
    variables = added(made.empty_variables(), keys.variables())
    signed = keys.sign(IMAGE)
    knowing = replace(USUAL, firmware=made.firmware(code=SECURE_BOOT_DRIVER, variables=variables), image=signed)
    entry = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le + struct.pack("<QQ", 2, len(keys.entry))
    entry += "db".encode("utf-16-le") + keys.entry
    for boot, place in (("direct", 11), ("disk", 15)):
        prediction = tdx.predict(knowing, shape().model_copy(update={"boot": boot}))
        events = prediction.registers["rtmr0"].events
        assert events[place].name == "authority db"
        assert events[place].digest == hashlib.sha384(entry).digest()
        assert len(events) == (14 if boot == "direct" else 16)
        assert "kernel" not in names(prediction, "rtmr1")
    without = replace(USUAL, firmware=made.firmware(code=b"no such driver", variables=variables), image=signed)
    assert "authority db" not in names(tdx.predict(without, shape()), "rtmr0")
    unsigned = tdx.predict(replace(knowing, image=IMAGE), shape())
    assert unsigned.unpredicted.keys() == {"rtmr0", "rtmr1"}
    assert "no entry of db vouches for" in unsigned.unpredicted["rtmr0"]
    assert "no image given" in tdx.predict(replace(knowing, image=None), shape()).unpredicted["rtmr0"]
    other = SecureBootKeys.new(dt.datetime(2026, 11, 1, tzinfo=dt.UTC)).sign(IMAGE)
    assert "no entry of db vouches for" in tdx.predict(replace(knowing, image=other), shape()).unpredicted["rtmr0"]
    plain = replace(knowing, image=None, kernel=replace(PLAIN, kernel=keys.sign(PLAIN.kernel)))
    assert not tdx.predict(plain, shape(qemu="10.2.0")).unpredicted.keys() - {"rtmr3"}
    assert "no signature survives" in tdx.predict(plain, shape(qemu="10.1.0")).unpredicted["rtmr1"]
