"""Images and predictions: digests that other programs computed of the same bytes, and files that are no image.

The golden digests of images are pesign's (0.112, ``pesign --hash``), those of register 11 systemd-measure's (257.13),
both of the bytes that :mod:`measure_support` writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct

import measure_support as images
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from measurements import authenticode, pe, tpm, uki
from measurements.errors import ArtefactError, MeasurementError

FULL = {
    ".ucode": b"ucode" * 50,
    ".splash": b"BM splash",
    ".pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
    ".profile": b"ID=main\n",
    ".pcrsig": b"{}",
    ".dtb": b"dtb",
}
PLAIN_DIGEST = "9a7d3a2b9bfa1b6cb1e8f064880ee9b3995409e1dcc623d2056a8cb7b12b798d"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (images.uki(), PLAIN_DIGEST),
        (images.uki(certificate=b"c" * 64), PLAIN_DIGEST),
        (images.uki(FULL), "6cf944031c1604bb0307b1676cdf33dcc0134090f854c8f69fff221fb2014be7"),
        (
            images.pe([(".text", b"a" * 600), (".x", b"")], plus=False, trailer=b"trailing"),
            "ae641156533f562d650fe7b9b6c8cfbd1a557384036c28b3c49ee0a41411912a",
        ),
    ],
    ids=["uki", "signed", "full", "pe32 with a trailer"],
)
def test_authenticode_is_what_another_program_computes(image: bytes, expected: str) -> None:
    assert authenticode.digest(image).hex() == expected


def test_authenticode_leaves_out_checksum_and_certificate_alone() -> None:
    image = bytearray(images.uki(certificate=b"c" * 64))
    layout = pe.parse(bytes(image))
    before = authenticode.digest(bytes(image))
    for offset in (layout.checksum, layout.certificate_offset):
        image[offset] ^= 1
        assert authenticode.digest(bytes(image)) == before
        image[offset] ^= 1
    for offset in (0x40, layout.checksum + 4, layout.headers_size - 1, layout.sections[-1].raw_offset):
        image[offset] ^= 1
        assert authenticode.digest(bytes(image)) != before
        image[offset] ^= 1
    assert len(authenticode.digest(bytes(image), "sha384")) == 48
    with pytest.raises(ArtefactError, match="md5"):
        authenticode.digest(bytes(image), "md5")


@pytest.mark.parametrize(
    ("sections", "phases", "expected"),
    [
        ({}, (), "225df4e2b1b36ebc1f999f305dbdf124784a58649d3527dec482b5c8acb44d92"),
        ({}, tpm.PHASES, "f179344c8d55c14c1f5096f2554cad96b9ad2119bf4994ff3b653bbefa0d9873"),
        (FULL, (), "ab9d83258941c966041c853a811dcbf70ae6c95bdd2dbb4a679649f58020c04e"),
        (FULL, tpm.PHASES, "851f833e145d311f3bf3e403c35d585a143068e4c275b4b5cd663c3f3674ceaf"),
    ],
    ids=["plain", "plain, ready", "full", "full, ready"],
)
def test_register_11_is_what_systemd_measure_computes(
    sections: dict[str, bytes], phases: tuple[str, ...], expected: str
) -> None:
    prediction = tpm.predict(images.uki(sections), boot="disk", phases=phases)
    assert prediction.registers[11].hex() == expected


def test_registers_follow_from_their_events() -> None:
    image = images.uki()
    direct, disk = (tpm.predict(image, boot=boot) for boot in ("direct", "disk"))
    names = [event.name for event in disk.events[4]]
    assert names == ["calling a boot option", "separator", "image", "kernel"]
    assert [event.name for event in direct.events[4]] == ["image", "calling a boot option", "separator", "kernel"]
    assert {register: value for register, value in disk.registers.items() if value != direct.registers[register]} == {
        4: disk.registers[4]
    }
    assert disk.registers[12] == bytes(32)
    for register, events in disk.events.items():
        value = bytes(32)
        for event in events:
            assert event.source
            value = hashlib.sha256(value + event.digest).digest()
        assert disk.registers[register] == value
    assert disk.events[4][2].digest.hex() == PLAIN_DIGEST


def test_register_9_holds_command_line_and_archives() -> None:
    events = tpm.predict(images.uki(), boot="disk").events[9]
    assert events[0].digest == hashlib.sha256((images.COMMAND_LINE + "\0").encode("utf-16-le")).digest()
    initrd = uki.parse(images.uki()).sections[".initrd"]
    release = b"ID=chrysalis\nVERSION_ID=1\n"
    words = b"%08x" * 13
    archive = (
        b"070701" + words % (1, 0o40555, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7, 0) + b".extra\0\0\0\0"
        b"070701" + words % (2, 0o100444, 0, 0, 1, 0, len(release), 0, 0, 0, 0, 18, 0) + b".extra/os-release\0"
        + release + bytes(2)
        + b"070701" + b"0" * 39 + b"1" + b"0" * 55 + b"B" + b"0" * 8 + b"TRAILER!!!\0" + bytes(3)
    )  # fmt: skip
    assert events[1].digest == hashlib.sha256(initrd + bytes(-len(initrd) % 4) + archive).digest()
    # One archive alone goes to the kernel as it is, without being filled up.
    alone = images.uki({".osrel": b""})
    assert tpm.predict(alone, boot="disk").events[9][1].digest == hashlib.sha256(initrd).digest()


@pytest.mark.parametrize(
    ("part", "moved"),
    [
        ({".linux": images.pe([(".text", b"other")])}, {4, 11}),
        ({".initrd": b"other"}, {4, 9, 11}),
        ({".osrel": b"ID=other\n"}, {4, 9, 11}),
        ({".cmdline": b"console=ttyS0 debug"}, {4, 9, 11}),
        ({".uname": b"6.13.0"}, {4, 11}),
        ({".pcrsig": b"{}"}, {4, 9}),
        ({".text": b"\xcc" * 701}, {4}),
    ],
)
def test_a_changed_part_moves_its_registers(part: dict[str, bytes], moved: set[int]) -> None:
    before = tpm.predict(images.uki(), boot="disk").registers
    after = tpm.predict(images.uki(part), boot="disk").registers
    assert {register for register in before if before[register] != after[register]} == moved


def test_command_line_is_read_as_the_stub_reads_it() -> None:
    assert uki.parse(images.uki(command_line=" \ta\tb\x7fc \n\0ignored")).command_line == "a b c"
    assert uki.parse(images.uki(command_line="größe=1")).command_line == "größe=1"


def test_a_section_is_measured_as_it_stands_in_memory() -> None:
    contents = [
        (".sdmagic", f"#### LoaderInfo: systemd-stub {images.STUB} ####".encode()),
        (".linux", b"MZ"),
        (".x", b"y"),
    ]
    grown = images.pe(contents, virtual_sizes={".linux": 1000})
    assert uki.parse(grown).sections[".linux"] == b"MZ" + bytes(998)
    assert uki.parse(images.pe(contents, virtual_sizes={".linux": 1})).sections[".linux"] == b"M"
    with pytest.raises(ArtefactError, match="grows by"):
        uki.parse(images.pe(contents, virtual_sizes={".linux": 2**31}))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "not a PE image"),
        (b"MZ" + bytes(100), "without a PE header"),
        (images.pe([(".linux", b"kernel")]), "without a systemd stub"),
        (images.uki({".linux": b""}), "without a kernel"),
        (images.uki({".sdmagic": b"#### LoaderInfo: systemd-boot 257 ####"}), "without a systemd stub"),
        (images.uki(stub="258.1"), "systemd-stub 258.1"),
        (images.uki(stub="254"), "systemd-stub 254"),
        (images.uki(command_line=""), "without a command line"),
        (images.uki(command_line="  "), "without a command line"),
        (images.uki({".cmdline": b"\xff"}), "not UTF-8"),
        (images.uki(command_line="a" * 20000), "command line of 20000"),
        (images.uki(command_line="\U0001f98b"), "beyond the 16 bits"),
        (images.uki({".hwids": b"x"}), r"\.hwids"),
        (images.uki({".linux": b"no kernel"}), "not a PE image"),
        (images.uki(certificate=b"c" * 64) + b"!", "expected at its end"),
        (images.uki()[:-1], "with a section from"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(image: bytes, message: str) -> None:
    assert tpm.predict(images.uki(), boot="disk").registers  # the control: nothing but the attack differs
    with pytest.raises(ArtefactError, match=message):
        tpm.predict(image, boot="disk")


def test_two_sections_of_one_name_are_refused() -> None:
    contents = [(".sdmagic", f"#### LoaderInfo: systemd-stub {images.STUB} ####".encode()), (".linux", b"MZ")]
    assert uki.parse(images.pe(contents)).stub_version == 257
    with pytest.raises(ArtefactError, match=r"two sections \.linux"):
        uki.parse(images.pe([*contents, (".linux", b"MZ")]))


def test_overlapping_sections_are_refused() -> None:
    image = bytearray(images.pe([(".a", b"a" * 512), (".b", b"b" * 512)]))
    assert authenticode.digest(bytes(image))
    table = bytes(image).index(b".a\0")
    struct.pack_into("<I", image, table + 20, pe.parse(bytes(image)).headers_size - 512)
    struct.pack_into("<II", image, table + 40 + 16, 1024, pe.parse(bytes(image)).headers_size)
    with pytest.raises(ArtefactError, match="overlap"):
        authenticode.digest(bytes(image))


def test_boot_and_phases_are_those_of_a_machine() -> None:
    image = images.uki()
    with pytest.raises(MeasurementError, match="phases"):
        tpm.predict(image, boot="disk", phases=("ready",))
    with pytest.raises(MeasurementError, match="boot by"):
        tpm.predict(image, boot="net")  # type: ignore[arg-type]  # what a caller without types may give


def test_configuration_register() -> None:
    digest = bytes(range(32))
    event = hashlib.sha256(b"chrysalis measured configuration v1\0" + digest).digest()
    assert tpm.configuration_digest(digest) == event
    assert tpm.configuration_register(digest) == hashlib.sha256(bytes(32) + event).digest()
    with pytest.raises(MeasurementError, match="31 bytes"):
        tpm.configuration_register(digest[1:])


@given(st.integers(0, 1023), st.binary(min_size=1, max_size=8))
@example(0x3C, b"\xff\xff\xff\xff")
@example(0x80 + 6, b"\xff\xff")
def test_damaged_headers_raise_the_declared_error_alone(offset: int, patch: bytes) -> None:
    image = bytearray(images.uki())
    image[offset : offset + len(patch)] = patch
    with contextlib.suppress(ArtefactError):
        assert len(tpm.predict(bytes(image), boot="disk").registers) == 4


@given(st.binary(max_size=600))
def test_noise_is_no_image(noise: bytes) -> None:
    for data in (noise, b"MZ" + noise, images.pe([])[:0x98] + noise):
        with contextlib.suppress(ArtefactError):
            authenticode.digest(data)
        with contextlib.suppress(ArtefactError):
            uki.parse(data)
