"""A machine's console as text for a terminal: control sequences taken out, followed while the machine runs."""

from __future__ import annotations

import asyncio
import codecs
import re
from typing import TYPE_CHECKING

from appliance.host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.host.running import RunningVm

POLL_S = 0.3
CHUNK_BYTES = 65536
# ECMA-48, section 5.4: control sequences and two-byte escapes; then whatever else is no text.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text without anything that a terminal would act on; lines end with a line feed alone."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def tail(path: Path, lines: int, limit: int = CHUNK_BYTES) -> str:
    """The last lines of a file, plain; empty where it is missing or empty."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - limit))
            text = plain(handle.read().decode(errors="replace"))
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-lines:])


async def console_lines(vm: RunningVm, *, follow: bool) -> AsyncIterator[str]:
    """The console's lines from the beginning; with ``follow`` until the machine has ended.

    Raises:
        HostError: There is no console file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    try:
        handle = vm.console.open("rb")
    except OSError as error:
        raise HostError(f"{vm.console}: {error.strerror}") from None
    with handle:
        while True:
            alive = vm.alive  # before the read: what an ended machine said last is still shown
            while data := handle.read(CHUNK_BYTES):
                *lines, rest = (rest + decoder.decode(data)).split("\n")
                for line in lines:
                    yield plain(line)
            if not follow or not alive:
                break
            await asyncio.sleep(POLL_S)
    if rest:
        yield plain(rest)
