"""``chrysalis vm`` as an owner uses it: files checked first, commands told, machines with real firmware."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny_guest

from appliance.host.record import machine_directory
from appliance.host.running import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.host.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
BLOCK = f'seqno = 0\nroot_hash = "{"0" * 64}"\nfile_hash = "{"0" * 64}"\n'
MEASURED = f"""
model = "tiny@1:{"cd" * 32}"
[network]
global_id = 1
root_contract = "0:{"11" * 32}"
[network.zerostate]
{BLOCK}
[network.key_block]
{BLOCK}
[trust]
policy = "any"
development = true
[engine]
[model_volume]
format = "erofs"
data_blocks = 8
"""
OWNER = f'address = "0:{"22" * 32}"\n'
HOST = 'liteservers = [{ address = "10.0.2.2:4301", key = "AAAA" }]\n'


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three good files and a gas key, as options."""
    found = []
    for name, text in {"measured": MEASURED, "owner": OWNER, "host": HOST}.items():
        (tmp_path / f"{name}.toml").write_text(text)
        found += [f"--{name}", str(tmp_path / f"{name}.toml")]
    (tmp_path / "gas.key").write_text("c2VjcmV0\n")
    (tmp_path / "gas.key").chmod(0o600)
    return [*found, "--gas-key", str(tmp_path / "gas.key")]


def chrysalis(*words: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "appliance.cli", "vm", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def launch_words(machine: Machine, files: list[str]) -> list[str]:
    words = ["launch", machine.name, "--image", str(machine.image), "--boot", "direct", "--accel", "tcg"]
    return [*words, "--cpus", "1", "--memory", "512M", *files]


def test_a_launch_tells_its_commands_and_returns(tiny: Callable[..., Machine], files: list[str]) -> None:
    machine = tiny(ends=False)
    status, result, words = chrysalis(*launch_words(machine, files), "--wait", "0", "--forward", "8443")
    assert status == 0, words
    assert (result["ok"], result["alive"], result["accel"]) == (True, True, "tcg")
    assert sorted(result["forwards"]) == ["8443", "9443"]
    flat = " ".join(words.split())  # a terminal's width breaks lines, a pipe's does not matter
    assert all(" ".join(command.split()) in flat for command in result["commands"])
    assert "c2VjcmV0" not in words + json.dumps(result)
    assert find("tiny").alive
    assert chrysalis("stop", "tiny", "--grace", "0")[1]["how"] == "quit"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("owner", "adress = 1\n", "owner.toml"),
        ("host", "liteservers = []\n", "host.toml"),
        ("measured", MEASURED.replace('"any"', '"all"'), "trust.policy"),
        ("measured", "x" * 300_000, "more than"),
    ],
)
def test_a_wrong_file_is_told_before_anything_is_started(
    tiny: Callable[..., Machine], files: list[str], file: str, text: str, said: str
) -> None:
    machine = tiny()
    Path(files[files.index(f"--{file}") + 1]).write_text(text)
    status, result, _ = chrysalis(*launch_words(machine, files), "--wait", "0")
    assert status == 1
    assert said in result["error"]
    assert not machine_directory("tiny").exists()


def test_a_key_that_others_can_read_is_refused(tiny: Callable[..., Machine], files: list[str]) -> None:
    Path(files[-1]).chmod(0o644)
    status, result, _ = chrysalis(*launch_words(tiny(), files), "--wait", "0")
    assert status == 1
    assert "mode 0644" in result["error"]


def test_a_machine_that_ends_while_it_is_waited_for_is_an_error(tiny: Callable[..., Machine], files: list[str]) -> None:
    status, result, _ = chrysalis(*launch_words(tiny(), files), "--wait", "120")
    assert status == 1
    assert "tiny ended" in result["error"]
    assert tiny_guest.LINE in result["error"]


def test_in_the_foreground_a_signal_stops_the_machine(tiny: Callable[..., Machine], files: list[str]) -> None:
    machine = tiny(ends=False)
    command = [
        sys.executable,
        "-m",
        "appliance.cli",
        "vm",
        *launch_words(machine, files),
        "--foreground",
        "--grace",
        "1",
    ]
    command.append("--json")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        console = machine.directory / "console.log"
        for _ in range(1200):
            if console.exists() and tiny_guest.LINE in console.read_text(errors="replace"):
                break
            assert process.poll() is None
            time.sleep(0.1)
        else:
            process.send_signal(signal.SIGTERM)
            pytest.fail("the guest said nothing")
        vm = find("tiny")
        assert vm.alive
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert json.loads(out)["alive"] is False
    assert not vm.alive


def test_the_probe_answers_for_a_host_and_an_image(own_home: Path, tmp_path: Path) -> None:
    status, result, _ = chrysalis("probe", "--image", str(tmp_path))
    assert (status, result["ok"]) == (1, False)
    assert result["reason"]
    assert result["protection"] in {"none", "tdx", "snp"}


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "A", "a" * 33])
def test_a_name_is_no_path(own_home: Path, name: str) -> None:
    status, result, _ = chrysalis("stop", name, "--delete")
    assert status == 1
    assert "lower-case letters" in result["error"]


def test_no_machines_are_listed_as_none(own_home: Path) -> None:
    assert chrysalis("status")[1] == {"ok": True, "machines": []}
    assert "known: none" in chrysalis("stop", "nobody")[1]["error"]
