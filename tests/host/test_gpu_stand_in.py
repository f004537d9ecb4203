"""What stands in for a GPU: it answers what QEMU asks, says the real windows, and outlives no nonsense."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.host import gpu_stand_in
from appliance.host.errors import LaunchError
from appliance.host.gpu_stand_in import GPU_WINDOWS, MAX_MESSAGE, GpuStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = struct.Struct("<HHIII")


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[socket.socket]:
    """A connection to one; the directory's path is longer than a socket's may be."""
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    with GpuStandIn(directory, "gpu1.sock"), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        descriptor = os.open(directory, os.O_PATH)
        connection.connect(f"/proc/self/fd/{descriptor}/gpu1.sock")
        os.close(descriptor)
        yield connection


def ask(connection: socket.socket, command: int, body: bytes = b"", number: int = 7) -> tuple[int, bytes]:
    """Flags and body of an answer."""
    connection.sendall(HEADER.pack(number, command, HEADER.size + len(body), 0, 0) + body)
    head = connection.recv(HEADER.size, socket.MSG_WAITALL)
    answered, same, size, flags, error = HEADER.unpack(head)
    assert (answered, same) == (number, command)
    assert (error != 0) == bool(flags & 0x20)
    content = connection.recv(size - HEADER.size, socket.MSG_WAITALL) if size > HEADER.size else b""
    return flags, content


def read(connection: socket.socket, region: int, offset: int, count: int) -> bytes:
    flags, body = ask(connection, 9, struct.pack("<QII", offset, region, count))
    assert flags == 1
    assert struct.unpack_from("<QII", body) == (offset, region, count)
    return body[16:]


def test_it_says_what_an_h100_says(far_end: socket.socket) -> None:
    flags, body = ask(far_end, 1, struct.pack("<HH", 0, 0) + b"{}\0")
    assert flags == 1
    assert body == bytes(4) + b'{"capabilities":{}}\0'
    assert struct.unpack("<IIII", ask(far_end, 4, bytes(16))[1]) == (16, 2, 9, 5)
    sizes = {}
    for index in range(9):
        _, body = ask(far_end, 5, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        _, _, same, _, size, _ = struct.unpack("<IIIIQQ", body)
        assert same == index
        sizes[index] = size
    assert {index: size for index, size in sizes.items() if size} == {**GPU_WINDOWS, 7: 4096}
    assert GPU_WINDOWS == {0: 16 << 20, 2: 128 << 30, 4: 32 << 20}
    for index in range(5):
        assert struct.unpack("<IIII", ask(far_end, 7, struct.pack("<IIII", 16, 0, index, 0))[1])[3] == 0


def test_its_configuration_space_is_one_functions(far_end: socket.socket) -> None:
    space = read(far_end, 7, 0, 256)
    vendor, device = struct.unpack_from("<HH", space)
    assert (vendor, device) == (0x10DE, 0x2330)
    assert space[0x09:0x0C] == bytes((0, 2, 3))  # 3D controller
    assert space[0x0E] == 0  # one function, no bridge
    bars = struct.unpack_from("<6I", space, 0x10)
    assert bars == (0xC, 0, 0xC, 0, 0xC, 0)  # 64-bit, prefetchable
    assert space[space[0x34]] == 0x10  # PCI Express
    assert read(far_end, 7, 4090, 16) == bytes(16)
    assert read(far_end, 2, 1 << 36, 4) == bytes(4)


def test_what_is_written_is_forgotten(far_end: socket.socket) -> None:
    flags, body = ask(far_end, 10, struct.pack("<QII", 4, 7, 2) + b"\xff\xff")
    assert (flags, struct.unpack("<QII", body)) == (1, (4, 7, 2))
    assert read(far_end, 7, 0, 256) == gpu_stand_in.configuration()[:256]
    for command in (2, 3, 8, 13):
        assert ask(far_end, command, bytes(32)) == (1, b"")


@pytest.mark.parametrize(("command", "body"), [(6, b""), (99, b""), (5, b"short"), (9, b""), (1, b"")])
def test_what_it_does_not_know_is_an_error_and_no_end(far_end: socket.socket, command: int, body: bytes) -> None:
    assert ask(far_end, command, body)[0] == 0x21
    assert ask(far_end, 13)[0] == 1


@pytest.mark.parametrize("size", [0, HEADER.size - 1, MAX_MESSAGE + 1, 0xFFFFFFFF])
def test_a_message_of_no_size_ends_it(far_end: socket.socket, size: int) -> None:
    far_end.sendall(HEADER.pack(1, 4, size, 0, 0))
    assert far_end.recv(1) == b""


def test_a_message_that_is_cut_off_ends_it(far_end: socket.socket) -> None:
    far_end.sendall(HEADER.pack(1, 4, 64, 0, 0) + b"part")
    far_end.shutdown(socket.SHUT_WR)
    assert far_end.recv(1) == b""


def test_every_message_of_its_list_is_answered_and_no_other() -> None:
    """The numbers are those of vfio-user 0.0; both lists, of names and of answers, have them."""
    numbers = {1, 2, 3, 4, 5, 7, 8, 9, 10, 13}
    assert {command.value for command in gpu_stand_in.Command} == numbers
    assert set(gpu_stand_in._ANSWERS) == set(gpu_stand_in.Command)
    assert {number for number in range(64) if gpu_stand_in.reply(number, bytes(64)) is not None} == numbers


@pytest.mark.parametrize("flags", [0, 0x10])
@pytest.mark.parametrize(("command", "body"), [(10, struct.pack("<QII", 4, 7, 2) + b"\xff\xff"), (99, b"")])
def test_a_message_that_wants_no_reply_gets_none(far_end: socket.socket, command: int, body: bytes, flags: int) -> None:
    """Not an error either; without the flag the same message is answered (control)."""
    far_end.sendall(HEADER.pack(1, command, HEADER.size + len(body), flags, 0) + body)
    far_end.sendall(HEADER.pack(2, 13, HEADER.size, 0, 0))
    first = HEADER.unpack(far_end.recv(HEADER.size, socket.MSG_WAITALL))
    assert first[:2] == ((2, 13) if flags else (1, command))


def test_messages_are_given_with_their_flags() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(HEADER.pack(1, 10, HEADER.size + 4, 0x10, 0) + b"body" + HEADER.pack(2, 13, HEADER.size, 0, 0))
        theirs.shutdown(socket.SHUT_WR)
        assert list(gpu_stand_in.messages(ours)) == [(1, 10, 0x10, b"body"), (2, 13, 0, b"")]


@given(st.integers(0, 20), st.binary(max_size=48))
def test_any_body_is_answered_within_bounds(command: int, body: bytes) -> None:
    answer = gpu_stand_in.reply(command, body)
    assert answer is None or len(answer) <= MAX_MESSAGE


def test_nobody_connects(tmp_path: Path) -> None:
    with GpuStandIn(tmp_path, "gpu1.sock"):
        assert (tmp_path / "gpu1.sock").is_socket()


def test_a_socket_that_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpu1.sock").write_bytes(b"")
    with pytest.raises(LaunchError, match="no socket"):
        GpuStandIn(tmp_path, "gpu1.sock")
