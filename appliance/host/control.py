"""QEMU's control protocol (QMP, QEMU's docs/interop/qmp-spec.rst): ask, and order it to end. Bounded both ways.

The socket is reached through the machine's directory, so the length of the path does not matter (sun_path holds 108
bytes).
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, Self

from appliance.host.errors import ControlError
from appliance.host.machine import FILES

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_S = 10.0
MAX_LINE_BYTES = 1 << 20
MAX_EVENTS = 1000
"""Events that may come before an answer."""


class Control:
    """A connection to a running QEMU; use it as a context.

    Args:
        directory: The machine's directory.
        seconds: How long an answer may take.
    """

    def __init__(self, directory: Path, seconds: float = ANSWER_S) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(seconds)
        self._buffer = b""

    def __enter__(self) -> Self:
        """Connect and leave negotiation mode.

        Raises:
            ControlError: Nobody listens, or it does not speak the protocol.
        """
        try:
            self._connect()
            self._expect_greeting()
            self.ask("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Disconnect."""
        self._socket.close()

    def ask(self, command: str) -> Any:
        """One command without arguments; its return value.

        Raises:
            ControlError: It is refused, or no answer comes.
        """
        try:
            self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        except OSError as error:
            raise ControlError(f"QEMU's control socket: {error}") from None
        for _ in range(MAX_EVENTS):
            answer = self._read()
            if "error" in answer:
                raise ControlError(f"QEMU refused {command}: {str(answer['error'])[:200]}")
            if "return" in answer:
                return answer["return"]
        raise ControlError(f"{MAX_EVENTS} events and no answer to {command}")

    def state(self) -> str:
        """QEMU's run state: ``running``, ``internal-error``, ``shutdown``…."""
        answer = self.ask("query-status")
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise ControlError("QEMU's status is not an object with a text 'status'")
        return str(answer["status"])

    def _expect_greeting(self) -> None:
        if "QMP" not in self._read():
            raise ControlError("the control socket did not greet as QEMU does")

    def _connect(self) -> None:
        descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{descriptor}/{FILES.control}")
        except OSError as error:
            raise ControlError(f"QEMU's control socket: {error.strerror or error}") from None
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise ControlError(f"QEMU's control socket: {error}") from None
            if not data or len(self._buffer) + len(data) > MAX_LINE_BYTES:
                raise ControlError("QEMU's control socket ended, or sent a line without an end")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ControlError("QEMU's control socket sent what is not JSON") from None
        if not isinstance(value, dict):
            raise ControlError("QEMU's control socket sent what is not an object")
        return value
