"""QEMU's test protocol: what a far end may say is bounded and checked. (What a real one says: test_acpi_capture.)"""

from __future__ import annotations

import base64
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from appliance.host.errors import ControlError
from appliance.host.qtest import MAX_FILES, MAX_ITEM, Qtest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "qtest.sock"
ITEMS = {0x19: struct.pack(">I", 1) + struct.pack(">IHH56s", 5, 0x2B, 0, b"etc/acpi/tables"), 0x2B: b"DSDT!"}


class Device:
    """A configuration device behind the protocol: memory as a dictionary of ranges, DMA as QEMU does it."""

    def __init__(self, items: dict[int, bytes]) -> None:
        self._items = items
        self._memory: dict[int, bytes] = {}

    def answer(self, line: str) -> str:
        word, *rest = line.split()
        if word == "write":
            self._memory[int(rest[0], 16)] = bytes.fromhex(rest[2][2:])
        elif word == "b64read":
            content = self._memory.get(int(rest[0], 16), b"")[: int(rest[1], 16)]
            return f"OK {base64.b64encode(content.ljust(int(rest[1], 16), bytes(1))).decode()}"
        elif word == "outl" and rest[0] == "0x518":
            at = int.from_bytes(int(rest[1], 16).to_bytes(4, "big"), "little")
            control, size, data = struct.unpack(">IIQ", self._memory[at])
            found = self._items.get(control >> 16)
            self._memory[at] = struct.pack(">I", 0 if found is not None else 1)
            self._memory[data] = (found or b"")[:size]
        return "OK"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Callable[[str], str | None]], Path]]:
    """A directory with a socket whose far end answers lines by a function; None ends the connection."""
    threads: list[threading.Thread] = []

    def serve(answer: Callable[[str], str | None]) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / NAME))
        listener.listen(1)

        def run() -> None:
            connection, _ = listener.accept()
            with listener, connection, connection.makefile("r") as lines:
                for line in lines:
                    said = answer(line)
                    if said is None:
                        return
                    connection.sendall(said.encode() + b"\n")

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return tmp_path

    yield serve
    for thread in threads:
        thread.join(10)


def test_files_are_listed_and_read(served: Callable[..., Path]) -> None:
    with Qtest(served(Device(ITEMS).answer), NAME) as qtest:
        files = qtest.configuration_files()
        assert files == {"etc/acpi/tables": (0x2B, 5)}
        assert qtest.configuration_item(*files["etc/acpi/tables"]) == b"DSDT!"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _line: "FAIL Unknown command", "answered b'FAIL"),
        (lambda _line: None, "ended"),
        (lambda line: "OK !" if line.startswith("b64read") else "OK", "not base64"),
        (lambda line: "OK AAAA" if line.startswith("b64read") else "OK", "sent 3 bytes"),
        (Device({}).answer, "did not hand over item 0x19"),
        (Device({0x19: struct.pack(">I", MAX_FILES + 1)}).answer, "at most"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    served: Callable[..., Path], answer: Callable[[str], str | None], said: str
) -> None:
    with Qtest(served(answer), NAME) as qtest, pytest.raises(ControlError, match=said):
        qtest.configuration_files()


@pytest.mark.parametrize("size", [0, -1, MAX_ITEM + 1])
def test_an_item_is_bounded(served: Callable[..., Path], size: int) -> None:
    with Qtest(served(Device(ITEMS).answer), NAME) as qtest, pytest.raises(ControlError, match="are read"):
        qtest.configuration_item(0x2B, size)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="test socket"), Qtest(tmp_path, NAME):
        pass
