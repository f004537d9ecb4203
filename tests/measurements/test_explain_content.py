"""What events say of themselves: shown where the digest is the hash of it, a hint otherwise, printable always."""

from __future__ import annotations

import hashlib
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.eventlog import Event
from measurements.explain_content import KNOWN, MAX_SHOWN, known, said, shown

GUID = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
DRIVER, BOOT, TAG, IPL, CRTM, GPT, IMAGE = 0x80000001, 0x80000002, 6, 0xD, 8, 0x80000006, 0x80000003


def variable(name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA."""
    return GUID + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def partitions(*names: str) -> bytes:
    """UEFI_GPT_DATA."""
    header = b"EFI PART".ljust(56, b"\0") + uuid.UUID(int=5).bytes_le + bytes(20)
    entries = (bytes(56) + name.encode("utf-16-le").ljust(72, b"\0") for name in names)
    return header + struct.pack("<Q", len(names)) + b"".join(entries)


def event(kind: int, data: bytes, hashed: bytes | None = None) -> Event:
    content = data if hashed is None else hashed
    return Event(1, kind, {"sha384": hashlib.sha384(content).digest()}, data)


@pytest.mark.parametrize(
    ("kind", "data", "hashed", "text", "covered", "moved"),
    [
        (DRIVER, variable("SecureBoot", b"\1"), None, "variable SecureBoot = 1", True, "firmware variables"),
        (DRIVER, variable("PK", b""), None, "variable PK empty", True, "firmware variables"),
        (DRIVER, variable("db", bytes(1000)), None, "variable db of 1000 bytes", True, "firmware variables"),
        (DRIVER, variable("Other", b"12"), None, "variable Other of 2 bytes", True, "firmware variables"),
        (BOOT, variable("BootOrder", b"\1\0\0\0"), None, "boot order 0001, 0000", True, "boot"),
        (BOOT, variable("BootOrder", b"\1\0\0\0"), b"\1\0\0\0", "boot order 0001, 0000", False, "boot"),
        (BOOT, variable("Boot0003", b"\1\0\0\0\4\0" + "Disk\0".encode("utf-16-le")), None, "boot option 0003 'Disk'",
         True, "devices"),
        (CRTM, "2025.02\0".encode("utf-16-le"), None, "firmware version '2025.02'", True, "firmware"),
        (CRTM, b"\0\0", None, "firmware version ''", True, "firmware"),
        (TAG, struct.pack("<II", 7, 4) + b"quie", b"quie", "quie", True, None),
        (TAG, struct.pack("<II", 7, 14) + "options".encode("utf-16-le"), "options".encode("utf-16-le"), "options", True,
         None),
        (TAG, struct.pack("<II", 7, 3) + b"LO\0", b"quiet", "EV_EVENT_TAG LO", False, None),
        (GPT, partitions("esp", "root"), None, f"disk {uuid.UUID(int=5)} with partitions esp, root", True, "disk"),
        (GPT, partitions(*"abcdefghij"), None,
         f"disk {uuid.UUID(int=5)} with partitions a, b, c, d, e, f, g, h and 2 more", True, "disk"),
        (IPL, b"grub_cmd: linux /vmlinuz\0", b"linux /vmlinuz", "linux /vmlinuz", True, None),
        (IPL, b".linux\0", b"a kernel", "EV_IPL .linux", False, None),
        (IPL, b"\xff\xfe\xfd", None, "3 bytes fffefd", True, None),
        (IPL, b"", b"x", "EV_IPL", False, None),
        (0x12345, b"a", b"x", "0x00012345 a", False, None),
        (4, bytes(4), None, "separator", True, None),
        (4, b"\1\0\0\0", None, "separator that reports an error", True, "firmware"),
        (IPL, b"lying", b"ready", "phase ready", True, "phase"),
    ],
)  # fmt: skip
def test_an_event_says(  # noqa: PLR0917 - one argument for each column
    kind: int, data: bytes, hashed: bytes | None, text: str, covered: bool, moved: str | None
) -> None:
    found = said(event(kind, data, hashed), "sha384")
    assert (found.text, found.covered, found.input) == (text, covered, moved)
    if covered and text != "phase ready":
        lied = Event(1, kind, {"sha384": bytes(48)}, data)
        assert not said(lied, "sha384").covered, "control: the same data under another digest"


def test_what_is_measured_on_many_machines_is_known_by_its_digest() -> None:
    assert len(known("sha256")) == len(known("sha384")) == len(KNOWN)
    assert said(Event(1, IPL, {"sha256": hashlib.sha256(bytes(4)).digest()}, b"a lie"), "sha256").text == "separator"


@given(st.binary(max_size=400), st.sampled_from([DRIVER, BOOT, TAG, IPL, CRTM, GPT, IMAGE, 99]), st.booleans())
def test_every_text_is_printable_and_bounded(data: bytes, kind: int, covered: bool) -> None:
    found = said(event(kind, data, data if covered else b"?"), "sha384")
    assert found.text.isprintable()
    assert len(found.text) < MAX_SHOWN * 10 + 200
    if covered and kind != TAG:
        assert found.covered


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_lengths_that_lie_are_no_variable_and_no_table(characters: int, length: int, count: int) -> None:
    data = GUID + struct.pack("<QQ", characters, length) + b"P\0K\0"
    assert said(event(DRIVER, data), "sha384").text
    table = partitions("a")
    assert said(event(GPT, table[:92] + struct.pack("<Q", count) + table[100:]), "sha384").text


def test_long_texts_are_cut_and_marked() -> None:
    assert shown("a" * 1000) == "a" * MAX_SHOWN + "… (1000 characters)"
    assert shown("\x1b[31m\u202egnp.exe") == "\\x1b[31m\\u202egnp.exe"
