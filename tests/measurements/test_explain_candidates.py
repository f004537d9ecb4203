"""Single changes: what is tried, in which order, and what is left out; with a predictor of the test's own."""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from measurements.acpi import AcpiTables
from measurements.artefacts import Artefacts, PlainKernel
from measurements.candidates import Others, no_tables, of_manifest, single_changes, until_explained
from measurements.errors import ArtefactError
from measurements.explain import explain
from measurements.manifest import Artefact, Engine, Manifest, Registers
from measurements.manifest_parts import BuildRecipe
from measurements.prediction import PredictedEvent, Prediction, Register
from measurements.shape import Qemu, Shape

if TYPE_CHECKING:
    from measurements.explanation import Candidate
    from measurements.prediction import Input

SHAPE = Shape(
    name="mine",
    platform="tdx",
    boot="direct",
    vcpus=2,
    memory_mib=2048,
    qemu=Qemu(version="10.1.0", machine="pc-q35-10.1", options=("smm=off",)),
    devices=("virtio-rng-pci",),
)
KERNEL = PlainKernel(kernel=b"kernel", initrd=b"initrd", command_line="quiet")


def table(signature: bytes, content: bytes) -> bytes:
    """One ACPI table."""
    return (signature + struct.pack("<I", 36 + len(content))).ljust(36, b"\1") + content


def tables(shape: Shape) -> AcpiTables:
    """Tables of which one says how many processors there are."""
    found = table(b"DSDT", b"same") + table(b"APIC", b"%d" % shape.vcpus)
    return AcpiTables(found, b"rsdp", b"loader")


def predict(artefacts: Artefacts, shape: Shape) -> Prediction:
    """What a machine would measure that measures everything."""
    if shape.boot == "disk":
        raise ArtefactError("no disk given")
    kernel = artefacts.kernel or KERNEL
    events: list[tuple[str, tuple[Input, ...]]] = [
        (str(shape.memory_mib), ("memory",)),
        (repr((shape.vcpus, shape.disks, shape.network, shape.gpus, shape.tpm)), ("vcpus", "devices")),
        (repr((artefacts.acpi, shape.qemu, shape.devices)), ("acpi", "qemu", "machine", "vcpus")),
        (repr((artefacts.firmware, artefacts.firmware_variables)), ("firmware",)),
        (repr(artefacts.image) + repr(kernel), ("image",)),
        (repr(artefacts.measured_config), ("configuration",)),
    ]
    digests = [PredictedEvent(hashlib.sha384(text.encode()).digest(), moved[0], "", moved) for text, moved in events]
    return Prediction("tdx", shape.boot, shape.name, {"rtmr0": Register.replayed("rtmr0", "sha384", digests)})


def tried(artefacts: Artefacts | None = None, others: Others | None = None, **options: object) -> dict[str, Candidate]:
    files = artefacts or Artefacts(firmware=b"firmware", kernel=KERNEL, measured_config=bytes(32))
    found = single_changes(files, SHAPE, others=others, predict=predict, **options)  # type: ignore[arg-type]  # as there
    return {candidate.change: candidate for candidate in found}


def test_every_kind_of_change_is_tried_and_the_machine_itself_is_not() -> None:
    found = tried()
    base = predict(Artefacts(firmware=b"firmware", kernel=KERNEL, measured_config=bytes(32)), SHAPE)
    expected = {
        "memory 4096 MiB": "memory", "1 vCPU": "vcpus", "4 vCPUs": "vcpus", "QEMU 9.2.0": "qemu",
        "machine type q35": "machine", "machine without smm=off": "machine", "machine with hpet=off": "machine",
        "device virtio-balloon-pci added": "devices", "device virtio-rng-pci left out": "devices",
        "no network card": "devices", "no model disk": "devices", "state disk added": "devices", "1 GPU": "devices",
        "TPM": "devices",
    }  # fmt: skip
    assert {change: found[change].inputs[0] for change in expected} == expected
    assert not {"memory 2048 MiB", "2 vCPUs", "QEMU 10.1.0", "no GPUs", "0 GPUs", "image disk added"} & found.keys()
    assert "disk boot" not in found, "the predictor has no disk: a change that cannot be predicted is none"
    assert all(candidate.prediction != base for candidate in found.values())


def test_a_machine_with_as_many_options_as_a_shape_has_is_tried() -> None:
    """One more would be no machine: it is left out, and the others are tried."""
    assert SHAPE.qemu is not None
    full = tuple(f"option{number}=on" for number in range(16))
    shape = SHAPE.model_copy(update={"qemu": SHAPE.qemu.model_copy(update={"options": full})})
    files = Artefacts(firmware=b"firmware", kernel=KERNEL, measured_config=bytes(32))
    changes = {candidate.change for candidate in single_changes(files, shape, predict=predict)}
    assert "machine without option0=on" in changes
    assert "machine with hpet=off" not in changes


def test_what_is_near_comes_first() -> None:
    changes = list(tried())
    memory = [change for change in changes if "memory" in change]
    assert memory[:3] == ["memory 1792 MiB", "memory 1536 MiB", "memory 2560 MiB"]
    assert changes[:4] == ["memory 1792 MiB", "1 vCPU", "memory 1536 MiB", "3 vCPUs"]
    vcpus = [change for change in changes if "vCPU" in change]
    assert vcpus[:3] == ["1 vCPU", "3 vCPUs", "4 vCPUs"]


def test_what_else_is_at_hand_is_tried() -> None:
    others = Others(
        firmware={"2025.05-1": b"other"},
        images={"next.efi": b"image"},
        kernels={"vmlinuz": b"k"},
        initrds={"other.img": b"i"},
        command_lines=("quiet", "debug"),
        configurations={"b.toml": b"c" * 32},
        models={"m@c:h": b"m" * 32},
        shapes=(SHAPE.model_copy(update={"name": "twin"}),
                SHAPE.model_copy(update={"name": "large", "memory_mib": 7777, "vcpus": 5}),
                SHAPE.model_copy(update={"name": "cloud", "platform": "snp", "memory_mib": 6666})),
        devices=("mine-pci",),
    )  # fmt: skip
    found = tried(others=others)
    expected = {
        "firmware 2025.05-1": "firmware", "image next.efi": "image", "kernel vmlinuz": "kernel",
        "initrd other.img": "initrd", "command line 'debug'": "command line", "configuration b.toml": "configuration",
        "model m@c:h": "model", "memory 7777 MiB": "memory", "5 vCPUs": "vcpus", "shape large": "memory",
        "device mine-pci added": "devices",
    }  # fmt: skip
    assert found["device mine-pci added"].detail == ""
    assert "another device of that kind" in found["device qemu-xhci added"].detail
    assert {change: found[change].inputs[0] for change in expected} == expected
    assert found["shape large"].inputs == ("memory", "vcpus")
    assert not {"shape twin", "shape cloud", "command line 'quiet'"} & found.keys()
    assert not tried(Artefacts(firmware=b"firmware", image=b"image"), others).keys() & {"initrd other.img"}


def test_changes_can_be_left_out_by_what_they_change() -> None:
    assert {candidate.inputs[0] for candidate in tried(only={"memory"}).values()} == {"memory"}
    assert tried(only=set()) == {}
    moved = tried(others=Others(models={"m": b"m" * 32}), only={"configuration"})
    assert list(moved) == ["model m"], "a model moves the configuration"


def test_tables_of_the_changed_machine_are_taken_and_else_it_says_so() -> None:
    artefacts = Artefacts(firmware=b"firmware", kernel=KERNEL, acpi=tables(SHAPE))
    with_tables = tried(artefacts, acpi=tables)
    assert with_tables["4 vCPUs"].complete
    assert with_tables["4 vCPUs"].detail == "ACPI tables that differ then: APIC"
    assert with_tables["memory 4096 MiB"].detail == ""
    without = tried(artefacts, acpi=no_tables)
    assert not without["4 vCPUs"].complete
    assert not without["memory 4096 MiB"].complete
    assert "QEMU 9.2.0" in with_tables
    assert "QEMU 9.2.0" not in without, "all that it moves are tables, and nobody has them: there is nothing to try"
    assert tried(artefacts, Others(firmware={"x": b"x"}), acpi=no_tables)["firmware x"].complete
    prediction = predict(artefacts, SHAPE)
    seen = predict(replace(artefacts, acpi=tables(SHAPE.model_copy(update={"vcpus": 4}))), SHAPE.model_copy(
        update={"vcpus": 4}))  # fmt: skip
    found = explain(prediction, seen.values, None, with_tables.values())
    assert found.changes == ("4 vCPUs",)
    assert found.findings[0].causes[0].sentence.endswith("; ACPI tables that differ then: APIC")


def store(*names: str) -> bytes:
    """A firmware volume with an empty or filled variable store (the layout: measurements.variable_store)."""
    kind = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    content = b"".join(
        struct.pack("<HBBIQ16sIII16s", 0x55AA, 0x3F, 0, 7, 0, bytes(16), 0, 2 * len(name) + 2, 4, bytes(16))
        + (name.encode("utf-16-le") + b"\0\0" + b"data").ljust(-(-(2 * len(name) + 6) // 4) * 4, b"\xff")
        for name in names
    )
    head = bytearray(72)
    head[16:32] = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
    head[40:44] = b"_FVH"
    head[48:50] = (72).to_bytes(2, "little")
    return bytes(head) + (kind + struct.pack("<IBBHI", 1024, 0x5A, 0xFE, 0, 0) + content).ljust(1024, b"\xff")


def test_variables_are_cleared_and_enrolled() -> None:
    enrolled, empty = store("PK"), store()
    apart = Artefacts(firmware_code=b"code", firmware_variables=enrolled, kernel=KERNEL)
    whole = Artefacts(firmware=enrolled + b"code", kernel=KERNEL)
    for artefacts in (apart, whole):
        found = tried(artefacts, Others(variables={"keys.fd": store("PK", "KEK")}))
        assert found["firmware variables cleared"].inputs == ("firmware variables",)
        assert "firmware variables keys.fd" in found
        cleared = empty if artefacts is apart else empty + b"code"
        part = "firmware_variables" if artefacts is apart else "firmware"
        expected = predict(replace(artefacts, **{part: cleared}), SHAPE)
        assert found["firmware variables cleared"].prediction == expected
    assert "firmware variables cleared" not in tried(replace(apart, firmware_variables=empty)), "they are clear already"
    assert "firmware variables cleared" not in tried(replace(apart, firmware_variables=b"no store"))


def test_candidates_end_with_the_one_that_explains_everything() -> None:
    found = list(tried().values())
    wanted = found[5]
    kept = list(until_explained(iter(found), wanted.prediction.values))
    assert kept == found[:6]
    assert list(until_explained(iter(found), {"rtmr0": bytes(48)})) == found


def test_another_release_is_a_candidate() -> None:
    values = {"pcr4": "11" * 32, "pcr9": "22" * 32, "pcr11": "33" * 32, "pcr12": "00" * 32}
    manifest = Manifest(
        image_id="chrysalis", version="1", release=6, not_before=1, expires=2, profile="engine-cpu", debug=False,
        engine=Engine(name="none", version="0"), command_line=f"quiet roothash={'0' * 64}", root_hash="0" * 64,
        source_commit="a" * 40, source_modified=False, source_date_epoch=1, locks={},
        artefacts=(Artefact(name="a", size=1, sha256="0" * 64),),
        registers=(Registers(platform="tpm", boot="direct", values=values),
                   Registers(platform="tpm", boot="disk", values={**values, "pcr4": "44" * 32})),
        recipe=BuildRecipe(profile="engine-cpu", mkosi_version="25", tools_lock="0" * 64, command="build it"),
    )  # fmt: skip
    (found,) = of_manifest(manifest, "disk", {"pcr4", "pcr9", "rtmr0"})
    assert found.change == "release 6 of engine-cpu (tpm, disk, any)"
    assert found.prediction.values == {"pcr4": b"\x44" * 32, "pcr9": b"\x22" * 32}
    assert not found.complete
    assert list(of_manifest(manifest, "disk", {"rtmr0"})) == []


@pytest.mark.parametrize("shape", [SHAPE.model_copy(update={"platform": "gcp", "qemu": None, "boot": "disk"})])
def test_a_machine_in_a_cloud_has_no_monitor_to_change(shape: Shape) -> None:
    found = [item.change for item in single_changes(Artefacts(), shape, predict=_sizes_alone)]
    assert "memory 4096 MiB" in found
    assert not any(change.startswith(("QEMU", "machine")) for change in found)


def _sizes_alone(artefacts: Artefacts, shape: Shape) -> Prediction:
    del artefacts
    value = hashlib.sha384(repr(shape).encode()).digest()
    return Prediction("gcp", "disk", shape.name, {"rtmr0": Register("rtmr0", "sha384", value, (), extended=False)})
