"""The posture: a healthy machine passes, and each check fails on the one thing that it is about."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from boot_machine import COMMAND_LINE, EXTRA, ROOT_HASH, RULES, TABLE, machine, socket_line, write

from appliance.boot import posture
from appliance.boot.errors import PostureError
from appliance.boot.image import read_image
from appliance.boot.posture import kernel, sockets, userland
from appliance.boot.posture.kernel import SYSCTLS, kernel_checks, lock
from appliance.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.boot.posture import PostureCheck

HEADER = "  sl  local_address rem_address   st\n"


def look(root: Path, table: str = TABLE) -> dict[str, PostureCheck]:
    system = machine(root)
    return {check.name: check for check in kernel_checks(system, read_image(system), table)}


def test_a_healthy_machine_passes(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert [check for check in found.values() if not check.passed] == []
    assert {"kernel command line", "root file system", "register 12", "register 13", "lockdown", "swap"} <= set(found)
    assert {f"sysctl {name}" for name in SYSCTLS} <= set(found)


CHANGES: dict[str, tuple[str, str, str]] = {
    "an SMBIOS string adds a parameter": (
        "/proc/cmdline", f"{COMMAND_LINE} roothash={ROOT_HASH} init=/bin/sh\n", "kernel command line",
    ),
    "a parameter is gone": ("/proc/cmdline", f"panic=-1 quiet roothash={ROOT_HASH}\n", "kernel command line"),
    "two root hashes": (
        "/proc/cmdline", f"{COMMAND_LINE} roothash={ROOT_HASH} roothash={'cd' * 32}\n", "kernel command line",
    ),
    "another root": ("/proc/cmdline", f"{COMMAND_LINE} roothash={'cd' * 32}\n", "root file system"),
    "a writable root": ("/proc/self/mountinfo", "22 1 8:1 / / rw shared:1 - ext4 /dev/vda1 rw\n", "root file system"),
    "a credential in register 12": ("/sys/class/tpm/tpm0/pcr-sha256/12", "0" * 63 + "1", "register 12"),
    "an extension in register 13": ("/sys/class/tpm/tpm0/pcr-sha256/13", "0" * 63 + "1", "register 13"),
    "lockdown was lowered": ("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n", "lockdown"),
    "swap": ("/proc/swaps", "Filename\n/dev/vdb file 1 0 -2\n", "swap"),
    "core files": ("/proc/sys/kernel/core_pattern", "core\n", "sysctl kernel.core_pattern"),
    "modules may be loaded": ("/proc/sys/kernel/modules_disabled", "0\n", "sysctl kernel.modules_disabled"),
    "core limit": ("/proc/self/limits", "Max core file size 0 unlimited bytes\n", "core file size"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_each_change_fails_its_own_check(tmp_path: Path, what: str) -> None:
    system = machine(tmp_path)
    path, content, name = CHANGES[what]
    write(tmp_path, path, content)
    failed = [check.name for check in kernel_checks(system, read_image(system), TABLE) if not check.passed]
    assert failed == [name]


def test_a_table_of_another_target_is_not_the_root(tmp_path: Path) -> None:
    assert not look(tmp_path, TABLE.replace("verity", "linear"))["root file system"].passed


def test_the_kernel_is_locked_once(tmp_path: Path) -> None:
    system = machine(tmp_path)
    write(tmp_path, kernel.LOCKDOWN, "[none] integrity confidentiality\n")
    write(tmp_path, kernel.MODULES_DISABLED, "0\n")
    lock(system)
    assert system.text(kernel.LOCKDOWN) == "confidentiality"
    assert system.text(kernel.MODULES_DISABLED) == "1"
    (tmp_path / kernel.LOCKDOWN.lstrip("/")).unlink()
    (tmp_path / kernel.LOCKDOWN.lstrip("/")).mkdir()
    with pytest.raises(StageError, match="cannot be set to confidentiality"):
        lock(system)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("tcp", socket_line("00000000:0016", "0A"), "tcp any:22"),
        ("tcp6", socket_line("00000000000000000000000000000000:0016", "0A"), "tcp any:22"),
        ("tcp", socket_line("0F02000A:1F90", "0A"), "tcp 10.0.2.15:8080"),
        ("udp", socket_line("00000000:14E9", "07"), "udp any:5353"),
        ("raw", socket_line("00000000:0001", "07"), "raw any:1"),
        ("tcp", socket_line("0100007F:7530", "0A"), "tcp loopback:30000"),
    ],
)
def test_nothing_else_listens(tmp_path: Path, file: str, line: str, said: str) -> None:
    system = machine(tmp_path)
    assert sockets.socket_check(system, serving=False).passed
    write(tmp_path, f"/proc/net/{file}", (system.text(f"/proc/net/{file}") or HEADER.rstrip()) + "\n" + line)
    check = sockets.socket_check(system, serving=False)
    assert not check.passed
    assert said in check.seen


def test_engine_and_worker_may_listen_on_loopback_once_they_run(tmp_path: Path) -> None:
    system = machine(tmp_path)
    write(tmp_path, "/proc/net/tcp", HEADER + "".join(
        socket_line(local, "0A") for local in ("00000000:24E3", "0100007F:7530", "0100007F:2508", "0100007F:9C40")
    ))  # fmt: skip
    assert not sockets.socket_check(system, serving=False).passed
    assert sockets.socket_check(system, serving=True).passed
    write(tmp_path, "/proc/net/tcp", HEADER + socket_line("0F02000A:7530", "0A"))
    assert not sockets.socket_check(system, serving=True).passed


def test_connections_are_no_listeners(tmp_path: Path) -> None:
    system = machine(tmp_path)
    write(tmp_path, "/proc/net/tcp", HEADER + socket_line("0F02000A:0016", "01"))
    assert sockets.socket_check(system, serving=False).passed


def test_the_loaded_rules_are_the_image_s() -> None:
    loaded = RULES[RULES.index("table inet") :]
    filled = loaded.replace(
        "type cgroupsv2\n", 'type cgroupsv2\n\t\telements = { "system.slice/chrysalis-boot.service" }\n'
    )
    assert userland.firewall(loaded, RULES).passed
    assert userland.firewall(filled, RULES).passed
    for altered in (
        loaded.replace("policy drop", "policy accept", 1),
        loaded.replace("9443", "9444"),
        loaded.replace('oif "lo" jump loopback', "accept"),
        loaded + "table ip other {\n}\n",
        "",
    ):
        assert not userland.firewall(altered, RULES).passed
    assert not userland.firewall("", "").passed


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_prints_the_rules_as_they_are_written() -> None:
    """What the posture compares word for word is what the tool prints after loading the file."""
    rules = EXTRA / "etc/nftables.conf"
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", f"nft -f {rules} && nft --stateless list ruleset"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Operation not" in done.stderr or "Protocol error" in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    assert userland.firewall(done.stdout, RULES).passed


def test_only_programs_of_the_services_run(tmp_path: Path) -> None:
    system = machine(tmp_path)
    for pid, program in (
        (2, None), (3, "/usr/lib/systemd/systemd-networkd"), (4, "/usr/bin/python3.13"), (5, "/usr/bin/bash"),
    ):  # fmt: skip
        directory = tmp_path / "proc" / str(pid)
        directory.mkdir(parents=True)
        if program is not None:
            (directory / "exe").symlink_to(program)
    assert list(userland.foreign_programs(system)) == ["/usr/bin/bash"]


def test_debuggers_and_credentials_are_seen(tmp_path: Path) -> None:
    system = machine(tmp_path)
    assert list(userland.present_tools(system)) == []
    assert list(userland.credentials(system)) == []
    write(tmp_path, "/usr/bin/gdb", "")
    write(tmp_path, "/run/credentials/@system/ssh.authorized_keys.root", "x")
    assert list(userland.present_tools(system)) == ["/usr/bin/gdb"]
    assert list(userland.credentials(system)) == ["@system/ssh.authorized_keys.root"]


async def test_a_failed_check_fails_the_stage_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machine(tmp_path)
    image = read_image(system)
    answers: dict[str, Callable[[], bytes]] = {"nft": RULES.encode, "dmsetup": TABLE.encode}

    async def tool(name: str, *_: str) -> bytes:
        return answers[name]()

    monkeypatch.setattr(posture, "run_tool", tool)
    monkeypatch.setattr(userland, "run_tool", tool)
    assert all(check.passed for check in await posture.take(system, image))
    write(tmp_path, "/usr/bin/gdb", "")
    with pytest.raises(PostureError, match="debuggers and remote shells: seen /usr/bin/gdb") as caught:
        await posture.take(system, image)
    assert [check.name for check in caught.value.failed] == ["debuggers and remote shells"]
    assert "/usr/bin/gdb" in (tmp_path / posture.FILE.lstrip("/")).read_text()
    checks = await posture.take(system, image.model_copy(update={"debug": True}))
    assert not all(check.passed for check in checks)


def test_the_image_sets_what_the_posture_expects() -> None:
    """Every value of the posture's table but the one that it sets itself stands in the image's sysctl file."""
    text = (EXTRA / "usr/lib/sysctl.d/99-chrysalis.conf").read_text()
    written = dict(re.findall(r"^([a-z0-9._-]+) = (.*)$", text, re.MULTILINE))
    assert {name: written.get(name) for name in SYSCTLS if name != "kernel.modules_disabled"} == {
        name: value for name, value in SYSCTLS.items() if name != "kernel.modules_disabled"
    }
