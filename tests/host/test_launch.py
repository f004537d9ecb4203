"""Machines with real parts: QEMU under emulation, firmware, a software TPM, and a guest of a few bytes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_guest

from appliance.boot.volume import parse
from appliance.host.control import Control
from appliance.host.errors import ControlError, LaunchError, MachineError, MissingProgramError
from appliance.host.follow import console_lines, plain
from appliance.host.kept import ProcessIdentity, keep, spawn
from appliance.host.launch import start
from appliance.host.machine import Configuration, Forward, Machine
from appliance.host.record import held, names
from appliance.host.running import RunningVm, delete, find
from appliance.image.gpt import HEAD_SECTORS, SECTOR, STATE_LABEL, parse_table

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = Configuration("m = 1\n", "o = 1\n", "h = 1\n", b"a-secret-seed")


async def until_said(vm: RunningVm, text: str = tiny_guest.LINE) -> None:
    async with asyncio.timeout(60):
        while text not in vm.tail():
            assert vm.alive, vm.tail()
            await asyncio.sleep(0.1)


def chrysalis(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


async def test_a_guest_runs_says_its_line_and_ends_by_itself(tiny: Callable[..., Machine]) -> None:
    told: list[str] = []
    vm = await start(tiny(configuration=CONFIGURATION, state_mib=16), tell=told.append)
    assert vm.accel == "tcg"
    assert list(vm.forwards) == [9443]
    async with asyncio.timeout(90):
        await vm.wait()
    assert tiny_guest.LINE in vm.tail()
    assert await vm.stop() == "ended"
    assert not vm.alive
    assert vm.record.swtpm is not None
    assert not vm.record.swtpm.identity.alive
    # What was told is what was run, as a shell takes it; and none of it carries the secret.
    assert told[0] == "tcg: emulation was asked for"
    programs = [shlex.split(line)[3] for line in told[1:]]
    assert programs == ["swtpm_setup", "swtpm", "qemu-system-x86_64"]
    assert tuple(told[1:]) == vm.commands
    everything = "\n".join(told) + (vm.directory / "vm.json").read_text()
    assert "a-secret-seed" not in everything


async def test_a_told_command_can_be_repeated_by_hand(tiny: Callable[..., Machine]) -> None:
    vm = await start(tiny())
    async with asyncio.timeout(90):
        await vm.wait()
    await vm.stop()
    vm.console.unlink()
    for leftover in ("tpm.sock", "qmp.sock"):
        (vm.directory / leftover).unlink(missing_ok=True)
    script = f"({vm.commands[-2]}) & sleep 1; ({vm.commands[-1]}); wait"
    done = await asyncio.to_thread(subprocess.run, ["sh", "-c", script], capture_output=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    assert tiny_guest.LINE in vm.tail()


async def test_the_files_are_the_owners_and_hold_what_was_given(tiny: Callable[..., Machine]) -> None:
    vm = await start(tiny(configuration=CONFIGURATION, state_mib=16))
    await vm.stop(0)
    assert stat.S_IMODE(vm.directory.stat().st_mode) == 0o700
    volume = vm.directory / "config.raw"
    assert stat.S_IMODE(volume.stat().st_mode) == 0o600
    assert parse(volume.read_bytes()) == CONFIGURATION.members()
    state = (vm.directory / "state.raw").read_bytes()
    table = parse_table(state[: HEAD_SECTORS * SECTOR], len(state) // SECTOR)
    assert [(item.label, item.size) for item in table.partitions] == [(STATE_LABEL, 16 << 20)]
    assert (vm.directory / "tpm" / "tpm2-00.permall").exists()


async def test_state_and_tpm_survive_and_the_variables_do_not(tiny: Callable[..., Machine]) -> None:
    machine = tiny(state_mib=16)
    await (await start(machine)).stop(0)
    state, tpm = machine.directory / "state.raw", machine.directory / "tpm" / "tpm2-00.permall"
    with state.open("r+b") as handle:
        handle.seek(2 << 20)
        handle.write(b"kept")
    before = tpm.stat().st_ino
    (machine.directory / "vars.fd").write_bytes(b"changed by a guest")
    vm = await start(machine)
    await vm.stop(0)
    assert state.read_bytes()[2 << 20 :][:4] == b"kept"
    assert tpm.stat().st_ino == before or tpm.exists()
    assert not any("swtpm_setup" in command for command in vm.commands)
    assert (machine.directory / "vars.fd").stat().st_size > 100_000
    assert (machine.directory / "console.log.1").exists()
    with pytest.raises(MachineError, match="16 MiB, 32 MiB are asked for"):
        await start(replace(machine, state_mib=32))


async def test_a_tpm_world_manufactures_the_tpm_once(tiny: Callable[..., Machine]) -> None:
    machine, asked = tiny(), []

    def prepare(state: Path) -> None:
        asked.append(state)
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--createek", "--logfile", str(state / "log")]
        subprocess.run(command, check=True, capture_output=True)

    await (await start(machine, prepare_tpm=prepare)).stop(0)
    await (await start(machine, prepare_tpm=prepare)).stop(0)
    assert asked == [machine.directory / "tpm"]


async def test_a_machine_outlives_its_launcher_and_later_commands_find_it(tiny: Callable[..., Machine]) -> None:
    machine = tiny(ends=False, name="kept")
    script = f"""
import asyncio
from pathlib import Path
from appliance.host.launch import start
from appliance.host.machine import Machine
machine = Machine(name="kept", directory=Path({str(machine.directory)!r}), image=Path({str(machine.image)!r}),
                  boot="direct", accel="tcg", cpus=1, memory_mib=512)
print(asyncio.run(start(machine)).pid)
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    vm = find("kept")
    assert vm.pid == int(done.stdout.split()[-1])
    assert vm.alive
    assert os.getsid(vm.pid) == vm.pid  # a session of its own: no terminal's signals reach it
    assert names() == ("kept",)
    await until_said(vm)
    status = await asyncio.to_thread(chrysalis, "vm", "status", "kept", "--json")
    assert json.loads(status.stdout)["alive"] is True
    logs = await asyncio.to_thread(chrysalis, "vm", "logs", "kept")
    assert logs.stdout.splitlines()[-1] == tiny_guest.LINE
    assert "\x1b" not in logs.stdout
    listed = json.loads((await asyncio.to_thread(chrysalis, "vm", "status", "--json")).stdout)
    assert [item["name"] for item in listed["machines"]] == ["kept"]
    # This guest does not listen to the power button: QEMU's own end is next.
    stopped = await asyncio.to_thread(chrysalis, "vm", "stop", "kept", "--grace", "1", "--json")
    assert json.loads(stopped.stdout) == {"ok": True, "name": "kept", "how": "quit", "deleted": False}
    assert not vm.alive
    again = await asyncio.to_thread(chrysalis, "vm", "stop", "kept", "--delete", "--json")
    assert json.loads(again.stdout)["how"] == "ended"
    assert not vm.directory.exists()
    gone = await asyncio.to_thread(chrysalis, "vm", "status", "kept", "--json")
    assert gone.returncode == 1
    assert json.loads(gone.stdout)["error"] == "no machine kept was launched here; known: none"


async def test_a_machine_runs_once(tiny: Callable[..., Machine]) -> None:
    machine = tiny(ends=False)
    vm = await start(machine)
    with pytest.raises(LaunchError, match=f"runs already .process {vm.pid}"):
        await start(machine)
    with pytest.raises(LaunchError, match="tiny runs"):
        await delete(vm)
    assert vm.alive
    await vm.stop(0)
    second = await start(machine)  # control: the same again, once it is stopped
    assert second.pid != vm.pid
    await second.stop(0)


async def test_commands_at_one_machine_wait_their_turn(tiny: Callable[..., Machine]) -> None:
    machine = tiny()
    with held(machine.directory), pytest.raises(LaunchError, match="another command is launching or stopping"):
        await start(machine)


async def test_a_hanging_qemu_is_ended_by_force(monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Machine]) -> None:
    vm = await start(tiny(ends=False))
    os.kill(vm.pid, signal.SIGSTOP)
    for limit in ("CONTROL_S", "QUIT_S"):
        monkeypatch.setattr(f"appliance.host.running.{limit}", 0.3)
    assert await vm.stop(0.3) == "kill"
    assert not vm.alive


async def test_a_qemu_that_does_not_start_tells_why_and_leaves_nothing(tiny: Callable[..., Machine]) -> None:
    machine = tiny(extra=("-device", "no-such-device"))
    with pytest.raises(LaunchError, match="no-such-device"):
        await start(machine)
    assert not (machine.directory / "vm.json").exists()
    assert left_in(machine.directory) == []


async def test_a_port_that_is_taken_is_told(tiny: Callable[..., Machine]) -> None:
    vm = await start(tiny(ends=False, name="first"))
    taken = vm.forwards[9443]
    with pytest.raises(LaunchError, match=f"{taken}"):
        await start(tiny(name="second", forwards=(Forward(9443, taken),)))
    await vm.stop(0)


async def test_missing_parts_are_all_named(own_home: Path, tmp_path: Path, tiny: Callable[..., Machine]) -> None:
    with pytest.raises(MachineError, match=r"chrysalis\.raw.*OVMF_CODE\.fd.*chrysalis\.efi.*m\.erofs"):
        await start(tiny(image=tmp_path / "nothing", model=tmp_path / "m.erofs"))


async def test_missing_programs_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, own_home: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    machine = Machine(name="t", directory=own_home / "vm" / "t", image=tmp_path)
    with pytest.raises(MissingProgramError) as caught:
        await start(machine)
    assert caught.value.message == "not installed: qemu-system-x86_64, swtpm, swtpm_setup"
    assert caught.value.hint == "apt install qemu-system-x86 swtpm swtpm-tools"


async def test_the_console_is_followed_to_its_end(tiny: Callable[..., Machine]) -> None:
    vm = await start(tiny())
    async with asyncio.timeout(90):
        lines = [line async for line in console_lines(vm, follow=True)]
    assert lines[-1] == tiny_guest.LINE or lines[-2] == tiny_guest.LINE
    assert not vm.alive


def test_a_terminal_gets_text_only() -> None:
    assert plain("a\x1b[2J\x1b[01;01Hb\x1b]0;title\x07c\r\nd\te\x00\x07\x9bf") == "abc\nd\tef"


async def test_nobody_listening_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="control socket"), Control(tmp_path):
        pass


def test_another_process_of_the_same_number_is_left_alone(tmp_path: Path) -> None:
    process = spawn(["sleep", "60"], directory=tmp_path, log=tmp_path / "log")
    identity = keep(process)
    for other in (
        ProcessIdentity(identity.pid, identity.started + 1, identity.boot),
        ProcessIdentity(identity.pid, identity.started, "another boot"),
    ):
        assert not other.alive
        assert not other.send(signal.SIGKILL)
        assert other.wait(0)
    assert identity.alive  # untouched
    identity.end(5.0)  # control: the right identity
    assert identity.wait(5.0)
    assert not identity.alive


def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    )
    process = spawn([sys.executable, "-c", script], directory=tmp_path, log=tmp_path / "log")
    identity = keep(process)
    while not (tmp_path / "log").read_text():
        time.sleep(0.02)
    identity.end(0.2)
    assert identity.wait(5.0)


def left_in(directory: Path) -> list[int]:
    """Processes whose current directory is a machine's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
