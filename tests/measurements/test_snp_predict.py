"""SEV-SNP's launch digest: the library's published values, a second computation of the chain, what each input moves."""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements import snp
from measurements.artefacts import Artefacts, PlainKernel
from measurements.errors import ArtefactError, MeasurementError
from measurements.shape import Qemu, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measurements.prediction import Register

CPU = "EPYC-v4"
SHAPE = Shape(name="s", platform="snp", boot="direct", vcpus=2, memory_mib=4096, cpu=CPU, qemu=Qemu(version="10.1"))
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
RESET = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
SECTIONS = (
    (0x800000, 0x2000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x810000, 0x1000, 0x10),
)
"""As edk2's OvmfSevMetadata.asm lists them: memory, secrets, processor features, kernel hashes."""


def firmware(
    sections: tuple[tuple[int, int, int], ...] = SECTIONS, *, reset: int = 0x80B004, count: int | None = None
) -> bytes:
    """Firmware of two pages with nothing in it but SEV metadata and the table at its end."""
    size = 8192
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(sections), 1, len(sections) if count is None else count)
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    at = 4096
    entries = b"".join(
        struct.pack("<I", value) + struct.pack("<H", 22) + guid
        for guid, value in ((HASH_TABLE, 0x810C00), (RESET, reset), (METADATA, size - at))
    )
    table = entries + struct.pack("<H", len(entries) + 18) + FOOTER
    body = bytes(range(256)) * 16 + metadata
    return body.ljust(size - 32 - len(table), b"\xaa") + table + bytes(32)


# The published values: sev-snp-measure 0.0.13, tests/test_guest.py, of its tests/fixtures -----------------------------


@pytest.mark.parametrize(
    ("published", "digest"),
    [
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, snp.Kernel(b""), 0x21),
            "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198",
            id="test_snp_ovmf_hash_gen_default",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, snp.Kernel(b""), 0x1),
            "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5",
            id="test_snp_ovmf_hash_gen_feature_snp_only",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, snp.Kernel(b"", command_line="console=ttyS0 loglevel=7"), 0x21),
            "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
            id="test_snp_default",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, snp.Kernel(b"", command_line="console=ttyS0 loglevel=7"), 0x1),
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
            id="test_snp_guest_feature_snp_only",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, None, 0x21),
            "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b",
            id="test_snp_without_kernel_default",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 1, None, 0x1),
            "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d",
            id="test_snp_without_kernel_feature_snp_only",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 4, snp.Kernel(b""), 0x21),
            "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942",
            id="test_snp_with_multiple_vcpus_default",
        ),
        pytest.param(
            ("ovmf_AmdSev_suffix.bin", 4, snp.Kernel(b""), 0x1),
            "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5",
            id="test_snp_with_multiple_vcpus_feature_snp_only",
        ),
        pytest.param(
            ("ovmf_OvmfX64_suffix.bin", 1, None, 0x21),
            "28797ae0afaba4005a81e629acebfb59e6687949d6be44007cd5506823b0dd66f146aaae26ff291eed7b493d8a64c385",
            id="test_snp_with_ovmfx64_without_default",
        ),
        pytest.param(
            ("ovmf_OvmfX64_suffix.bin", 1, None, 0x1),
            "da0296de8193586a5512078dcd719eccecbd87e2b825ad4148c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005",
            id="test_snp_with_ovmfx64_without_kernel_feature_snp_only",
        ),
    ],
)
def test_published_values(shared: Path, published: tuple[str, int, snp.Kernel | None, int], digest: str) -> None:
    file, vcpus, kernel, features = published
    content = (shared / "samples/virtee__sev-snp-measure/tests/fixtures" / file).read_bytes()
    found = snp.launch_digest(content, vcpus=vcpus, cpu=CPU, kernel=kernel, features=features)
    assert found.value.hex() == digest
    assert chain(content, vcpus=vcpus, kernel=kernel, features=features) == found.value


def test_published_firmware_that_has_no_place_for_a_kernel(shared: Path) -> None:
    """tests/test_guest.py, test_snp_with_ovmfx64_and_kernel_should_fail."""
    content = (shared / "samples/virtee__sev-snp-measure/tests/fixtures/ovmf_OvmfX64_suffix.bin").read_bytes()
    with pytest.raises(ArtefactError, match=r"no place for the hashes.*OVMF\.amdsev\.fd"):
        snp.launch_digest(content, vcpus=1, cpu=CPU, kernel=snp.Kernel(b""))


# The second way: AMD SEV-SNP Firmware ABI, section 8.17.2, and edk2's metadata, written down here once more -----------


def chain(content: bytes, *, vcpus: int, kernel: snp.Kernel | None, features: int = 1) -> bytes:
    """The digest chain: 112 bytes a page (digest so far, digest of the contents, length, kind, five zeros, address)."""
    found = bytes(48)
    for kind, address, page in parts(content, vcpus, kernel, features):
        contents = bytes(48) if page is None else hashlib.sha384(page).digest()
        found = hashlib.sha384(found + contents + struct.pack("<HB5xQ", 0x70, kind, address)).digest()
    return found


def parts(
    content: bytes, vcpus: int, kernel: snp.Kernel | None, features: int
) -> Iterator[tuple[int, int, bytes | None]]:
    """Kind, address and contents of every page in order."""
    base = (1 << 32) - len(content)
    for at in range(0, len(content), 4096):
        yield 1, base + at, content[at : at + 4096]
    table = footer(content)
    start = len(content) - int.from_bytes(table[METADATA][:4], "little")
    (count,) = struct.unpack_from("<I", content, start + 12)
    for number in range(count):
        address, size, kind = struct.unpack_from("<III", content, start + 16 + 12 * number)
        if kind == 0x10 and kernel is not None:
            yield 1, address, hashes(kernel, int.from_bytes(table[HASH_TABLE][:4], "little") % 4096)
        else:
            for page in range(address, address + size, 4096):
                yield {1: 3, 2: 5, 3: 6, 4: 3, 0x10: 3}[kind], page, None
    reset = int.from_bytes(table[RESET][:4], "little")
    for number in range(vcpus):
        yield 2, 0xFFFFFFFFF000, state(0xFFFFFFF0 if number == 0 else reset, features)


def footer(content: bytes) -> dict[bytes, bytes]:
    """The table of GUIDs that ends 32 bytes before firmware does, read backwards."""
    end = len(content) - 32
    assert content[end - 16 : end] == FOOTER
    (length,) = struct.unpack_from("<H", content, end - 18)
    at, first, found = end - 18, end - length, {}
    while at > first:
        (size,) = struct.unpack_from("<H", content, at - 18)
        found[content[at - 16 : at]] = content[at - size : at - 18]
        at -= size
    return found


def hashes(kernel: snp.Kernel, offset: int) -> bytes:
    """QEMU's table of hashes (target/i386/sev.c): command line, initrd, kernel, filled up to 16 bytes, in its page."""
    entries = b"".join(
        uuid.UUID(guid).bytes_le + struct.pack("<H", 50) + hashlib.sha256(content).digest()
        for guid, content in (
            ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", kernel.command_line.encode() + b"\0"),
            ("44baf731-3a2f-4bd7-9af1-41e29169781d", kernel.initrd),
            ("4de79437-abd2-427f-b835-d5b172d2045b", kernel.content),
        )
    )
    head = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le + struct.pack("<H", 18 + len(entries))
    return (bytes(offset) + head + entries).ljust(4096, b"\0")


def state(start: int, features: int) -> bytes:
    """A processor's first state (AMD64 manual, volume 2, table B-4), of an EPYC-v4: family 23, model 1, stepping 2."""
    page = bytearray(4096)

    def segment(at: int, attributes: int, limit: int, *, selector: int = 0, base: int = 0) -> None:
        struct.pack_into("<HHIQ", page, at, selector, attributes, limit, base)

    for at in (0x00, 0x20, 0x30, 0x40, 0x50):  # ES, SS, DS, FS, GS
        segment(at, 0x93, 0xFFFF)
    segment(0x10, 0x9B, 0xFFFF, selector=0xF000, base=start & 0xFFFF0000)
    segment(0x60, 0, 0xFFFF)
    segment(0x70, 0x82, 0xFFFF)
    segment(0x80, 0, 0xFFFF)
    segment(0x90, 0x8B, 0xFFFF)
    values = {
        0xD0: 0x1000,  # EFER
        0x148: 0x40,  # CR4
        0x158: 0x10,  # CR0
        0x160: 0x400,  # DR7
        0x168: 0xFFFF0FF0,  # DR6
        0x170: 2,  # RFLAGS
        0x178: start & 0xFFFF,  # RIP
        0x268: 0x7040600070406,  # PAT
        0x310: 0x800F12,  # RDX: the processor's signature
        0x3B0: features,
        0x3E8: 1,  # XCR0
    }
    for at, value in values.items():
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, 0x408, 0x1F80)  # MXCSR
    struct.pack_into("<H", page, 0x410, 0x37F)  # x87 control word
    return bytes(page)


KERNELS = st.builds(snp.Kernel, st.binary(max_size=64), st.binary(max_size=16), st.text("abc =.", max_size=20))


@given(kernel=st.none() | KERNELS, vcpus=st.integers(1, 12), features=st.sampled_from([1, 0x21]))
def test_two_ways_agree(kernel: snp.Kernel | None, vcpus: int, features: int) -> None:
    found = snp.launch_digest(firmware(), vcpus=vcpus, cpu=CPU, kernel=kernel, features=features)
    assert found.value == chain(firmware(), vcpus=vcpus, kernel=kernel, features=features)


@pytest.mark.vm
def test_two_ways_agree_on_debians_firmware(built_image: Path) -> None:
    content = (built_image / "OVMF.amdsev.fd").read_bytes()
    for kernel in (None, snp.Kernel(b"an image")):
        found = snp.launch_digest(content, vcpus=3, cpu=CPU, kernel=kernel)
        assert found.value == chain(content, vcpus=3, kernel=kernel)


# The predictor --------------------------------------------------------------------------------------------------------

GIVEN = Artefacts(firmware=firmware(), image=b"an image", measured_config=bytes(range(32)))


def measured(artefacts: Artefacts = GIVEN, shape: Shape = SHAPE) -> Register:
    return snp.predict(artefacts, shape).registers["measurement"]


def test_a_prediction_names_its_parts() -> None:
    found = snp.predict(GIVEN, SHAPE)
    assert (found.platform, found.boot, found.shape) == ("snp", "direct", "s")
    register = found.registers["measurement"]
    assert (register.bank, register.extended, len(register.value)) == ("sha384", False, 48)
    assert [event.name for event in register.events] == [
        "firmware",
        "firmware memory",
        "secrets page",
        "processor features page",
        "kernel hashes",
        "first processor",
        "further processor",
    ]
    assert register.events[0].digest == hashlib.sha384(firmware()).digest()
    assert all(len(event.digest) == 48 for event in register.events)


def test_host_data_is_the_configurations_digest() -> None:
    register = snp.predict(GIVEN, SHAPE).registers["host_data"]
    assert (register.bank, register.value, register.extended) == ("sha256", bytes(range(32)), False)
    without = snp.predict(replace(GIVEN, measured_config=None), SHAPE)
    assert "host_data" not in without.registers
    assert "no measured configuration" in without.unpredicted["host_data"]
    assert without.registers["measurement"] == measured()


CHANGES = [
    ("image", replace(GIVEN, image=b"another image"), SHAPE, {"kernel hashes"}),
    ("cpu", GIVEN, SHAPE.model_copy(update={"cpu": "EPYC-Genoa"}), {"first processor", "further processor"}),
    ("firmware", replace(GIVEN, firmware=firmware(reset=0x80B008)), SHAPE, {"firmware", "further processor"}),
]


@pytest.mark.parametrize(("what", "artefacts", "shape", "moved"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_change_moves_the_parts_that_name_it(what: str, artefacts: Artefacts, shape: Shape, moved: set[str]) -> None:
    found = measured(artefacts, shape)
    assert found.value != measured().value
    pairs = list(zip(found.events, measured().events, strict=True))
    assert {ours.name for ours, theirs in pairs if ours.digest != theirs.digest} == moved
    assert any(what in ours.inputs for ours, theirs in pairs if ours.digest != theirs.digest)


def test_a_processor_more_is_a_part_more() -> None:
    more = measured(shape=SHAPE.model_copy(update={"vcpus": 3}))
    assert more.events[:-1] == measured().events
    assert more.events[-1].inputs[0] == "vcpus"
    assert more.value != measured().value


def test_memory_and_devices_move_nothing() -> None:
    changed = SHAPE.model_copy(update={"memory_mib": 65536, "gpus": 4, "disks": ("image",)})
    assert measured(shape=changed) == measured()


def test_from_disk_the_hashes_stay_empty() -> None:
    disk = SHAPE.model_copy(update={"boot": "disk"})
    assert measured(replace(GIVEN, image=None), disk) == measured(GIVEN, disk)
    assert measured(GIVEN, disk).value != measured().value


def test_a_plain_kernel_is_hashed_with_its_initrd_and_command_line() -> None:
    plain = PlainKernel(kernel=b"kernel", initrd=b"initrd", command_line="quiet")
    found = measured(Artefacts(firmware=firmware(), kernel=plain))
    assert found.value == chain(firmware(), vcpus=2, kernel=snp.Kernel(b"kernel", b"initrd", "quiet"))
    (event,) = [event for event in found.events if event.name == "kernel hashes"]
    assert event.inputs == ("kernel", "initrd", "command line")


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("artefacts", "said"),
    [
        (replace(GIVEN, firmware=None), "no firmware given"),
        (replace(GIVEN, image=None), "no image given"),
        (replace(GIVEN, firmware=b""), "firmware of 0 bytes"),
        (replace(GIVEN, firmware=firmware()[1:]), "firmware of 8191 bytes"),
        (replace(GIVEN, firmware=bytes(17 << 20)), "at most"),
        (replace(GIVEN, firmware=bytes(8192)), "no SEV-SNP metadata"),
        (replace(GIVEN, firmware=firmware(SECTIONS[:3])), "no place for the hashes"),
        (replace(GIVEN, firmware=firmware(count=2**32 - 1)), "SEV metadata"),
        (replace(GIVEN, firmware=firmware(((0, 0xFFFFF000, 1), *SECTIONS))), "more than they can hold"),
        (replace(GIVEN, firmware=firmware(((0, 0x1001, 1), *SECTIONS))), "not whole pages"),
        (replace(GIVEN, firmware=firmware(((0, 0x1000, 0x77), *SECTIONS))), "SEV metadata"),
        (replace(GIVEN, firmware=firmware(((0, 0x1000, 1),) * 65)), "65 sections"),
        (replace(GIVEN, firmware=firmware(reset=0)), "SEV metadata"),
    ],
)
def test_what_cannot_be_measured_is_refused(artefacts: Artefacts, said: str) -> None:
    assert measured().value  # the control: the same call with everything in order
    with pytest.raises(ArtefactError, match=said):
        snp.predict(artefacts, SHAPE)


def test_an_unknown_processor_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(MeasurementError, match=r"'Skylake'.*EPYC-Genoa"):
        snp.predict(GIVEN, SHAPE.model_copy(update={"cpu": "Skylake"}))


def test_a_shape_of_another_platform_is_refused() -> None:
    with pytest.raises(MeasurementError, match="expected snp"):
        snp.predict(GIVEN, SHAPE.model_copy(update={"platform": "tdx"}))


def test_a_digest_of_another_length_is_refused() -> None:
    with pytest.raises(MeasurementError, match="expected 32"):
        snp.predict(replace(GIVEN, measured_config=bytes(31)), SHAPE)


@given(st.binary(max_size=64), st.integers(0, 8191))
def test_damaged_firmware_is_measured_or_refused(damage: bytes, at: int) -> None:
    content = (firmware()[:at] + damage + firmware()[at + len(damage) :])[:8192]
    try:
        found = snp.launch_digest(content, vcpus=2, cpu=CPU, kernel=snp.Kernel(b""))
    except ArtefactError:
        return
    assert (found.value == snp.launch_digest(firmware(), vcpus=2, cpu=CPU, kernel=snp.Kernel(b"")).value) == (
        content == firmware()
    )
