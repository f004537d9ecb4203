"""The machine this code starts: where its kernel's files are, and how its tools are run.

In: the root of the file system (``/`` in a guest, a directory of a test elsewhere). Out: bounded reads and commands
whose failure is an error that names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance.boot.errors import ToolError

log = structlog.get_logger(__name__)

MAX_FILE_BYTES = 1 << 20
MAX_OUTPUT_BYTES = 1 << 20
_SAID_CHARS = 200


@dataclass(frozen=True, slots=True)
class System:
    """A machine's file system.

    Attributes:
        root: Where it begins.
    """

    root: Path = Path("/")

    def path(self, absolute: str) -> Path:
        """The file of that absolute name on this machine."""
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of a file, at most ``limit``.

        Raises:
            OSError: It cannot be read.
        """
        with self.path(absolute).open("rb") as file:
            return file.read(limit)

    def text(self, absolute: str) -> str | None:
        """The text of a small file without surrounding white space; None where there is none."""
        try:
            return self.read(absolute).decode("utf-8", "replace").strip()
        except OSError:
            return None

    @property
    def stages(self) -> Path:
        """Where stage records are kept (one file each)."""
        return self.path("/run/chrysalis/stages")

    @property
    def config(self) -> Path:
        """Where the checked configuration is put for the services."""
        return self.path("/run/chrysalis/config")


async def run_tool(*command: str, stdin: bytes | None = None, limit_s: float = 60.0) -> bytes:
    """Run a program of the image and return its standard output.

    Nothing of its output goes to our own standard output, which is the console.

    Args:
        command: Program and arguments; never a secret.
        stdin: What it reads.
        limit_s: Seconds it has.

    Raises:
        ToolError: It is not there, failed, hung, or said more than a mebibyte.
    """
    shown = shlex.join(command)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ToolError(f"{shown}: {error.strerror}", hint="the image lacks it") from None
    try:
        async with asyncio.timeout(limit_s):
            out, said = await process.communicate(stdin)
    except TimeoutError:
        raise ToolError(f"{shown} did not end within {limit_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        words = " ".join(said.decode("utf-8", "replace").split())[:_SAID_CHARS]
        raise ToolError(f"{shown} ended with status {process.returncode}: {words}")
    if len(out) > MAX_OUTPUT_BYTES:
        raise ToolError(f"{shown} wrote {len(out)} bytes, at most {MAX_OUTPUT_BYTES}")
    return out
