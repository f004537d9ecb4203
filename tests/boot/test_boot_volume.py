"""The configuration volume: what is packed is read back, anything else is refused."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.boot.errors import GuestConfigError
from appliance.boot.volume import (
    ALIGNMENT,
    BLOCK,
    GAS_KEY,
    MAX_KEY_BYTES,
    MAX_TEXT_BYTES,
    MAX_VOLUME_BYTES,
    TEXTS,
    pack,
    parse,
)

TEXT = {"measured.toml": b"a = 1\n", "owner.toml": b"b = 2\n", "host.toml": b"c" * 600}
contents = st.fixed_dictionaries(
    {name: st.binary(min_size=1, max_size=2000) for name in TEXTS},
    optional={GAS_KEY: st.binary(min_size=1, max_size=200)},
)


@given(contents, st.integers(0, 3))
def test_what_is_packed_is_read_back(members: dict[str, bytes], blocks: int) -> None:
    data = pack(members)
    assert len(data) % ALIGNMENT == 0
    assert parse(data + bytes(blocks * BLOCK)) == members


def test_tar_reads_it() -> None:
    """The form is plain ustar: any archive program shows what is in a volume."""
    with tarfile.open(fileobj=io.BytesIO(pack(TEXT | {GAS_KEY: b"k"}))) as archive:
        assert [(entry.name, entry.mode, entry.uid, entry.mtime) for entry in archive.getmembers()] == [
            (name, 0o400, 0, 0) for name in (*TEXTS, GAS_KEY)
        ]
        content = archive.extractfile("owner.toml")
        assert content is not None
        assert content.read() == TEXT["owner.toml"]


@given(contents, st.data())
def test_a_changed_byte_changes_a_member_or_is_refused(members: dict[str, bytes], data: st.DataObject) -> None:
    volume = bytearray(pack(members))
    at = data.draw(st.integers(0, len(volume) - 1))
    volume[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(GuestConfigError):
        assert parse(bytes(volume)) != members


@given(st.binary(max_size=4 * BLOCK))
@example(b"")
@example(bytes(ALIGNMENT))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(GuestConfigError):
        parse(data)


@given(contents, st.integers(1, ALIGNMENT))
def test_a_cut_volume_is_refused(members: dict[str, bytes], cut: int) -> None:
    data = pack(members)
    used = len(data.rstrip(b"\0"))
    with pytest.raises(GuestConfigError):
        parse(data[: min(used - 1, len(data) - cut)])


@pytest.mark.parametrize(
    "members",
    [
        dict.fromkeys(TEXTS[:2], b"x"),
        TEXT | {"init.sh": b"x"},
        TEXT | {"owner.toml": b""},
        TEXT | {"host.toml": b"x" * (MAX_TEXT_BYTES + 1)},
        TEXT | {GAS_KEY: b"x" * (MAX_KEY_BYTES + 1)},
    ],
)
def test_only_the_stated_members_within_bounds(members: dict[str, bytes]) -> None:
    with pytest.raises(GuestConfigError):
        pack(members)
    assert parse(pack(TEXT)) == TEXT


def entry(name: str, size: int = 1, **fields: object) -> bytes:
    """A header as an archive program writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o400
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("what", "header"),
    [
        ("a link", entry("owner.toml", type=tarfile.SYMTYPE, linkname="/etc/shadow")),
        ("a directory", entry("owner.toml", type=tarfile.DIRTYPE)),
        ("a path", entry("../owner.toml")),
        ("an owner", entry("owner.toml", uname="root")),
        ("a huge size", entry("owner.toml", size=0o77777777777)),
        ("the name twice", entry("measured.toml")),
    ],
)
def test_other_members_are_refused(what: str, header: bytes) -> None:
    data = bytearray(pack(TEXT))
    at = data.index(b"owner.toml")
    data[at : at + BLOCK] = header
    with pytest.raises(GuestConfigError):
        parse(bytes(data))
    assert what


def test_bytes_behind_the_end_are_refused() -> None:
    data = pack(TEXT)
    assert parse(data + bytes(ALIGNMENT)) == TEXT
    with pytest.raises(GuestConfigError, match="behind the last member"):
        parse(data + bytes(ALIGNMENT - 1) + b"x")
    with pytest.raises(GuestConfigError, match="more than"):
        parse(data + bytes(MAX_VOLUME_BYTES))
