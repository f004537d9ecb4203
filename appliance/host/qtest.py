"""QEMU's test protocol on a socket: ports and memory of a running machine from outside, and its configuration device.

Protocol: QEMU ``system/qtest.c`` (one command a line, answered by ``OK`` and a value); it works beside any accelerator.
Configuration device: QEMU docs/specs/fw_cfg.rst (selector and directory, DMA). The device has one current item that it
shares with the guest: stop the machine before reading, and do not let it go on after.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
import struct
from typing import TYPE_CHECKING, Self

from appliance.host.errors import ControlError

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_S = 60.0
MAX_ANSWER = 8 << 20
MAX_FILES = 4096
MAX_ITEM = 4 << 20
"""QEMU makes ``etc/acpi/tables`` of 128 KiB, for the largest machines of a few times as much."""

_DIRECTORY = 0x19
_DMA_HIGH, _DMA_LOW = 0x514, 0x518
_READ, _SELECT = 0x02, 0x08
_ACCESS = struct.Struct(">IIQ")
_ENTRY = struct.Struct(">IHH56s")
_SCRATCH = 16 << 20
"""Guest-physical address that is memory on every machine of at least 512 MiB; what was there is lost."""


class Qtest:
    """A connection to a QEMU that was started with ``-qtest unix:…``; use it as a context.

    Args:
        directory: Where the socket is; the path's length does not matter.
        name: The socket's name.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(ANSWER_S)
        self._buffer = b""

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ControlError: Nobody listens.
        """
        descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{descriptor}/{self._name}")
        except OSError as error:
            self._socket.close()
            raise ControlError(f"QEMU's test socket: {error.strerror or error}") from None
        finally:
            os.close(descriptor)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Disconnect."""
        self._socket.close()

    def configuration_files(self) -> dict[str, tuple[int, int]]:
        """The directory of the configuration device.

        Returns:
            Key and size in bytes by name.

        Raises:
            ControlError: No directory, or one beyond its bounds.
        """
        (count,) = struct.unpack(">I", self.configuration_item(_DIRECTORY, 4))
        if count > MAX_FILES:
            raise ControlError(f"configuration device with {count} files, at most {MAX_FILES} are read")
        listing = self.configuration_item(_DIRECTORY, 4 + _ENTRY.size * count)[4:]
        return {
            name.rstrip(b"\0").decode("ascii", "replace"): (key, size)
            for size, key, _, name in _ENTRY.iter_unpack(listing)
        }

    def configuration_item(self, key: int, size: int) -> bytes:
        """The first ``size`` bytes of an item, by the device's DMA.

        Raises:
            ControlError: Too many bytes, or the device did not hand them over.
        """
        if not 0 < size <= MAX_ITEM:
            raise ControlError(f"item {key:#x} of {size} bytes, 1 to {MAX_ITEM} are read")
        data = _SCRATCH + _ACCESS.size
        self._write(_SCRATCH, _ACCESS.pack(key << 16 | _SELECT | _READ, size, data))
        # The registers are big-endian, and the low half starts the transfer.
        self._ask(f"outl {_DMA_HIGH:#x} 0x0")
        self._ask(f"outl {_DMA_LOW:#x} {int.from_bytes(struct.pack('<I', _SCRATCH), 'big'):#x}")
        (control,) = struct.unpack(">I", self._read(_SCRATCH, 4))
        if control:
            raise ControlError(f"QEMU's configuration device did not hand over item {key:#x}: {control:#x}")
        return self._read(data, size)

    def _write(self, address: int, content: bytes) -> None:
        self._ask(f"write {address:#x} {len(content):#x} 0x{content.hex()}")

    def _read(self, address: int, size: int) -> bytes:
        answer = self._ask(f"b64read {address:#x} {size:#x}")
        try:
            content = base64.b64decode(answer, validate=True)
        except binascii.Error:
            raise ControlError("QEMU's test socket sent what is not base64") from None
        if len(content) != size:
            raise ControlError(f"QEMU's test socket sent {len(content)} bytes, {size} were asked for")
        return content

    def _ask(self, command: str) -> str:
        """One command; what stands after OK."""
        try:
            self._socket.sendall(command.encode() + b"\n")
            while b"\n" not in self._buffer:
                data = self._socket.recv(1 << 16)
                if not data or len(self._buffer) + len(data) > MAX_ANSWER:
                    raise ControlError("QEMU's test socket ended, or sent a line without an end")
                self._buffer += data
        except OSError as error:
            raise ControlError(f"QEMU's test socket: {error}") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        word, _, rest = line.decode("ascii", "replace").partition(" ")
        if word != "OK":
            raise ControlError(f"QEMU's test socket answered {line[:80]!r} to {command.split(maxsplit=1)[0]}")
        return rest.strip()
