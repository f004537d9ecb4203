"""The worker's page through the attested port: its owner's, and nobody else's."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from boot_machine import machine

from appliance.boot import pages
from appliance.boot.configuration import OWNER_PAGE_FILE
from appliance.boot.pages import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "an owner's key"


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(url: str, key: str | None) -> tuple[int, str]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("configured", [True, False])
async def test_the_key_opens_the_page_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    system = machine(tmp_path)
    system.config.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(KEY.encode()).hexdigest() if configured else ""
    (system.config / OWNER_PAGE_FILE).write_text(digest)
    worker = web.Application()
    worker.router.add_get("/status", _counters)
    worker.router.add_get("/payout", _counters)
    async with serving(worker) as inside, serving(Pages(system, lambda: None).application()) as outside:
        monkeypatch.setattr(pages, "STATUS_PORT", int(inside.rpartition(":")[2]))
        opened = 200 if configured else 401
        assert await ask(f"{outside}/v1/worker/status", KEY) == (opened, *_text(configured))
        assert (await ask(f"{outside}/v1/worker/payout", KEY))[0] == (404 if configured else 401)
        for wrong in (None, "", KEY + "x", digest, KEY[:-1]):
            status, text = await ask(f"{outside}/v1/worker/status", wrong)
            assert status == 401
            assert "counters" not in text
        assert (await ask(f"{outside}/v1/stages", None))[0] == 200


async def _counters(_: web.Request) -> web.Response:
    return web.Response(text="counters")


def _text(configured: bool) -> tuple[str]:
    return (
        ("counters",)
        if configured
        else ('{"error": "this page is the owner\'s", "hint": "Authorization: Bearer <the key of owner_page_sha256>"}',)
    )
