"""The chain of stages on a machine in a directory: what is done, what a failure leaves, what is handed on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from boot_machine import EPOCH, HOST, ME, MEASURED, RULES, TABLE, Registers, attach, machine, members, write

from appliance.boot import clock, model, posture, program, state
from appliance.boot.configuration import Owners
from appliance.boot.posture import userland
from appliance.boot.program import Boot
from appliance.boot.stages import BOOT_STAGES, STAGES, WORKER_STAGES, StageTable, read_stages
from appliance.boot.volume import pack
from appliance.config import MeasuredConfig
from measurements.tpm import REFUSED_CONFIGURATION, configuration_digest

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.boot.stages import StageRecord
    from appliance.boot.system import System


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The image's tools and the kernel's mounts stand in; what they were asked for is kept."""
    calls: list[tuple[Any, ...]] = []

    async def tool(*command: str, **_: object) -> bytes:
        calls.append(command)
        return {"nft": RULES.encode(), "dmsetup": TABLE.encode()}.get(command[0], b"")

    def open_volume(device: Path, root_hash: str, data_blocks: int, form: str) -> Path:
        calls.append(("open", device.name, root_hash, data_blocks, form))
        return device

    monkeypatch.setattr(posture, "run_tool", tool)
    monkeypatch.setattr(userland, "run_tool", tool)
    monkeypatch.setattr(model, "open_volume", open_volume)
    monkeypatch.setattr(model, "DISK_S", 0.0)
    real = state.mount

    async def mount(system: System, owner: tuple[int, int]) -> None:
        await real(system, owner, run=tool)

    monkeypatch.setattr(program.state, "mount", mount)
    monkeypatch.setattr(clock.time, "time", lambda: EPOCH + 1000.0)
    return calls


async def boot(system: System, registers: Registers | None = None) -> tuple[bool, dict[str, StageRecord]]:
    table = StageTable(system.stages, STAGES)
    ended = await Boot(system, table, Owners(ME, ME, ME), registers or Registers()).run()
    return ended, {record.name: record for record in read_stages(system.stages)}


async def test_every_stage_ends_well(tmp_path: Path, opened: list[tuple[Any, ...]]) -> None:
    system = machine(tmp_path)
    attach(tmp_path, "chrysalis-model", b"", "vdc")
    registers = Registers()
    ended, stages = await boot(system, registers)
    assert {name: record.reason for name, record in stages.items() if record.state == "failed"} == {}
    assert ended
    assert {stages[name].state for name in BOOT_STAGES} == {"done", "skipped"}
    assert stages["gpu"].state == "skipped"
    assert all(stages[name].state == "pending" for name in WORKER_STAGES)
    assert registers.extended == [(14, configuration_digest(MeasuredConfig.model_validate(MEASURED).digest()))]
    assert ("open", "vdc", "cd" * 32, 8, "erofs") in opened
    assert any(call[:2] == ("mount", "-t") and "nodev,nosuid,noexec" in call[4] for call in opened)
    assert (tmp_path / "var/lib/chrysalis/worker").is_dir()
    assert (
        system.text("/run/chrysalis/resolv.conf")
        == "nameserver 10.0.2.3\nnameserver fec0::3\noptions timeout:3 attempts:2 edns0"
    )
    shown = json.loads((system.config / "platform.json").read_text())
    assert shown == {"platform": "none", "quote_source": None, "attestation_ca": None}


async def test_a_refused_configuration_leaves_the_machine_locked_and_saying_why(
    tmp_path: Path, opened: list[tuple[Any, ...]]
) -> None:
    system = machine(tmp_path, configured=False)
    host = HOST | {"attestation_ca": "http://10.0.2.2:1/ca"}
    attach(tmp_path, "chrysalis-config", pack(members(host=host) | {"measured.toml": b"model = 3\n"}))
    registers = Registers()
    ended, stages = await boot(system, registers)
    assert not ended
    assert stages["configuration"].state == "failed"
    assert "measured.toml:1: model" in stages["configuration"].reason
    assert registers.extended == [(14, REFUSED_CONFIGURATION)]
    assert [stages[name].state for name in ("clock", "platform", "posture", "keys")] == ["done"] * 4
    assert {stages[name].state for name in ("collateral", "gpu", "model", *WORKER_STAGES)} == {"skipped"}
    assert stages["links"].reason == "stage configuration failed"
    assert not (system.config / "machine.json").exists()
    assert not (system.config / "engine.key").exists()
    assert json.loads((system.config / "platform.json").read_text())["attestation_ca"] == "http://10.0.2.2:1/ca"
    assert not any(call[0] == "open" for call in opened)


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [
        (("/proc/cmdline", "console=ttyS0 init=/bin/sh"), "posture", "kernel command line"),
        (("/usr/bin/gdb", ""), "posture", "debuggers"),
        (("/run/systemd/netif/state", "OPER_STATE=no-carrier\n"), "collateral", "no network"),
        (("/usr/lib/chrysalis/image.json", "{}"), "configuration", "image.json"),
    ],
)
@pytest.mark.usefixtures("opened")
async def test_a_failed_stage_stops_what_follows(
    tmp_path: Path, change: tuple[str, str], stage: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machine(tmp_path)
    attach(tmp_path, "chrysalis-model", b"", "vdc")
    monkeypatch.setattr(program.network.connect, "__kwdefaults__", {"limit_s": 0.0})
    write(tmp_path, *change)
    ended, stages = await boot(system)
    assert not ended
    assert stages[stage].state == "failed"
    assert said in stages[stage].reason
    assert stages["model"].state == "skipped"
    assert stages["chain"].reason == f"stage {stage} failed"


@pytest.mark.usefixtures("opened")
async def test_a_machine_without_its_model_says_so(tmp_path: Path) -> None:
    _, stages = await boot(machine(tmp_path))
    assert stages["model"].state == "failed"
    assert "no disk with serial chrysalis-model" in stages["model"].reason
    assert {stages[name].state for name in BOOT_STAGES[:-1]} == {"done", "skipped"}


@pytest.mark.usefixtures("opened")
async def test_a_fault_of_ours_is_told_by_its_kind_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(program.platform, "find", broken)
    ended, stages = await boot(machine(tmp_path))
    assert not ended
    assert (stages["platform"].state, stages["platform"].reason) == ("failed", "RuntimeError")
    assert stages["posture"].state == "done"
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "run/chrysalis/stages").iterdir())


@pytest.mark.usefixtures("opened")
async def test_a_platform_that_cannot_pass_its_own_policy_stops_the_machine(tmp_path: Path) -> None:
    system = machine(tmp_path, configured=False)
    attach(tmp_path, "chrysalis-config", pack(members(measured=MEASURED | {"trust": {"policy": "tdx"}})))
    _, stages = await boot(system)
    assert stages["platform"].state == "failed"
    assert "platform none, expected tdx" in stages["platform"].reason


class TestState:
    """The ledger's partition."""

    async def calls(self, root: Path, content: bytes) -> list[tuple[str, ...]]:
        system = machine(root)
        write(root, "/sys/class/block/vdd1/uevent", "MAJOR=254\nPARTNAME=chrysalis-state\n")
        write(root, "/dev/vdd1", content)
        asked: list[tuple[str, ...]] = []

        async def tool(*command: str) -> bytes:
            asked.append(command)
            return b""

        await state.mount(system, ME, run=tool)
        return asked

    async def test_a_blank_one_is_formatted_and_mounted(self, tmp_path: Path) -> None:
        asked = await self.calls(tmp_path, bytes(state.BLANK_BYTES * 2))
        assert [command[0] for command in asked] == ["mke2fs", "mount"]
        assert "nodev,nosuid,noexec,errors=remount-ro" in asked[1]

    async def test_one_that_holds_something_is_never_formatted(self, tmp_path: Path) -> None:
        asked = await self.calls(tmp_path, bytes(2000) + b"x" + bytes(state.BLANK_BYTES))
        assert [command[0] for command in asked] == ["mount"]
