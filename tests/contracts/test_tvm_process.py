"""The executor's process: bounds, errors with reasons, and nothing left behind."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract_world import START, TON, Network, World, accepted

from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.envelopes import external_message, internal_message
from appliance.lab import tvm_tools
from appliance.lab.tvm import Tvm, TvmError, TvmRefusedError, method_id
from appliance.lab.tvm_tools import Tools, ToolsError, find_node, prepare_tools

if TYPE_CHECKING:
    from appliance.chain.contracts import ContractCodes

SOMEBODY = Address(0, b"\x02" * 32)


def test_same_input_same_transaction(tools: Tools, codes: ContractCodes) -> None:
    seen = []
    for _ in range(2):
        with Tvm(tools=tools) as tvm:
            network = Network(tvm, codes)
            accepted(network.pay_worker(5000))
            seen.append({address: cell.hash for address, cell in network.accounts.items()})
    assert seen[0] == seen[1]


def test_impossible_input_is_an_error_and_the_process_goes_on(tvm: Tvm) -> None:
    with pytest.raises(TvmError, match="could not do transaction"):
        tvm.transaction(empty_cell(), empty_cell(), now=START, lt=1)
    with pytest.raises(TvmError):
        tvm.set_config(empty_cell())
    tvm.set_config(tvm.config)
    world = World(tvm)
    accepted(world.send(SOMEBODY, TON, bounce=False))
    assert world.balance(SOMEBODY) == TON


def test_external_message_to_nobody_is_refused(tvm: Tvm) -> None:
    world = World(tvm)
    with pytest.raises(TvmRefusedError) as caught:
        world.external(SOMEBODY, external_message(SOMEBODY, empty_cell()))
    assert caught.value.exit_code is None
    assert caught.value.hint


def test_get_method_errors(network: Network) -> None:
    code, data = network.code(network.root), network.data(network.root)
    missing = network.tvm.get_method(code, data, "no_such_method", address=network.root, now=START)
    assert missing.exit_code == 11
    assert method_id("seqno") == 85143  # the number that every wallet uses
    poor = network.tvm.get_method(code, data, "get_cocoon_data", address=network.root, now=START, gas_limit=10)
    assert poor.exit_code not in {0, 1}


def test_a_dead_process_is_told(tools: Tools) -> None:
    with Tvm(tools=tools) as tvm:
        os.kill(tvm.pid, signal.SIGKILL)
        with pytest.raises(TvmError, match="failed"):
            tvm.set_config(tvm.config)
        with pytest.raises(TvmError, match="closed"):
            tvm.set_config(tvm.config)


def test_a_silent_process_is_ended(tools: Tools) -> None:
    with Tvm(tools=tools, timeout=0.3) as tvm:
        os.kill(tvm.pid, signal.SIGSTOP)
        with pytest.raises(TvmError, match="no answer within"):
            tvm.set_config(tvm.config)
        assert not alive(tvm.pid)


def test_closing_twice(tools: Tools) -> None:
    tvm = Tvm(tools=tools)
    tvm.close()
    tvm.close()
    with pytest.raises(TvmError, match="closed"):
        tvm.set_config(tvm.config)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_killed_parent_leaves_nothing(tools: Tools) -> None:
    program = (
        "import sys, time\nfrom appliance.lab.tvm import Tvm\nt = Tvm()\nprint(t.pid, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment(), text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not alive(child)


def environment() -> dict[str, str]:
    root = str(Path(tvm_tools.__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_driver_answers_bad_lines(tools: Tools) -> None:
    """Whatever is written to it: one answer a line, and it lives on."""
    driver = Path(tvm_tools.__file__).with_name("tvm.js")
    lines = ["not json", "null", "{}", '{"id": 1, "op": "toString"}', '{"id": 2, "op": "transaction"}']
    config = base64.b64encode(encode_boc(tools.slim_config())).decode()
    lines.append(json.dumps({"id": 3, "op": "config", "config": config}))
    done = subprocess.run(
        [str(tools.node), str(driver), str(tools.emulator)],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == {"ready": True}
    assert len(answers) == 1 + len(lines)
    assert all("error" in answer for answer in answers[1:-1])
    assert answers[-1] == {"id": 3, "ok": {}}


def test_missing_node_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolsError) as caught:
        find_node()
    assert "lab" in caught.value.hint


def test_second_time_needs_no_network(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tvm_tools, "_install", lambda *_: pytest.fail("nothing may be fetched"))
    said: list[str] = []
    assert prepare_tools(said.append) == tools
    assert said == []


def test_failed_installation_is_told_and_leaves_nothing(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm itself fails (no registry answers on this port); the next attempt starts clean."""
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    said: list[str] = []
    with pytest.raises(ToolsError, match="npm ci ended") as caught:
        prepare_tools(said.append)
    assert "registry" in caught.value.hint
    assert len(said) == 1
    assert [path.name for path in (tmp_path / "npm").iterdir()] == ["lock"]


def test_changed_file_is_refused(tools: Tools, tmp_path: Path) -> None:
    name = "@ton/sandbox/dist/config/slimConfig.js"
    expected = json.loads((Path(tvm_tools.__file__).parent / "npm" / "files.json").read_text())
    copy = tmp_path / name
    copy.parent.mkdir(parents=True)
    copy.write_bytes((tools.modules / name).read_bytes())
    tvm_tools._check(tmp_path, {name: expected[name]})
    copy.write_bytes(copy.read_bytes() + b"\n")
    with pytest.raises(ToolsError, match="SHA-256") as caught:
        tvm_tools._check(tmp_path, {name: expected[name]})
    assert "remove" in caught.value.hint


def test_lock_names_no_registry() -> None:
    lock = (Path(tvm_tools.__file__).parent / "npm" / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert "://" not in lock.replace("https://opencollective.com", "").replace("https://github.com", "")
    packages = json.loads(lock)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_slim_config_is_the_known_one(tools: Tools) -> None:
    root = tools.slim_config()
    assert root.hash.hex() == "6848cc7b90d039f06faea86f6028c5508cd764a40ade391221df7f88affd2c0f"
    params = Reader(Writer("config").maybe_ref(root).end(), "config").dictionary(32, lambda leaf: leaf.ref())
    version = Reader(params[8], "global version")
    version.constant(0xC4, 8, "tag")
    assert version.uint(32) == 12
    assert {20, 21, 24, 25} <= set(params)  # gas and forwarding prices


def test_message_source_is_kept(tvm: Tvm) -> None:
    world = World(tvm)
    message = internal_message(source=SOMEBODY, destination=Address(0, bytes(32)), value=5, created_lt=1)
    assert message.hash == Writer("m").inline(message).end().hash
    (executed,) = world.send(Address(0, bytes(32)), TON, source=SOMEBODY, bounce=False)
    assert executed.source == SOMEBODY
