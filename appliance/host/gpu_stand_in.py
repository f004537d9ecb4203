"""A GPU that is not there, as QEMU's passed-through one: its configuration space and its memory windows, nothing else.

In: a socket for each GPU of a machine whose ACPI tables are captured. Out: a PCI Express function that QEMU takes for a
device of the host (``vfio-user-pci``, QEMU 10.1 and later), so that firmware and QEMU treat it as they treat the real
one: a single function, of the same class in QEMU, with windows of the real sizes. Nothing ever runs on it.

Protocol: vfio-user 0.0 (QEMU ``docs/interop/vfio-user.rst``): messages of a 16-byte header and a body, each answered
unless its flags say that no reply is wanted, as those of a posted write do;
bodies are those of Linux' ``include/uapi/linux/vfio.h``. All integers are little-endian.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Self

from appliance.host.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

GIB, MIB = 1 << 30, 1 << 20
GPU_WINDOWS = {0: 16 * MIB, 2: 128 * GIB, 4: 32 * MIB}
"""Windows of an NVIDIA H100 by BAR in bytes, all 64-bit and prefetchable: regions 0, 2 and 4 of ``lspci -v``."""
MAX_MESSAGE = 64 * 1024

_HEADER = struct.Struct("<HHIII")  # number, command, size with header, flags, error
_REPLY, _NO_REPLY, _ERROR = 0x1, 0x10, 0x20
_INVALID = 22
_DEVICE_PCI = 0x2
_REGIONS, _INTERRUPTS = 9, 5
_CONFIGURATION = 7
_CONFIGURATION_BYTES = 4096
_RANGE = struct.Struct("<QII")


class Command(IntEnum):
    """Messages that are known here, by their numbers."""

    VERSION = 1
    MAP = 2
    UNMAP = 3
    INFO = 4
    REGION = 5
    INTERRUPT = 7
    SET_INTERRUPTS = 8
    READ = 9
    WRITE = 10
    RESET = 13


class GpuStandIn:
    """One GPU on one socket; use it as a context, around the machine's life.

    Args:
        directory: Where the socket is made; the path's length does not matter.
        name: The socket's name.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        except OSError as error:
            self._listener.close()
            raise LaunchError(f"a GPU's stand-in has no socket: {error.strerror}") from None
        finally:
            os.close(descriptor)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, name=f"stands in: {name}", daemon=True)

    def __enter__(self) -> Self:
        """Serve the machine that connects."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop; the machine has ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            for number, command, asked, body in messages(connection):
                if asked & _NO_REPLY:
                    continue  # what is written is forgotten: there is nothing to do either
                answer = reply(command, body)
                flags = _REPLY if answer is not None else _REPLY | _ERROR
                content = answer or b""
                size = _HEADER.size + len(content)
                error = 0 if answer is not None else _INVALID
                connection.sendall(_HEADER.pack(number, command, size, flags, error) + content)


def messages(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Messages until the far end closes, or sends what is none: number, command, flags, body."""
    while len(head := _exactly(connection, _HEADER.size)) == _HEADER.size:
        number, command, size, flags, _ = _HEADER.unpack(head)
        if not _HEADER.size <= size <= MAX_MESSAGE:
            return
        body = _exactly(connection, size - _HEADER.size)
        if len(body) != size - _HEADER.size:
            return
        yield number, command, flags, body


def reply(command: int, body: bytes) -> bytes | None:
    """The answer to a message; None where there is none but an error."""
    answer = _ANSWERS.get(command)
    try:
        return None if answer is None else answer(body)
    except struct.error:
        return None


def configuration() -> bytes:
    """The configuration space (PCI Local Bus 3.0, section 6.1; PCI Express 5.0, section 7.5.3): an endpoint."""
    space = bytearray(_CONFIGURATION_BYTES)
    struct.pack_into("<HHHH", space, 0x00, 0x10DE, 0x2330, 0, 0x10)  # NVIDIA, H100; it has capabilities
    space[0x08:0x0C] = bytes((0xA1, 0x00, 0x02, 0x03))  # revision; class: 3D controller
    for bar in GPU_WINDOWS:
        struct.pack_into("<I", space, 0x10 + 4 * bar, 0xC)  # memory, 64-bit, prefetchable
    struct.pack_into("<HH", space, 0x2C, 0x10DE, 0x16C1)
    space[0x34] = 0x60
    struct.pack_into("<BBH", space, 0x60, 0x10, 0, 0x2)  # PCI Express, the last one; version 2, endpoint
    return bytes(space)


def _size(index: int) -> int:
    return _CONFIGURATION_BYTES if index == _CONFIGURATION else GPU_WINDOWS.get(index, 0)


def _content(region: int, offset: int, count: int) -> bytes:
    if region != _CONFIGURATION:
        return bytes(count)
    return configuration()[offset : offset + count].ljust(count, b"\0")


def _done(_body: bytes) -> bytes:
    return b""


def _version(body: bytes) -> bytes:
    """The same version, and no capabilities beyond the least."""
    return struct.pack("<HH", *struct.unpack_from("<HH", body)) + b'{"capabilities":{}}\0'


def _info(_body: bytes) -> bytes:
    return struct.pack("<IIII", 16, _DEVICE_PCI, _REGIONS, _INTERRUPTS)


def _region(body: bytes) -> bytes:
    """A region's flags (it is read and written), number and size."""
    (index,) = struct.unpack_from("<I", body, 8)
    return struct.pack("<IIIIQQ", 32, 0x3, index, 0, _size(index), 0)


def _interrupt(body: bytes) -> bytes:
    """There are none of any kind."""
    (index,) = struct.unpack_from("<I", body, 8)
    return struct.pack("<IIII", 16, 0, index, 0)


def _read(body: bytes) -> bytes:
    offset, region, count = _RANGE.unpack_from(body)
    count = min(count, MAX_MESSAGE // 2)
    return _RANGE.pack(offset, region, count) + _content(region, offset, count)


def _write(body: bytes) -> bytes:
    """What is written is forgotten: QEMU keeps the registers that matter itself."""
    return _RANGE.pack(*_RANGE.unpack_from(body))


_ANSWERS: Mapping[int, Callable[[bytes], bytes]] = {
    Command.VERSION: _version,
    Command.MAP: _done,  # memory that it might read: it reads none
    Command.UNMAP: _done,
    Command.INFO: _info,
    Command.REGION: _region,
    Command.INTERRUPT: _interrupt,
    Command.SET_INTERRUPTS: _done,
    Command.READ: _read,
    Command.WRITE: _write,
    Command.RESET: _done,
}


def _exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the far end closes. Descriptors that come along are not taken."""
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            break
        found += part
    return found
