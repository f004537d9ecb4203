"""One engine process: started with its keys on a lifeline, its output kept from every log, ended with its whole group.

What the engine writes may hold content once it serves. Until then it cannot (no request has reached it), so a bounded
tail of its lines is kept in memory to explain a failed start, with the keys struck out. :meth:`EngineProcess.serving`
drops that tail; from then on only the class names of exceptions are counted, never a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

from appliance.engine.endpoint import HOST, Door, Endpoint
from appliance.engine.errors import EngineStartError
from appliance.engine.tool import kill_group, spawn

if TYPE_CHECKING:
    from appliance.engine.settings import EngineSettings

_TAIL_LINES = 40
_LINE_CHARACTERS = 400
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w]*\.)*(?P<name>[A-Z]\w{0,60}(?:Error|Exception|Interrupt))(?::|$)")
_MAX_EXCEPTION_NAMES = 32
_BUFFER = 1 << 16
_LAST_WORDS_S = 2.0


class Output:
    """Where the engine's lines end. Nothing of it is ever logged as it is."""

    def __init__(self, secret_words: tuple[str, ...]) -> None:
        self._secret_words = secret_words
        self._tail: deque[str] | None = deque(maxlen=_TAIL_LINES)
        self.exceptions: Counter[str] = Counter()

    def line(self, raw: bytes) -> None:
        """Take one line."""
        text = raw.decode(errors="replace").strip()
        name = exception_name(text)
        if name and (name in self.exceptions or len(self.exceptions) < _MAX_EXCEPTION_NAMES):
            self.exceptions[name] += 1
        if self._tail is not None and text:
            for word in self._secret_words:
                text = text.replace(word, "***")
            self._tail.append(text[:_LINE_CHARACTERS])

    def serving(self) -> None:
        """From now on requests reach the engine: forget the tail and keep none."""
        self._tail = None

    def tail(self) -> tuple[str, ...]:
        """The last lines of a start; empty once the engine has served."""
        return tuple(self._tail or ())


def exception_name(line: str) -> str:
    """The class that a line like ``package.SomeError: text`` names; empty for any other line."""
    named = _EXCEPTION.match(line)
    return named["name"] if named else ""


class EngineProcess:
    """A running engine and its children, which form one process group."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: Endpoint, output: Output, scratch: Path) -> None:
        self.endpoint = endpoint
        self.output = output
        self._process = process
        self._scratch = scratch
        self._reader = asyncio.create_task(self._read(), name="engine-output")

    @classmethod
    async def start(cls, settings: EngineSettings, python: Path, door: Door | None = None) -> Self:
        """Start the engine on loopback.

        Args:
            settings: What to start.
            python: The engine environment's interpreter.
            door: Its port and key; a free port and a fresh key by default.

        Raises:
            EngineStartError: The interpreter cannot be run.
        """
        try:
            scratch = Path(tempfile.mkdtemp(prefix="chrysalis-engine-"))  # 0700: the engine's sockets take pickles
            port = free_port() if door is None else door.port
        except OSError as error:
            raise EngineStartError(f"no directory or port for the engine: {error.strerror}") from error
        key = secrets.token_urlsafe(32) if door is None else door.key
        keys = {"api_key": key, "admin_api_key": secrets.token_urlsafe(32)}
        try:
            process = await spawn(
                [str(python), "-I", str(settings.launcher), *settings.arguments(port)],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=settings.environment(os.environ, scratch),
                cwd=scratch,
            )
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise EngineStartError(
                f"{python} cannot be run: {error.strerror}", hint="build the engine again"
            ) from error
        assert process.stdin is not None  # noqa: S101 -- asked for as a pipe above; narrows the type
        process.stdin.write(json.dumps(keys).encode() + b"\n")  # and it stays open: the lifeline
        endpoint = Endpoint(f"http://{HOST}:{port}", keys["api_key"])
        return cls(process, endpoint, Output(tuple(keys.values())), scratch)

    @property
    def pid(self) -> int:
        """The launcher's process id, which is its group's."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end; the exit status."""
        return await self._process.wait()

    async def last_words(self) -> str:
        """What best explains a failed start: the last exception's line, else the last line.

        Waits a moment for what the process wrote just before it ended; a child may still hold the other end.
        """
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS_S)
        tail = self.output.tail()
        named = [line for line in tail if exception_name(line)]
        return (named or list(tail) or ["it said nothing"])[-1]

    async def end(self, grace_s: float) -> None:
        """Ask it to stop, wait at most ``grace_s``, then kill whatever is left of its group; idempotent."""
        try:
            if self._process.returncode is None and grace_s > 0:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
        finally:
            kill_group(self._process)
            await asyncio.shield(self._finish())

    async def _finish(self) -> None:
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reader
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- a pipe; narrows the type
        rest = b""
        while part := await self._process.stdout.read(_BUFFER):
            *lines, rest = (rest + part).split(b"\n")
            rest = rest[-_BUFFER:]
            for line in lines:
                self.output.line(line)
        if rest:
            self.output.line(rest)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
