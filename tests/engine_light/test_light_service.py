"""The guest's engine service: what it reads, what it refuses, and that it keeps a real process on its fixed port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from appliance.boot.configuration import MACHINE_FILE
from appliance.boot.system import System
from appliance.config import WorkerConfig
from appliance.config.guest import ENGINE_PORT
from appliance.config.models import EngineConfig
from appliance.engine import service
from appliance.engine.endpoint import Door
from appliance.engine.errors import EngineSettingsError
from appliance.engine.process import free_port
from appliance.engine.service import Service
from appliance.engine.supervisor import Timing
from appliance.errors import StageError
from appliance.model.volume import MOUNT_POINT

ZERO = "0" * 64
KEY = "ab" * 32


def configuration(kind: str = "transformers") -> WorkerConfig:
    block = {"seqno": 0, "root_hash": ZERO, "file_hash": ZERO}
    network = {"global_id": 1, "zerostate": block, "key_block": block, "root_contract": f"0:{ZERO}"}
    return WorkerConfig.model_validate({
        "measured": {
            "network": network,
            "trust": {"policy": "any", "development": True},
            "model": f"tiny@1:{ZERO}",
            "engine": {"kind": kind, "context_length": 512, "max_active_requests": 2},
        },
        "owner": {"address": f"0:{ZERO}"},
        "host": {"state_dir": "/var/lib/x", "liteservers": [{"address": "10.0.2.2:1", "key": "AAAA"}]},
    })  # fmt: skip


def write(root: Path, name: str, content: str, mode: int = 0o400) -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def guest(root: Path, *, kind: str = "transformers", carries: dict[str, Any] | None = None) -> System:
    """The files of a guest whose boot went well."""
    write(root, service.MACHINE, configuration(kind).model_dump_json())
    write(root, service.KEY, KEY)
    image = {"profile": "engine-cpu", "engine": carries, "source_date_epoch": 0, "command_line": ""}
    write(root, "/usr/lib/chrysalis/image.json", json.dumps(image))
    return System(root)


def test_it_serves_what_was_measured_at_the_port_and_with_the_key_that_the_worker_knows(tmp_path: Path) -> None:
    found = Service.read(guest(tmp_path, carries={"name": "transformers", "version": "5"}))
    assert found.settings.kind == "transformers"
    assert (found.settings.model_name, found.settings.context_length) == ("tiny", 512)
    assert found.door == Door(ENGINE_PORT, KEY)
    assert KEY not in repr(found)


def test_its_paths_are_those_of_the_boot() -> None:
    system = System()
    assert Path(service.MACHINE) == system.config / MACHINE_FILE
    assert Path(service.MODEL) == MOUNT_POINT


@pytest.mark.parametrize("carries", [None, {"name": "transformers"}])
def test_another_engine_than_the_measured_one_is_refused_by_both_names(
    tmp_path: Path, carries: dict[str, Any] | None
) -> None:
    Service.read(guest(tmp_path / "control", kind="sglang", carries={"name": "sglang"}))
    with pytest.raises(EngineSettingsError, match=r"asks for engine 'sglang', the image carries (none|transformers)"):
        Service.read(guest(tmp_path / "other", kind="sglang", carries=carries))


@pytest.mark.parametrize("missing", [service.MACHINE, service.KEY])
def test_what_the_boot_did_not_write_is_named(tmp_path: Path, missing: str) -> None:
    system = guest(tmp_path, carries={"name": "transformers"})
    system.path(missing).unlink()
    with pytest.raises(EngineSettingsError, match=Path(missing).name):
        Service.read(system)


def test_an_image_that_does_not_describe_itself_is_refused(tmp_path: Path) -> None:
    system = guest(tmp_path, carries={"name": "transformers"})
    system.path("/usr/lib/chrysalis/image.json").unlink()
    with pytest.raises(StageError):
        Service.read(system)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    system = guest(tmp_path, carries={"name": "transformers"})
    system.path(service.KEY).chmod(0o444)
    with pytest.raises(EngineSettingsError, match="0600"):
        Service.read(system)


def test_any_kind_but_the_carried_one_is_refused() -> None:
    service.require_kind(EngineConfig(kind="transformers"), "transformers")
    for kind, carried in (("sglang", "transformers"), ("openai", None), ("transformers", None)):
        with pytest.raises(EngineSettingsError, match=kind):
            service.require_kind(EngineConfig.model_validate({"kind": kind}), carried)


SERVER = """
import http.server, json, os, sys
key = json.loads(sys.stdin.readline())["api_key"]
port = int([word for word in sys.argv if word.startswith("--port=")][0].partition("=")[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, content):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        good = self.headers["Authorization"] == f"Bearer {key}"
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())
    def do_GET(self):
        self.answer({"pid": os.getpid()})
    def do_POST(self):
        self.answer({"choices": [{"message": {"content": "Paris"}}]})
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


async def test_a_server_that_dies_comes_back_at_the_same_door(tmp_path: Path) -> None:
    """A small server in the engine's place: it takes the key on standard input and the port as an option."""
    system = guest(tmp_path, carries={"name": "transformers"})
    (tmp_path / "server.py").write_text(SERVER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec python3 {tmp_path}/server.py "$@"\n')
    python.chmod(0o700)
    known = replace(Service.read(system), python=python, door=Door(free_port(), KEY))
    running = asyncio.create_task(service.run(known, Timing(back_off=0.01, poll=0.05, start=30)))
    try:
        first = await pid_at(known.door)
        os.kill(first, signal.SIGKILL)
        second = await pid_at(known.door, other_than=first)
        assert second != first
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            await running
    finally:
        running.cancel()
        await asyncio.wait({running})
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def pid_at(door: Door, other_than: int | None = None) -> int:
    """The process that answers there."""
    headers = {"Authorization": f"Bearer {door.key}"}
    async with asyncio.timeout(60):
        while True:
            try:
                async with (
                    aiohttp.ClientSession(headers=headers) as session,
                    session.get(f"http://127.0.0.1:{door.port}/v1/models") as response,
                ):
                    assert response.status == 200
                    pid = int((await response.json(content_type=None))["pid"])
                    if pid != other_than:
                        return pid
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
