"""Launch a virtual machine.

In: a :class:`~appliance.host.machine.Machine`. Out: a :class:`RunningVm`. QEMU and its TPM run in sessions of their own
and outlive the command that started them; everything that later commands need is in the machine's directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from appliance.host.confidential import require_protection
from appliance.host.control import Control
from appliance.host.errors import ControlError, LaunchError
from appliance.host.follow import tail
from appliance.host.kept import keep, spawn
from appliance.host.kvm import Probe, decide_accel
from appliance.host.machine import FILES, QEMU, Machine, qemu_command, shown
from appliance.host.ports import with_ports
from appliance.host.programs import find_program, qemu_version, require
from appliance.host.record import Kept, Record, held, read_record, write_record
from appliance.host.running import CONTROL_S, QUIT_S, TAIL_LINES, RunningVm, find
from appliance.host.swtpm import is_manufactured, manufacture, start_swtpm
from appliance.host.volumes import require_artefacts, write_files
from measurements.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from appliance.host.kept import ProcessIdentity

__all__ = ["RunningVm", "find", "start"]

log = structlog.get_logger(__name__)

START_S = 60.0
POLL_S = 0.1
PORT_ATTEMPTS = 3
_PORT_TAKEN = "Could not set up host forwarding rule"


async def start(
    machine: Machine,
    *,
    tell: Callable[[str], None] = lambda _line: None,
    prepare_tpm: Callable[[Path], object] | None = None,
) -> RunningVm:
    """Launch a machine. Returns when QEMU runs it; what the guest does is another matter (``readiness``).

    Args:
        machine: The machine; an undecided accelerator is probed, undecided ports are chosen.
        tell: Called with every command before it runs, as a shell takes it, and with what a probe found.
        prepare_tpm: Manufactures the TPM in the directory it is given, where there is none yet (a TPM world whose root
            certifies it); without it the TPM gets keys and no certificate.

    Raises:
        MissingProgramError: QEMU or swtpm is not installed.
        MachineError: Something the machine is made of is missing.
        LaunchError: It runs already, or QEMU ended at once; its words are in the message.
    """
    return await asyncio.to_thread(_start, machine, tell, prepare_tpm)


def _start(machine: Machine, tell: Callable[[str], None], prepare_tpm: Callable[[Path], object] | None) -> RunningVm:
    with_tpm = machine.tpm and machine.protection == "none"
    require(QEMU, *(("swtpm", "swtpm_setup") if with_tpm else ()))
    version = qemu_version()
    require_artefacts(machine)
    if machine.protection != "none":
        require_protection(machine.protection, version)
    with held(machine.directory):
        _refuse_running(machine.directory)
        commands: list[str] = []
        machine, probe = decide_accel(machine)
        if probe.command:
            tell(shown(probe.command))
        tell(f"{machine.accel}: {probe.reason}" + (f" ({probe.seconds:.1f} s)" if probe.seconds else ""))

        def run_told(command: list[str]) -> None:
            commands.append(shown(command, machine.directory))
            tell(commands[-1])

        write_files(machine)
        tpm_state = machine.directory / FILES.tpm_state
        if with_tpm and not is_manufactured(tpm_state):
            tpm_state.mkdir(mode=0o700, exist_ok=True)
            manufacture(tpm_state, run_told) if prepare_tpm is None else prepare_tpm(tpm_state)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            decided = with_ports(machine)
            try:
                return _started(decided, probe, commands, run_told, with_tpm=with_tpm)
            except LaunchError as error:
                # A free port may be taken between choosing and opening it; a port that was asked for is an error.
                if _PORT_TAKEN not in error.message or decided == machine or attempt == PORT_ATTEMPTS:
                    raise
        raise LaunchError("no free port was found")


def _started(
    machine: Machine,
    probe: Probe,
    commands: list[str],
    run_told: Callable[[list[str]], None],
    *,
    with_tpm: bool,
) -> RunningVm:
    swtpm = start_swtpm(machine.directory, run_told) if with_tpm else None

    def record(qemu: ProcessIdentity) -> Record:
        return Record(
            name=machine.name,
            image=str(machine.image),
            manifest=_manifest_digest(machine.image),
            boot=machine.boot,
            accel=machine.accel,
            accel_reason=probe.reason,
            protection=machine.protection,
            launched=time.time(),
            forwards={item.guest_port: item.host_port for item in machine.forwards},
            commands=tuple(commands),
            qemu=Kept.of(qemu),
            swtpm=Kept.of(swtpm) if swtpm else None,
        )

    # Written before QEMU is waited for: whoever ends this process now, the machine can be found and stopped.
    try:
        process, qemu = _spawn_qemu(machine, run_told)
        kept = record(qemu)
        write_record(machine.directory, kept)
        _await_running(machine, process, qemu)
    except BaseException:
        (machine.directory / FILES.record).unlink(missing_ok=True)
        if swtpm is not None:
            swtpm.end(QUIT_S)
        raise
    log.info("vm launched", name=machine.name, pid=qemu.pid, kind=machine.accel)
    return RunningVm(machine.directory, kept)


def _spawn_qemu(
    machine: Machine, run_told: Callable[[list[str]], None]
) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    (machine.directory / FILES.control).unlink(missing_ok=True)
    command = qemu_command(machine)
    run_told(command)
    command[0] = str(find_program(QEMU))
    process = spawn(command, directory=machine.directory, log=machine.directory / FILES.qemu_log)
    return process, keep(process)


def _await_running(machine: Machine, process: subprocess.Popen[bytes], qemu: ProcessIdentity) -> None:
    """Wait until QEMU says that it runs the guest; one that does not is ended."""
    limit = time.monotonic() + START_S
    state = "starting"
    while process.poll() is None and time.monotonic() < limit and state != "internal-error":
        with suppress(ControlError), Control(machine.directory, CONTROL_S) as control:
            state = control.state()
        if state == "running":
            return
        time.sleep(POLL_S)
    status = process.poll()
    qemu.end(QUIT_S)
    words = machine.directory / FILES.qemu_log
    said = tail(words, TAIL_LINES) or "nothing"
    raise LaunchError(
        f"QEMU ended with status {status}; it said:\n{said}"
        if status is not None
        else f"QEMU did not run the guest within {START_S:g} s (state {state}); it said:\n{said}",
        hint=f"the whole of it: {words}",
    )


def _refuse_running(directory: Path) -> None:
    """A machine runs once; a TPM left over from a launch that failed half-way is ended."""
    if not (directory / FILES.record).exists():
        return
    record = read_record(directory)
    if record.qemu.identity.alive:
        raise LaunchError(
            f"{record.name} runs already (process {record.qemu.pid})", hint=f"chrysalis vm stop {record.name}"
        )
    if record.swtpm is not None:
        record.swtpm.identity.end(QUIT_S)


def _manifest_digest(image: Path) -> str:
    path = image / MANIFEST_NAME
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
