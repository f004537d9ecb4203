"""Helpers that the tests of this room share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from appliance.lab import tee_service
from attestation import policy
from attestation.collateral import FileCollateral, StaticCollateral
from attestation.platforms import SimulatedTdx
from attestation.ratls import Identity
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.lab.tee import SyntheticTdx

NOW = 1_795_000_000.0
"""A fixed clock (November 2026) for everything that need not be real."""


async def settle() -> None:
    """Let far ends notice that their connections are closed, so that a test leaves no socket behind."""
    await asyncio.sleep(0.05)


class World:
    """A synthetic machine that answers in this process."""

    name = "simulated"

    def __init__(self, tdx: SyntheticTdx, **registers: bytes) -> None:
        self.tdx = tdx
        self.registers = registers

    async def collect(self, report_data: bytes) -> bytes:
        return self.tdx.quote(report_data, **self.registers)


def verifier_for(tdx: SyntheticTdx, *, now: float = NOW, **options: Any) -> Verifier:
    chosen = policy.for_name("simulated", simulated_roots=(tdx.root_der,), **options)
    return Verifier(chosen, StaticCollateral(tdx.collateral_json()), clock=lambda: now)


class Recorder(asyncio.Protocol):
    """An application protocol that remembers what happened; echoes when told."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.received = bytearray()
        self.paused = 0
        self.until_resumed = asyncio.Event()
        self.made = asyncio.Event()
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()
        if self.echo:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.until_resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()
        self._changed.set()

    async def wait_for(self, size: int) -> bytes:
        async with asyncio.timeout(20):
            while len(self.received) < size and not self.lost.is_set():
                self._changed.clear()
                await self._changed.wait()
        return bytes(self.received)


class Lab:
    """A quoting service, a verifier and two identities with the real clock."""

    def __init__(self, tdx: SyntheticTdx, socket: Path) -> None:
        self.tdx = tdx
        self.socket = socket
        self.policy = policy.for_name("simulated", simulated_roots=(tdx.root_der,))
        self.verifier = Verifier(self.policy, FileCollateral(tee_service.collateral_path(socket)))

    async def identity(self) -> Identity:
        return await Identity.create(SimulatedTdx(self.socket))
