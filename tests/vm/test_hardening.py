"""The hardening table of docs/security.md on the booted release image: by its own word, and by what is seen outside.

One more machine is booted (``attacked``) with everything that a host can slip in beside the image.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.boot.posture.kernel import SYSCTLS
from appliance.host import launch, readiness
from appliance.host.control import ANSWER_S
from appliance.host.machine import FILES, STATUS_PORT, Machine
from appliance.lab.demo_guest import KERNEL_FAULT

if TYPE_CHECKING:
    from vm_support import Network

pytestmark = [pytest.mark.vm, pytest.mark.demo]

DOCS = Path(__file__).resolve().parents[2] / "docs/security.md"
CHECKS = frozenset({
    "kernel command line", "root file system", "register 12", "register 13", "lockdown", "swap", "listening sockets",
    "firewall", "running programs", "debuggers and remote shells", "credentials", "core file size",
}) | {f"sysctl {name}" for name in SYSCTLS}  # fmt: skip
SHUT = (22, 23, 53, 68, 80, 111, 443, 2222, 5355, 8000, 8080, 8443, 9480, 10000, 19531, 30000, 30001, 40000)
SILENT_S = 3.0
ATTACKED_S = 900.0
SHELLS = ("sh", "bash", "dash", "busybox", "login", "agetty", "sulogin", "su", "sshd", "gdb", "strace", "perl", "apt",
          "dpkg", "nc", "curl", "wget")  # fmt: skip
ATTACKS = (
    "-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.debug_shell=ttyS0",
    "-smbios", "type=11,value=io.systemd.credential:ssh.authorized_keys.root=ssh-ed25519 AAAA host",
    "-fw_cfg", "name=opt/io.systemd.credentials/login.motd,string=from the host",
)  # fmt: skip


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def posture(network: Network) -> dict[str, dict[str, Any]]:
    body = readiness.get_json(port_of(network.status_url), "/v1/posture")
    return {check["name"]: check for check in (*body["checks"], *body["now"])}


def test_every_check_is_there_and_holds(posture: dict[str, dict[str, Any]]) -> None:
    assert set(posture) == CHECKS
    assert {name: check["seen"] for name, check in posture.items() if not check["passed"]} == {}


def test_the_table_names_checks_that_exist() -> None:
    table = DOCS.read_text().partition("## The guest's hardening")[2]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    named = {name.removesuffix(" …") for row in rows[1:] for name in re.findall(r"`([^`]+)`", row[3])}
    assert named
    assert {name for name in named if name not in CHECKS and name != "sysctl"} == set()


def test_nothing_listens_that_is_not_stated(network: Network) -> None:
    """Now, while engine and worker serve."""
    body = readiness.get_json(port_of(network.status_url), "/v1/posture")
    assert [check["name"] for check in body["now"] if not check["passed"]] == []


def monitor(directory: Path, command: str) -> str:
    """A command of QEMU's monitor in the running machine; what it said."""
    order = {"execute": "human-monitor-command", "arguments": {"command-line": command}}
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(ANSWER_S)
        here = os.open(directory, os.O_RDONLY)
        try:
            plain.connect(f"/proc/self/fd/{here}/{FILES.control}")
        finally:
            os.close(here)
        with plain.makefile("rwb") as control:
            control.readline()
            for line in ({"execute": "qmp_capabilities"}, order):
                control.write(json.dumps(line).encode() + b"\n")
                control.flush()
                answer: dict[str, Any] = {}
                while "return" not in answer:
                    answer = json.loads(control.readline())
                    assert "error" not in answer, answer
    return str(answer["return"]).strip()


@pytest.fixture(scope="module")
def forwarded(network: Network) -> dict[int, int]:
    """Loopback ports that lead to ports of the guest, opened in the running QEMU; 9443 is the control."""
    ports: dict[int, int] = {}
    directory = Path(network.vm["directory"])
    for guest in (*SHUT, STATUS_PORT):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports[guest] = free.getsockname()[1]
        said = monitor(directory, f"hostfwd_add net tcp:127.0.0.1:{ports[guest]}-:{guest}")
        assert said == "", said
    return ports


def answered(port: int) -> bool:
    """Whether anything speaks TLS or says a word there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=SILENT_S) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError:
        return True
    except OSError:
        return False


def test_only_the_attested_port_answers(forwarded: dict[int, int]) -> None:
    assert {guest: answered(port) for guest, port in forwarded.items()} == {
        guest: guest == STATUS_PORT for guest in forwarded
    }


def test_the_console_shows_stages_and_nothing_else(network: Network) -> None:
    """From the first stage on, every line is a stage's; before it are firmware, kernel and service manager."""
    lines = [line.strip("\r\x1b ") for line in network.console().splitlines()]
    begins = next(number for number, line in enumerate(lines) if line.startswith("chrysalis: stage "))
    assert [line for line in lines[begins:] if line and not line.startswith("chrysalis: stage ")] == []


def test_the_image_holds_no_shell(network: Network, tmp_path: Path) -> None:
    if shutil.which("fsck.erofs") is None:
        pytest.fail("apt-get install erofs-utils: the root's files are listed with it")
    root = network.image / "chrysalis.root.raw"
    subprocess.run(["fsck.erofs", f"--extract={tmp_path / 'root'}", root], check=True, capture_output=True)
    names = {path.name for path in (tmp_path / "root").rglob("*") if path.is_file() or path.is_symlink()}
    assert "python3.13" in names
    assert sorted(names & set(SHELLS)) == []


@pytest.fixture(scope="module")
def attacked(built_image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The posture of a machine whose host adds a parameter by SMBIOS, and credentials by SMBIOS and fw_cfg."""

    async def look() -> dict[str, Any] | None:
        """None where QEMU's emulation let the kernel fault, which no parameter does."""
        directory = tmp_path_factory.mktemp("attacked") / "vm"
        vm = await launch.start(Machine(name="attacked", directory=directory, image=built_image, extra=ATTACKS))
        try:
            async with asyncio.timeout(ATTACKED_S):
                while True:
                    stages, source = await asyncio.to_thread(readiness.look, vm)
                    over = {stage.name for stage in stages if stage.state in {"done", "failed", "skipped"}}
                    if "model" in over and source == "status port":
                        break
                    if not vm.alive and KERNEL_FAULT.search(vm.console.read_text(errors="replace")):
                        return None
                    assert vm.alive, vm.tail()
                    await asyncio.sleep(readiness.POLL_S)
            port = vm.forwards[STATUS_PORT]
            body = await asyncio.to_thread(readiness.get_json, port, "/v1/posture")
            shown = await asyncio.to_thread(readiness.get_json, port, "/v1/stages")
            console = vm.console.read_text(errors="replace")
            ended = await vm.stop()
            return {"posture": body["checks"], "stages": shown["stages"], "console": console, "ended": ended}
        finally:
            await vm.stop(0)

    return next(seen for seen in (asyncio.run(look()) for _ in range(3)) if seen is not None)


@pytest.mark.slow
def test_a_parameter_by_smbios_is_seen_and_stops_the_machine(attacked: dict[str, Any]) -> None:
    failed = {check["name"]: check["seen"] for check in attacked["posture"] if not check["passed"]}
    assert set(failed) == {"kernel command line", "register 12"}
    assert "systemd.debug_shell=ttyS0" in failed["kernel command line"]
    stages = {stage["name"]: stage for stage in attacked["stages"]}
    assert stages["posture"]["state"] == "failed"
    assert "kernel command line" in stages["posture"]["reason"]
    assert {stages[name]["state"] for name in ("model", "engine", "links")} == {"skipped"}


@pytest.mark.slow
def test_credentials_from_the_host_are_not_imported(attacked: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in attacked["posture"]}
    assert checks["credentials"]["passed"], json.dumps(checks["credentials"])
    assert "from the host" not in attacked["console"]


@pytest.mark.slow
def test_no_debug_shell_comes_of_it(attacked: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in attacked["posture"]}
    assert checks["running programs"]["passed"], json.dumps(checks["running programs"])


@pytest.mark.slow
def test_the_power_button_stops_the_machine_in_order(attacked: dict[str, Any]) -> None:
    assert attacked["ended"] == "powerdown"
