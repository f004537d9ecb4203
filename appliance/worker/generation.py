"""When evidence is over: what it speaks of has begun anew since it was made.

In: how often the engine became ready, and what the driver says of the GPUs. Out: a number that goes into the workload
statement and to gateways; they ask for evidence again when it grows. A machine's evidence covers its engine and its
GPUs, and an engine that was restarted, a GPU that was reset or a driver that was loaded again is another one: nobody
has judged it.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import structlog

from attestation.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attestation.gpu.nvml import Inventory

log = structlog.get_logger(__name__)

WATCH_S = 5.0
"""Seconds between two looks at the GPUs."""


class Generation:
    """The number.

    Args:
        begun: How often the engine became ready.
    """

    def __init__(self, begun: Callable[[], int]) -> None:
        self._begun = begun
        self._known = 0
        self._number = 0
        self._devices: bytes | None = None

    def look(self) -> int:
        """How often something began anew, as of now; the engine's first start is none."""
        begun = self._begun()
        if begun > max(1, self._known):
            self._end("engine", begun - max(1, self._known))
        self._known = max(self._known, begun)
        return self._number

    def devices(self, state: bytes) -> None:
        """Take note of the devices' state: one that differs from the last is another generation."""
        if self._devices is not None and state != self._devices:
            self._end("gpu")
        self._devices = state

    def _end(self, reason: str, times: int = 1) -> None:
        self._number += times
        log.warning("evidence is over", reason=reason, sequence=self._number)


async def watch_devices(generation: Generation, inventory: Callable[[], Inventory], module: Path) -> None:
    """Look at the GPUs until cancelled.

    A reset takes the ready state away or fails the driver's answer; a driver that is loaded again has another place in
    the kernel's tree.

    Args:
        generation: Is told what was seen.
        inventory: Asks the driver.
        module: The driver's directory under ``/sys/module``.
    """
    while True:
        generation.devices(await asyncio.to_thread(_state, inventory, module))
        await asyncio.sleep(WATCH_S)


def _state(inventory: Callable[[], Inventory], module: Path) -> bytes:
    try:
        found = inventory()
        words = [found.driver, str(found.confidential), str(found.devtools), str(found.ready)]
        words += [f"{gpu.uuid} {gpu.vbios}" for gpu in found.gpus]
    except AttestationError as error:
        words = [error.message]
    try:
        words.append(str(module.stat().st_ino))
    except OSError:
        words.append("no module")
    return hashlib.sha256("\n".join(words).encode()).digest()
