"""The guides are true: their files load, their commands exist with these options, their imports and links resolve."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.core
import typer.main

from appliance.cli.main import build
from appliance.config import ClientConfig, GatewayConfig, WorkerConfig, load
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODELS = {"worker": WorkerConfig, "gateway": GatewayConfig, "client": ClientConfig}
NETWORK = {
    "global_id": -239,
    "zerostate": {"workchain": -1, "shard": -(2**63), "seqno": 0, "root_hash": "1" * 64, "file_hash": "2" * 64},
    "key_block": {"workchain": -1, "shard": -(2**63), "seqno": 77, "root_hash": "3" * 64, "file_hash": "4" * 64},
    "liteservers": [{"address": "127.0.0.1:5555", "key": "Qk" * 21 + "Q="}],
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text()):
        if language in languages:
            yield text


def commands(page: Path) -> Iterator[list[str]]:
    """Every ``chrysalis …`` line of a page: in blocks, and in the text between back-ticks where it has an argument."""
    found = []
    for text in blocks(page, "", "sh", "bash", "console"):
        found += text.replace("\\\n", " ").splitlines()
    # In running text a command may be named without its arguments; a line that starts with the launcher is whole.
    found += re.findall(r"`(\./chrysalis [^`\n]+)`", FENCE.sub("", page.read_text()))
    for line in found:
        if re.match(r"\s*(\./)?chrysalis\s", line):
            yield shlex.split(line, comments=True)[1:]


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:90]) for page in PAGES for words in commands(page)
]


UsageError = typer.BadParameter.__mro__[1]
"""The parser's own error, wherever this release of typer has it."""


def parse(words: list[str]) -> list[str]:
    """Parse a command line to its end without running it; the commands it went through."""
    command: Any = typer.main.get_command(build())
    parent, path, rest = None, [], words
    while True:
        parent = command.make_context(command.name or "chrysalis", list(rest), parent=parent)
        if not isinstance(command, typer.core.TyperGroup):
            return path
        name, command, rest = command.resolve_command(parent, [*parent._protected_args, *parent.args])
        path.append(name)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_quoted_command_parses(words: list[str]) -> None:
    if "…" in words:
        pytest.skip("a form, not a command")
    assert parse(words)


def test_the_parser_of_these_tests_notices_mistakes() -> None:
    """Control: what is checked above can fail."""
    assert len(COMMANDS) > 30
    assert parse(["lab", "advance", "5"]) == ["lab", "advance"]
    for wrong in (["lab", "advance"], ["lab", "fly"], ["worker", "run", "--swiftly"], ["lab", "advance", "soon"]):
        with pytest.raises(UsageError):
            parse(wrong)


@pytest.mark.parametrize("program", MODELS)
def test_the_examples_are_good(program: str) -> None:
    config = load(EXAMPLES / f"{program}.toml", MODELS[program])
    assert config.host.liteservers
    assert config.host.state_dir == EXAMPLES / f"{program}-state"


@pytest.mark.parametrize("program", MODELS)
def test_a_wrong_key_in_an_example_is_found(program: str, tmp_path: Path) -> None:
    """Control: one key more, and the file is refused with its line."""
    text = (EXAMPLES / f"{program}.toml").read_text().replace("state_dir", "state_dri", 1)
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.toml:\d+: host\.state_dri: unknown key"):
        load(tmp_path / "bad.toml", MODELS[program])


def fill(directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "network.json").write_text(json.dumps(NETWORK))
    values = ["--root", f"0:{'5' * 64}", "--owner", f"0:{'6' * 64}", "--model", f"m@1:{'7' * 64}", "--model-dir", "md"]
    command = [sys.executable, str(EXAMPLES / "fill.py"), "--network", "network.json", *values]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_filling_puts_the_values_in_and_overwrites_nothing(tmp_path: Path) -> None:
    assert fill(tmp_path).returncode == 0
    for program, model in MODELS.items():
        config = load(tmp_path / f"{program}.toml", model)
        network = config.measured.network
        assert network.global_id == NETWORK["global_id"]
        assert network.root_contract == f"0:{'5' * 64}"
        assert (network.zerostate.root_hash, network.zerostate.file_hash) == ("1" * 64, "2" * 64)
        assert (network.key_block.seqno, network.key_block.file_hash) == (77, "4" * 64)
        assert config.owner.address == f"0:{'6' * 64}"
        assert config.host.liteservers[0].address == "127.0.0.1:5555"
        plain = tomllib.loads((EXAMPLES / f"{program}.toml").read_text())
        assert config.host.state_dir.name == plain["host"]["state_dir"]
    worker = load(tmp_path / "worker.toml", WorkerConfig)
    assert worker.measured.model == f"m@1:{'7' * 64}"
    assert worker.host.model_dir == tmp_path / "md"
    again = fill(tmp_path)
    assert again.returncode != 0
    assert "FileExistsError" in again.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_imports_what_exists(page: Path) -> None:
    for text in blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in {
                "appliance",
                "attestation",
                "measurements",
            }:
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def anchor(heading: str) -> str:
    """A heading's anchor as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_internal_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if place:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text()), re.MULTILINE)
            assert place in {anchor(heading) for heading in headings}, f"{page.name}: {target}"


def test_the_guide_names_every_metric_and_status_field() -> None:
    """A new number on a page has to be explained."""
    from appliance.gateway.status import GatewayStatus
    from appliance.worker.status import WorkerStatus

    guide = (ROOT / "docs" / "operating.md").read_text()
    fields = {*GatewayStatus.model_fields, *WorkerStatus.model_fields}
    assert [name for name in sorted(fields) if f"`{name}`" not in guide] == []
