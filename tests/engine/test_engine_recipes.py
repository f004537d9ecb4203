"""The models that this release makes, made for real in the engine environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.engine import models
from appliance.engine.models import RECIPES, check_files, prepare
from appliance.engine.settings import EngineSettings
from appliance.engine.supervisor import EngineSupervisor, Timing
from appliance.engine.tool import run_tool
from appliance.engine.tree import tree_hash

if TYPE_CHECKING:
    from appliance.engine.progress import Progress

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


async def test_the_tiny_model_is_the_same_each_time_it_is_made(tmp_path: Path) -> None:
    made = await prepare("tiny")
    again = tmp_path / "again"
    again.mkdir()
    script = Path(models.__file__).parent / RECIPES["tiny"].script
    result = await run_tool([made.environment.python, "-I", script, again], environment={"HF_HUB_OFFLINE": "1"})
    assert result.status == 0, result.text
    check_files(again)
    assert made.name == f"tiny@1:{tree_hash(again)}"


async def test_smollm2_answers_sanely() -> None:
    steps: list[Progress] = []
    model = await prepare("smollm2", steps.append)
    second: list[Progress] = []
    assert await prepare("smollm2", second.append) == model
    assert second == []
    configuration = json.loads((model.directory / "config.json").read_text())
    assert configuration["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in configuration
    settings = EngineSettings(
        model_dir=model.directory, model_name=model.base_name, self_check_pattern=model.self_check_pattern or ""
    )
    engine = EngineSupervisor(settings, model.environment.python, timing=Timing(restarts=0))
    question = {"role": "user", "content": "What is the capital of France?"}
    payload = {"model": "smollm2", "messages": [question], "max_tokens": 30, "temperature": 0}
    async with engine:  # its self-check has already found Paris
        response = await engine.client.open("/v1/chat/completions", json.dumps(payload).encode(), timeout=120)
        answer = json.loads(await response.read(1 << 16))
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
