"""What this room's tests stand on: machines with real firmware, and none of them left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_guest

from appliance.host.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRMWARE = Path("/usr/share/OVMF")


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(own_home: Path, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Machines that boot a few bytes on real firmware under emulation; skipped where the programs are absent."""
    for program in ("qemu-system-x86_64", "swtpm", "swtpm_setup"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not (FIRMWARE / "OVMF_CODE_4M.fd").exists():
        pytest.skip("the firmware (package ovmf) is not installed")
    made: list[Machine] = []

    def make(*, ends: bool = True, name: str = "tiny", **changes: object) -> Machine:
        values: dict[str, object] = {
            "name": name,
            "directory": own_home / "vm" / name,
            "image": tiny_guest.image(tmp_path / f"image-{ends}", FIRMWARE, ends=ends),
            "boot": "direct",
            "accel": "tcg",
            "cpus": 1,
            "memory_mib": 512,
        }
        machine = Machine(**(values | changes))  # type: ignore[arg-type]  # a test's own words
        made.append(machine)
        return machine

    yield make
    # A test that failed half-way leaves no machine: whatever its directory names is ended.
    from appliance.host.record import read_record

    for machine in made:
        if (machine.directory / "vm.json").exists():
            record = read_record(machine.directory)
            for kept in filter(None, (record.qemu, record.swtpm)):
                kept.identity.end(5.0)
