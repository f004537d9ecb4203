"""Registers 0 to 15 of a machine: what makes each, what moves it, and what is not predicted and why."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

import measure_support as images
import ovmf_support as ovmf
import pytest

from appliance.lab.secure_boot import SecureBootKeys
from measurements import tpm, tpm_machine
from measurements.acpi import AcpiTables
from measurements.artefacts import Artefacts
from measurements.errors import ArtefactError, MeasurementError
from measurements.shape import Shape
from measurements.tpm_machine import predict
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, variable_data

if TYPE_CHECKING:
    from measurements.prediction import Prediction

ALL = {f"pcr{number}" for number in range(16)}
TABLES = AcpiTables(
    tables=b"tables", rsdp=b"root", loader=ovmf.loader("etc/acpi/rsdp", "etc/tpm/log", "etc/acpi/tables")
)
KEYS = SecureBootKeys.new(dt.datetime(2026, 11, 23, tzinfo=dt.UTC))
SEPARATOR = hashlib.sha256(bytes(4)).digest()
FILES: dict[str, Any] = {
    "firmware_code": ovmf.firmware(),
    "firmware_variables": ovmf.store(),
    "image": images.uki(),
    "disk": ovmf.disk(),
    "acpi": TABLES,
    "measured_config": bytes(range(32)),
}
SHAPE: dict[str, Any] = {
    "name": "test",
    "platform": "tpm",
    "vcpus": 2,
    "memory_mib": 2048,
    "tpm": True,
    "qemu": {"version": "10.0.7"},
}


def predicted(files: dict[str, Any] | None = None, **shape: Any) -> Prediction:
    """A prediction with some files and some of the shape replaced."""
    return predict(Artefacts(**FILES | (files or {})), Shape.model_validate(SHAPE | shape))


def names(prediction: Prediction, register: int) -> list[str]:
    return [event.name for event in prediction.registers[f"pcr{register}"].events]


def moved(before: Prediction, after: Prediction) -> set[str]:
    """Registers that differ, or that one of the two lacks."""
    return {name for name in ALL if before.values.get(name) != after.values.get(name)}


def test_every_register_is_made_of_its_events() -> None:
    found = predicted()
    assert (set(found.registers), found.unpredicted) == (ALL, {})
    assert list(found.registers) == [f"pcr{number}" for number in range(16)]
    assert (found.platform, found.boot, found.shape) == ("tpm", "disk", "test")
    for register in found.registers.values():
        value = bytes(32)
        for event in register.events:
            assert event.source
            value = hashlib.sha256(value + event.digest).digest()
        assert register.value == value
    assert {number: names(found, number) for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 15)} == {
        0: ["firmware version", "firmware volume PEI", "firmware volume DXE", "separator"],
        1: [
            *("ACPI table loader", "ACPI root pointer", "space for the TPM's log", "ACPI tables"),
            *("boot order", "boot option 1", "boot option 0", "boot option 2", "separator"),
        ],
        2: ["separator"],
        3: ["separator"],
        4: ["calling a boot option", "separator", "image", "kernel"],
        5: ["separator", "partition table", "leaving firmware", "left firmware"],
        6: ["separator"],
        7: [*(f"variable {name}" for name in ("SecureBoot", "PK", "KEK", "db", "dbx")), "separator"],
        8: [],
        10: ["boot aggregate"],
        12: [],
        13: [],
        14: ["configuration"],
        15: [],
    }


def test_registers_of_the_image_are_those_of_the_image_alone() -> None:
    for boot in ("disk", "direct"):
        found = predicted(boot=boot).values
        alone = tpm.predict(images.uki(), boot=boot).registers  # type: ignore[arg-type]  # one of the two
        assert {number: found[f"pcr{number}"] for number in (4, 9, 11, 12)} == alone


def test_direct_boot_has_its_own_order_and_no_partition_table() -> None:
    found = predicted({"disk": None}, boot="direct")
    assert found.unpredicted == {}
    assert names(found, 5) == ["separator", "leaving firmware", "left firmware"]
    assert names(found, 1)[4:] == ["boot order", "boot option 0", "separator"]
    assert moved(predicted(), found) == {"pcr1", "pcr4", "pcr5", "pcr10"}


@pytest.mark.parametrize(
    ("files", "registers"),
    [
        ({"firmware_code": ovmf.firmware([ovmf.pei(version="2025.02-9"), ovmf.dxe()])}, {"pcr0"}),
        ({"firmware_code": ovmf.firmware([ovmf.pei(), ovmf.dxe(shell=False)])}, {"pcr0", "pcr1"}),
        ({"firmware_code": ovmf.firmware([ovmf.pei(), ovmf.dxe(measures_tables=False)])}, {"pcr0", "pcr1"}),
        ({"firmware_code": ovmf.firmware([ovmf.pei(), ovmf.dxe(secure_boot=True)])}, {"pcr0", "pcr7"}),
        ({"firmware_variables": ovmf.store((GLOBAL, "KEK", b"x"))}, {"pcr7"}),
        ({"acpi": AcpiTables(tables=b"others", rsdp=TABLES.rsdp, loader=TABLES.loader)}, {"pcr1"}),
        ({"disk": ovmf.disk([b"\2" * 128])}, {"pcr5"}),
        ({"image": images.uki(command_line="console=ttyS0 debug")}, {"pcr4", "pcr9", "pcr11"}),
        ({"measured_config": bytes(32)}, {"pcr14"}),
    ],
    ids=["version", "shell", "tables", "driver", "variable", "acpi", "disk", "command line", "configuration"],
)
def test_a_changed_file_moves_its_registers(files: dict[str, Any], registers: set[str]) -> None:
    """And register 10 with each of 0 to 9, of which it is made."""
    aggregate = {"pcr10"} if registers - {"pcr11", "pcr14"} else set()
    assert moved(predicted(), predicted(files)) == registers | aggregate


def test_what_a_changed_event_says_of_itself() -> None:
    """What ``explain`` has to name: every event that a file moved has that file among its inputs."""
    changes: dict[str, dict[str, Any]] = {
        "firmware": {"firmware_code": ovmf.firmware([ovmf.pei(version="2025.02-9"), ovmf.dxe(shell=False)])},
        "firmware variables": {"firmware_variables": ovmf.store((GLOBAL, "PK", b"x"), (IMAGE_SECURITY, "db", b"y"))},
        "acpi": {"acpi": AcpiTables(tables=b"others", rsdp=b"other", loader=TABLES.loader)},
        "disk": {"disk": ovmf.disk([b"\2" * 128])},
        "kernel": {"image": images.uki({".linux": images.pe([(".text", b"other")])})},
        "initrd": {"image": images.uki({".initrd": b"other"})},
        "command line": {"image": images.uki(command_line="other")},
        "configuration": {"measured_config": bytes(32)},
    }
    before = predicted()
    for cause, files in changes.items():
        after = predicted(files)
        changed = [
            event
            for name in sorted(moved(before, after))
            for event in before.registers[name].events
            if event.digest not in {item.digest for item in after.registers[name].events}
        ]
        assert changed
        assert all(cause in event.inputs or "image" in event.inputs for event in changed), cause
        assert any(cause in event.inputs for event in changed), cause


def test_one_file_may_hold_code_and_variables() -> None:
    whole = {"firmware_code": None, "firmware_variables": None, "firmware": ovmf.store() + ovmf.firmware()}
    assert predicted(whole).values == predicted().values


@pytest.mark.parametrize(
    ("files", "shape", "register", "reason"),
    [
        ({"firmware_code": None}, {}, "pcr0", "no firmware code given"),
        ({}, {"qemu": {"version": "10.0", "machine": "microvm"}}, "pcr0", "'microvm', whose timer"),
        ({}, {"firmware": {"name": "OVMF", "version": "2024.11"}}, "pcr0", "nowhere says it is '2024.11'"),
        ({}, {"firmware": {"name": "OVMF", "sha256": "ab" * 32}}, "pcr0", "shape test has abab"),
        ({"firmware_code": b"x" * 100}, {}, "pcr0", "no firmware volume"),
        ({"acpi": None}, {}, "pcr1", "no ACPI tables given"),
        (
            {"firmware_code": ovmf.firmware([ovmf.pei(version="2025.05-1"), ovmf.dxe()])},
            {},
            "pcr1",
            "2025.05 or later measures",
        ),
        ({"firmware_variables": ovmf.store((GLOBAL, "Boot0000", b""))}, {}, "pcr1", "ran before"),
        ({}, {"devices": ["virtio-blk-pci,bootindex=3"]}, "pcr1", "bootindex of its own"),
        ({}, {"devices": ["virtio-net-pci"]}, "pcr2", "'virtio-net-pci' may bring code"),
        ({"disk": None}, {}, "pcr5", "no disk given"),
        ({"disk": bytes(20000)}, {}, "pcr5", "without a GPT"),
        ({"firmware_variables": None}, {}, "pcr7", "no firmware variables given"),
        ({"image": images.uki(command_line="ima_policy=tcb")}, {}, "pcr10", "ima_policy=tcb"),
        ({"measured_config": None}, {}, "pcr14", "no measured configuration"),
    ],
)
def test_what_no_file_decides_is_said_with_its_reason(
    files: dict[str, Any], shape: dict[str, Any], register: str, reason: str
) -> None:
    found = predicted(files, **shape)
    assert register in predicted().registers  # the control
    assert register not in found.registers
    assert reason in found.unpredicted[register]
    assert set(found.registers) | set(found.unpredicted) == ALL
    if register != "pcr14":
        assert "pcr10" in found.unpredicted


def test_devices_without_code_of_their_own_move_tables_alone() -> None:
    devices = ["virtio-balloon-pci", "pcie-root-port,id=root", "virtio-net-pci,netdev=n2,romfile="]
    assert moved(predicted(), predicted(devices=devices)) == set()
    assert moved(predicted(), predicted(devices=["vfio-pci,host=01:00.0,rombar=0"], gpus=2)) == set()


def test_a_machine_that_is_not_up_yet_differs_by_its_phases_alone() -> None:
    early = predict(Artefacts(**FILES), Shape.model_validate(SHAPE), phases=tpm.PHASES[:2])
    assert moved(predicted(), early) == {"pcr11"}
    assert names(early, 11)[-2:] == ["phase enter-initrd", "phase leave-initrd"]
    with pytest.raises(MeasurementError, match="phases"):
        predict(Artefacts(**FILES), Shape.model_validate(SHAPE), phases=("ready",))


def test_a_machine_without_a_configuration_says_so() -> None:
    found = predicted({"measured_config": None}, disks=["image"])
    assert names(found, 14) == ["no configuration"]
    assert found.registers["pcr14"].events[0].digest == tpm.REFUSED_CONFIGURATION


def test_what_no_register_can_be_predicted_without_is_demanded() -> None:
    with pytest.raises(ArtefactError, match="no image given"):
        predicted({"image": None})
    with pytest.raises(ArtefactError, match=r"systemd-stub 258\.1"):
        predicted({"image": images.uki(stub="258.1")})
    with pytest.raises(MeasurementError, match="without a TPM"):
        predicted(tpm=False)
    with pytest.raises(MeasurementError, match="platform tdx"):
        predicted(platform="tdx")


def enrolled() -> bytes:
    return ovmf.store(*((item.vendor, item.name, item.data) for item in KEYS.variables()))


def test_secure_boot_names_who_vouches_and_leaves_the_kernel_to_the_image() -> None:
    files = {
        "firmware_code": ovmf.firmware([ovmf.pei(), ovmf.dxe(secure_boot=True)]),
        "firmware_variables": enrolled(),
        "image": KEYS.sign(images.uki()),
    }
    found = predicted(files)
    assert found.unpredicted == {}
    assert names(found, 4) == ["calling a boot option", "separator", "image"]
    assert names(found, 7)[-2:] == ["separator", "authority db"]
    policy = found.registers["pcr7"].events
    assert policy[0].digest == hashlib.sha256(variable_data(GLOBAL, "SecureBoot", b"\1")).digest()
    assert policy[-1].digest == hashlib.sha256(variable_data(IMAGE_SECURITY, "db", KEYS.entry)).digest()


def test_keys_alone_enforce_nothing_in_a_build_that_knows_no_secure_boot() -> None:
    found = predicted({"firmware_variables": enrolled(), "image": KEYS.sign(images.uki())})
    assert names(found, 4)[-1] == "kernel"
    assert names(found, 7)[-1] == "separator"
    assert found.registers["pcr7"].events[0] == predicted().registers["pcr7"].events[0]


def test_an_unsigned_image_is_started_by_no_firmware_that_enforces() -> None:
    files = {
        "firmware_code": ovmf.firmware([ovmf.pei(), ovmf.dxe(secure_boot=True)]),
        "firmware_variables": enrolled(),
    }
    assert "vouches for" in predicted(files).unpredicted["pcr7"]


def test_separators_are_those_of_the_profile() -> None:
    assert tpm_machine.SEPARATOR.digest == SEPARATOR
