"""The KVM probe: it believes a kernel that ran, and nothing else. QEMU is played by scripts, and once by itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from appliance.config import home
from appliance.host.errors import MissingProgramError
from appliance.host.kvm import DEVICE, judge, probe_command, probe_kvm

BOOTED = "[    0.000000] Linux version 6.12\n[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"a kernel")
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch(mode=0o600)
    return path


def play(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a script first on the path under QEMU's name."""
    program = folder / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_kernel_that_ran_and_ended_is_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: Path, device: Path
) -> None:
    (tmp_path / "said").write_text(BOOTED)
    play(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/argv; cat {tmp_path}/said')
    found = probe_kvm(kernel, device=device)
    assert found.works, found.reason
    assert (tmp_path / "argv").read_text().split() == " ".join(found.command[1:]).split()
    assert "accel=kvm" in " ".join(found.command)
    assert str(kernel) in found.command


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'KVM internal error. Suberror: 1'; echo 'emulation failure'; sleep 60", "KVM internal error"),
        ("echo 'error: failed to set MSR 0x10a to 0x69'; exit 134", "failed to set MSR"),
        ("echo 'Could not access KVM kernel module: No such file' >&2; exit 1", "status 1.*Could not access KVM"),
        ("echo 'Linux version 6.12'; exit 0", "status 0.*Linux version"),
        ("exit 0", "status 0; the last it said: nothing"),
        ("cat said; exit 3", "status 3"),
        ("echo 'SeaBIOS (version 1.16)'; sleep 60", "did not come to its end.*SeaBIOS"),
        ("yes chatter", "did not come to its end.*chatter"),
    ],
)
def test_everything_else_is_not(monkeypatch: pytest.MonkeyPatch, kernel: Path, script: str, said: str) -> None:
    folder = kernel.parent
    (folder / "said").write_text(BOOTED)
    play(monkeypatch, folder, f"cd {folder}\n{script}")
    found = probe_kvm(kernel, device=kernel, seconds=3.0)
    assert not found.works

    assert re.search(said, found.reason), found.reason


def test_what_it_did_not_start_is_told_without_starting_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: Path, device: Path
) -> None:
    play(monkeypatch, tmp_path, f"touch {tmp_path}/started")
    absent = probe_kvm(kernel, device=tmp_path / "absent")
    assert (absent.works, absent.command) == (False, ())
    assert "does not exist" in absent.reason
    for none in (None, tmp_path / "no-kernel"):
        assert "no kernel to try KVM with" in probe_kvm(none, device=device).reason
    assert not (tmp_path / "started").exists()


def test_a_device_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: Path, device: Path) -> None:
    play(monkeypatch, tmp_path, "exit 0")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != device)
    assert "group (kvm)" in probe_kvm(kernel, device=device).reason


def test_a_host_without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: Path, device: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(MissingProgramError, match="qemu-system-x86_64 is not installed") as caught:
        probe_kvm(kernel, device=device)
    assert caught.value.hint == "apt install qemu-system-x86"


def test_a_broken_line_wins_over_a_kernel_that_seemed_to_run() -> None:
    good = BOOTED.encode()
    assert judge(0, good)[0]
    assert not judge(0, good + b"KVM internal error. Suberror: 1\n")[0]
    assert not judge(1, good)[0]
    assert not judge(None, good)[0]


def test_this_hosts_own_kvm() -> None:
    """Whatever it is, the probe comes to an end, says why, and leaves nothing running."""
    kernels = [*home().glob("image/*/chrysalis.vmlinuz"), *Path("/boot").glob("vmlinuz-*")]
    if not DEVICE.exists() or not kernels:
        pytest.skip(f"needs {DEVICE} and a kernel (an image, or /boot/vmlinuz-*)")
    found = probe_kvm(kernels[0])
    assert found.reason
    assert found.command == tuple(probe_command(kernels[0], found.command[0]))
