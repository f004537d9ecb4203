"""QEMU as a witness: started, stopped before its first instruction, and asked what it would hand to firmware.

It speaks its test protocol on standard input and output (QEMU ``system/qtest.c``); the configuration device is read
by its DMA (QEMU ``docs/specs/fw_cfg.rst``).
"""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from typing import Self

import pytest

PROGRAM = shutil.which("qemu-system-x86_64")
DIRECTORY = 0x19
SCRATCH = 16 << 20
ACCESS = struct.Struct(">IIQ")
READ_SELECTED = 0x02 | 0x08
with_qemu = pytest.mark.skipif(PROGRAM is None, reason="qemu-system-x86_64 is not installed")


class Qemu:
    """A QEMU that has not begun to run, as a context; a machine type among the arguments replaces q35."""

    def __init__(self, *arguments: str) -> None:
        machine = () if "-machine" in arguments else ("-machine", "q35")
        command = [PROGRAM or "", *machine, "-accel", "tcg", "-nodefaults", "-display", "none", "-S", *arguments]
        self._process = subprocess.Popen(
            [*command, "-qtest", "stdio", "-qtest-log", "/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def refused(self) -> bool:
        """Whether it ended by itself, because it would not make such a machine."""
        try:
            _, said = self._process.communicate(input="", timeout=30)
        except subprocess.TimeoutExpired:
            return False
        return self._process.returncode == 1 and "invalid" in said

    def item(self, key: int, size: int) -> bytes:
        """The first bytes of an item, by the device's DMA through memory that nobody uses yet."""
        data = SCRATCH + ACCESS.size
        request = READ_SELECTED | key << 16
        self._ask(f"write {SCRATCH:#x} {ACCESS.size:#x} 0x{ACCESS.pack(request, size, data).hex()}")
        self._ask("outl 0x514 0x0")
        self._ask(f"outl 0x518 {int.from_bytes(SCRATCH.to_bytes(4, 'big'), 'little'):#x}")
        return base64.b64decode(self._ask(f"b64read {data:#x} {size:#x}"), validate=True)

    def file(self, name: str) -> bytes:
        """A named file, whole."""
        (count,) = struct.unpack(">I", self.item(DIRECTORY, 4))
        for size, key, _, raw in struct.iter_unpack(">IHH56s", self.item(DIRECTORY, 4 + 64 * count)[4:]):
            if raw.rstrip(b"\0").decode() == name:
                return self.item(key, size)
        raise AssertionError(name)

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().removeprefix("OK").strip()
