"""The units as shipped: what each gives up, the figure that systemd gives it, and what is masked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from boot_machine import EXTRA

from appliance.config import home
from appliance.config.guest import ATTESTED_PORT, ENGINE_PORT, STATUS_PORT

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMD = 257
"""The image's: older ones do not know every setting."""
UNITS = EXTRA / "usr/lib/systemd/system"
EXPOSURE = {"firewall": 2.9, "boot": 5.6, "status": 1.2, "engine": 1.1, "worker": 1.3, "power": 0.4}
"""The most that ``systemd-analyze security`` may give each service; docs/boot.md and docs/security.md name them."""
USERS = {"chrysalis-engine": 960, "chrysalis-worker": 961, "chrysalis-status": 962}
"""Those that the firewall lets use the network."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds our units alone."""
    base = tmp_path_factory.mktemp("root")
    shutil.copytree(UNITS, base / "usr/lib/systemd/system", symlinks=True)
    return base


@pytest.fixture(scope="module")
def analyze() -> list[str]:
    """The image's version of systemd-analyze: installed here, or in the tools tree that builds the image."""
    own = shutil.which("systemd-analyze")
    if own is not None:
        said = subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout
        if int(said.split()[1]) >= SYSTEMD:
            return [own]
    for tree in sorted((home() / "image/tools").glob("*/")):
        program = tree / "usr/bin/systemd-analyze"
        if program.exists():
            libraries = tree / "usr/lib/x86_64-linux-gnu"
            paths = f"{libraries}:{libraries}/systemd"
            return [f"{libraries}/ld-linux-x86-64.so.2", "--library-path", paths, str(program)]
    pytest.skip(f"systemd-analyze {SYSTEMD} is neither installed nor in a tools tree: just image makes one")


@pytest.mark.parametrize("name", EXPOSURE)
def test_exposure(root: Path, analyze: list[str], name: str) -> None:
    command = [*analyze, "security", f"--root={root}", "--offline=true", "--no-pager", f"chrysalis-{name}.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LANG": "C.UTF-8"})
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE[name], done.stdout


def settings(*files: str) -> dict[str, list[str]]:
    """The [Service] settings of files of units, in order."""
    found: dict[str, list[str]] = {}
    for file in files:
        for line in (UNITS / file).read_text().splitlines():
            if re.match(r"^[A-Z]\w+=", line):
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("name", ["engine", "worker", "status", "power"])
def test_services_that_meet_bytes_from_outside_give_everything_up(name: str) -> None:
    directory = UNITS / f"chrysalis-{name}.service.d"
    files = sorted(f"{directory.name}/{path.name}" for path in directory.iterdir())
    assert (directory / "20-unprivileged.conf").readlink().name == "chrysalis-unprivileged.conf"
    unit = settings(f"chrysalis-{name}.service", "chrysalis-.service.d/10-common.conf", *files)
    assert unit["User"] == [f"chrysalis-{name}"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    for setting, value in (
        ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("NoExecPaths", "/"), ("LimitCORE", "0"),
        ("PrivateUsers", "yes"), ("DevicePolicy", "closed"), ("SystemCallArchitectures", "native"),
    ):  # fmt: skip
        assert unit[setting] == [value], setting
    devices = {value.split()[0] for value in unit.get("DeviceAllow", [])}
    allowed = {
        "engine": set(), "worker": {"/dev/tpmrm0"}, "status": {"/dev/tpmrm0", "/dev/console"}, "power": {"char-input"},
    }  # fmt: skip
    assert devices == allowed[name]


def test_nothing_serves_where_a_stage_of_the_boot_failed() -> None:
    for name in ("engine", "worker"):
        assert settings(f"chrysalis-{name}.service")["Requires"] == ["chrysalis-boot.service"]
    assert "chrysalis-boot.service" not in " ".join(settings("chrysalis-status.service").get("Requires", []))


def test_the_power_button_needs_no_right_and_no_network() -> None:
    assert "SuccessAction=poweroff" in (UNITS / "chrysalis-power.service").read_text()
    drop_in = settings("chrysalis-power.service.d/30-power.conf")
    assert (drop_in["PrivateNetwork"], drop_in["RestrictAddressFamilies"]) == (["yes"], ["none"])
    assert drop_in["DeviceAllow"] == ["char-input r"]


def test_no_interface_comes_up_without_the_firewall() -> None:
    assert settings("systemd-networkd.service.d/10-firewall.conf") == {
        "Requires": ["chrysalis-firewall.service"], "After": ["chrysalis-firewall.service"],
    }  # fmt: skip
    assert "network-pre.target" in settings("chrysalis-firewall.service")["Before"][0]


def test_only_stage_lines_can_reach_the_console() -> None:
    common = settings("chrysalis-.service.d/10-common.conf")
    assert (common["StandardOutput"], common["StandardError"]) == (["null"], ["journal"])
    writers = {path.parent.name for path in UNITS.glob("*/*.conf") if "StandardOutput=file:" in path.read_text()}
    assert writers == {"chrysalis-boot.service.d", "chrysalis-status.service.d"}
    journal = (EXTRA / "usr/lib/systemd/journald.conf.d/00-chrysalis.conf").read_text()
    for line in ("Storage=volatile", "ForwardToConsole=no", "ForwardToSyslog=no", "ForwardToKMsg=no"):
        assert line in journal


@pytest.mark.parametrize(
    "unit",
    ["getty@.service", "serial-getty@.service", "emergency.service", "rescue.service", "debug-shell.service",
     "systemd-hostnamed.socket", "systemd-creds.socket", "kexec.target", "ctrl-alt-del.target"],
)  # fmt: skip
def test_ways_in_are_masked(unit: str) -> None:
    assert str((EXTRA / "etc/systemd/system" / unit).readlink()) == "/dev/null"


def test_users_and_ports_are_those_of_the_firewall() -> None:
    users = (EXTRA / "usr/lib/sysusers.d/chrysalis.conf").read_text()
    rules = (EXTRA / "etc/nftables.conf").read_text()
    for name, number in USERS.items():
        assert re.search(rf"^u {name} +{number} ", users, re.MULTILINE)
        assert re.search(rf"\b{number}\b", rules)
    for port in (ATTESTED_PORT, ENGINE_PORT, STATUS_PORT):
        assert f"tcp dport {port} " in rules
    assert rules.count("policy drop;") == 3
