"""Whether KVM runs a guest here: found by running one, not by looking at a device node.

A node may exist on hosts whose KVM dies in the first instructions of a kernel (nested hypervisors do that), so the
probe starts a real kernel with no disk and no initrd. It has nothing to mount, says so, panics, and ``panic=-1`` makes
it ask for a reboot, which ends QEMU: a kernel that got so far has run on KVM.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.host.errors import LaunchError
from appliance.host.machine import QEMU, Machine
from appliance.host.programs import find_program

PROBE_S = 30.0
DEVICE = Path("/dev/kvm")
MAX_OUTPUT_BYTES = 1 << 20
_STARTED = b"Linux version "
_DIED_AS_IT_SHOULD = b"Kernel panic - not syncing"
_BROKEN = (b"KVM internal error", b"KVM: entry failed", b"failed to set MSR")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe found.

    Attributes:
        works: Whether a kernel ran on KVM.
        reason: Why, or why not, in words for a person.
        command: What was run; empty where nothing was.
        seconds: How long it took.
    """

    works: bool
    reason: str
    command: tuple[str, ...] = ()
    seconds: float = 0.0


def probe_kvm(kernel: Path | None, *, device: Path = DEVICE, seconds: float = PROBE_S) -> Probe:
    """Start a tiny guest on KVM.

    Args:
        kernel: A Linux kernel image; None: there is none to try it with.
        device: The device node, looked at first because its absence says it all.
        seconds: Longest time the guest gets.

    Raises:
        MissingProgramError: QEMU is not installed.
    """
    program = find_program(QEMU)
    if not device.exists():
        return Probe(works=False, reason=f"{device} does not exist: virtualisation is off, or its module is not loaded")
    if not os.access(device, os.R_OK | os.W_OK):
        return Probe(works=False, reason=f"{device} is not open to this user: add the user to its group (kvm)")
    if kernel is None or not kernel.is_file():
        return Probe(works=False, reason=f"no kernel to try KVM with ({kernel or 'the image carries none'})")
    command = probe_command(kernel, str(program))
    began = time.monotonic()
    status, output = _run(command, seconds)
    works, reason = judge(status, output)
    return Probe(works=works, reason=reason, command=tuple(command), seconds=time.monotonic() - began)


def probe_command(kernel: Path, program: str = QEMU) -> list[str]:
    """The tiny guest: two processors, a kernel, a serial port, nothing else."""
    return [
        *(program, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-machine", "q35,accel=kvm,smm=off", "-cpu", "host", "-smp", "2", "-m", "256M"),
        *("-kernel", str(kernel), "-append", "console=ttyS0,115200 panic=-1", "-serial", "stdio"),
    ]


def judge(status: int | None, output: bytes) -> tuple[bool, str]:
    """What a probe's end means.

    Args:
        status: QEMU's exit status; None where it had to be ended.
        output: Console and QEMU's own words together.

    Returns:
        Whether KVM works, and why.
    """
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    broken = next((line for line in lines if any(mark.decode() in line for mark in _BROKEN)), "")
    if broken:
        return False, f"KVM is there and cannot run a Linux kernel: {broken[:160]}"
    if _STARTED in output and _DIED_AS_IT_SHOULD in output and status == 0:
        return True, "a kernel ran on KVM"
    last = lines[-1][:160] if lines else "nothing"
    if status is None:
        return False, f"a kernel on KVM did not come to its end; the last it said: {last}"
    return False, f"QEMU with KVM ended with status {status}; the last it said: {last}"


def decide_accel(machine: Machine) -> tuple[Machine, Probe]:
    """A machine with a decided accelerator, and why it is that one.

    ``kvm`` is tried too: better an error now than a guest that dies in its first instructions.

    Raises:
        LaunchError: KVM was asked for and does not work.
    """
    if machine.accel == "tcg":
        return machine, Probe(works=False, reason="emulation was asked for")
    kernel = machine.image / "chrysalis.vmlinuz"
    probe = probe_kvm(kernel if kernel.is_file() else None)
    if probe.works:
        return replace(machine, accel="kvm"), probe
    if machine.accel == "kvm" or machine.protection != "none":
        raise LaunchError(probe.reason, hint="--accel tcg emulates the processor; slow, and it works everywhere")
    return replace(machine, accel="tcg"), probe


def _run(command: list[str], seconds: float) -> tuple[int | None, bytes]:
    """Run until it ends, is known to be broken, or the time is over; never leaves it running."""
    output = bytearray()
    limit = time.monotonic() + seconds
    process = subprocess.Popen(  # noqa: S603 - the command of probe_command
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None  # noqa: S101 - opened above
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while (left := limit - time.monotonic()) > 0 and len(output) < MAX_OUTPUT_BYTES:
                if not selector.select(left):
                    break
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    return process.wait(max(left, 1.0)), bytes(output)
                output += data
                if any(mark in output for mark in _BROKEN):
                    break
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
    return None, bytes(output)
