"""Why an engine does not start: its supervisor's word, or the model file whose bytes cannot be read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from appliance.engine import service
from appliance.engine.service import Trouble
from appliance.engine.state import EngineState, EngineStatus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("damage", "told"),
    [(None, "the engine ended with status 1"), ("the model volume was altered: w", "the model volume was altered: w")],
)
async def test_the_file_says_why_and_goes_when_the_engine_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None, told: str
) -> None:
    monkeypatch.setattr(service, "find_damage", lambda _: damage)
    path = tmp_path / "trouble"
    trouble = Trouble(path, tmp_path)
    trouble.follow(EngineStatus(EngineState.STARTING, "the engine loads"))
    assert not path.exists()
    trouble.follow(EngineStatus(EngineState.UNHEALTHY, "the engine ended with status 1"))
    while not path.exists():  # noqa: ASYNC110 -- another thread writes it
        await asyncio.sleep(0.01)
    assert path.read_text() == told
    trouble.follow(EngineStatus(EngineState.HEALTHY))
    assert not path.exists()
