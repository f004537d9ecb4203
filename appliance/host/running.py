"""A machine that was launched: found again by its directory, looked at, stopped.

In: what the launch wrote down. Out: whether it still runs, what it said, its end.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.host.control import Control
from appliance.host.errors import ControlError, LaunchError
from appliance.host.follow import tail
from appliance.host.machine import FILES
from appliance.host.record import Record, held, machine_directory, read_record

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

POWERDOWN_S = 90.0
PRESS_S = 15
"""The power button is pressed again that often: a guest that has only begun to boot does not hear the first time."""
QUIT_S = 10.0
CONTROL_S = 10.0
WATCH_S = 1.0
TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class RunningVm:
    """A machine that was launched; it may have ended since."""

    directory: Path
    record: Record

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def console(self) -> Path:
        """The file with everything the guest wrote to its serial port."""
        return self.directory / FILES.console

    @property
    def forwards(self) -> dict[int, int]:
        """Loopback port of the host by port of the guest."""
        return dict(self.record.forwards)

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self.record.qemu.pid

    @property
    def accel(self) -> str:
        """``kvm`` or ``tcg``."""
        return self.record.accel

    @property
    def commands(self) -> tuple[str, ...]:
        """What was run, as a shell takes it."""
        return self.record.commands

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self.record.qemu.identity.alive

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The console's last lines, and QEMU's own words where it left any."""
        said = tail(self.console, lines), tail(self.directory / FILES.qemu_log, lines)
        return "\n".join(text for text in said if text) or "nothing was said"

    async def stop(self, seconds: float = POWERDOWN_S) -> str:
        """End the machine: power button, QEMU's own end, then by force; each only where the one before did not do.

        Args:
            seconds: How long the guest gets after the power button; 0 leaves it out.

        Returns:
            What ended it: ``powerdown``, ``quit``, ``kill``, or ``ended`` where it had ended before.
        """
        return await asyncio.to_thread(_stop, self, seconds)

    async def wait(self) -> None:
        """Until QEMU has ended."""
        while not await asyncio.to_thread(self.record.qemu.identity.wait, WATCH_S):
            pass


def find(name: str) -> RunningVm:
    """A machine that was launched before, by name.

    Raises:
        LaunchError: None of this name was.
    """
    directory = machine_directory(name)
    return RunningVm(directory, read_record(directory))


async def delete(vm: RunningVm) -> None:
    """Remove an ended machine's directory: its logs, its TPM, its state.

    Raises:
        LaunchError: It runs.
    """
    if vm.alive:
        raise LaunchError(f"{vm.name} runs", hint=f"chrysalis vm stop {vm.name}")
    with held(vm.directory):
        await asyncio.to_thread(shutil.rmtree, vm.directory)


def _stop(vm: RunningVm, seconds: float) -> str:
    with held(vm.directory):
        how = _end_qemu(vm, seconds)
        if vm.record.swtpm is not None and not vm.record.swtpm.identity.wait(QUIT_S):  # it ends with QEMU
            vm.record.swtpm.identity.end(QUIT_S)
        log.info("vm stopped", name=vm.name, reason=how)
        return how


def _end_qemu(vm: RunningVm, seconds: float) -> str:
    qemu = vm.record.qemu.identity
    if not qemu.alive:
        return "ended"
    presses = [min(PRESS_S, seconds - done) for done in range(0, math.ceil(seconds), PRESS_S)]
    for command, patience in (*(("system_powerdown", part) for part in presses), ("quit", QUIT_S)):
        try:
            with Control(vm.directory, CONTROL_S) as control:
                control.ask(command)
        except ControlError:
            if qemu.wait(0):
                return command.removeprefix("system_")
            continue
        if qemu.wait(patience):
            return command.removeprefix("system_")
    qemu.end(QUIT_S)
    return "kill"
