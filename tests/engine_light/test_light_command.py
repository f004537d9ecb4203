"""The light engine's command line, environment and counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.config.models import EngineConfig
from appliance.engine.counters import EngineCounters, parse_counters
from appliance.engine.errors import EngineSettingsError
from appliance.engine.light.meter import Meter, Run
from appliance.engine.light.server import options
from appliance.engine.settings import EngineSettings

BASE: dict[str, Any] = {"model_dir": Path("/models/m"), "model_name": "m", "kind": "transformers"}


def test_the_program_reads_what_the_settings_make() -> None:
    settings = EngineSettings(**BASE, context_length=4096, max_active_requests=3, max_queued_requests=4)
    read = options(settings.arguments(1234))
    assert (read.model_path, read.served_model_name, read.port) == (Path("/models/m"), "m", 1234)
    assert (read.context_length, read.max_requests, read.threads, read.dtype) == (4096, 7, 1, "auto")
    assert settings.launcher.is_file()


def test_each_kind_has_its_own_launcher() -> None:
    light, sglang = EngineSettings(**BASE), EngineSettings(**{**BASE, "kind": "sglang"})
    assert light.launcher != sglang.launcher
    assert sglang.launcher.is_file()


def test_the_environment_reaches_no_hub_and_inherits_little(tmp_path: Path) -> None:
    inherited = {"PATH": "/bin", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "x", "PYTHONPATH": "x", "LD_PRELOAD": "x"}
    found = EngineSettings(**BASE).environment(inherited, tmp_path)
    assert found["HF_HUB_OFFLINE"] == "1"
    assert not {"HF_ENDPOINT", "PYTHONPATH", "LD_PRELOAD"} & found.keys()
    assert not [name for name in found if name.startswith("SGLANG")]


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cuda"},
        {"reasoning_parser": "qwen3"},
        {"tool_call_parser": "qwen25"},
        {"tuning": (("--page-size", "16"),)},
        {"tuning": (("--api-key", "x"),)},
        {"tuning": (("--dtype", ""),)},
    ],
)
def test_what_it_cannot_do_is_refused(changed: dict[str, Any]) -> None:
    EngineSettings(**BASE, tuning=(("--dtype", "float32"),))  # the control
    with pytest.raises(EngineSettingsError):
        EngineSettings(**{**BASE, **changed})


def test_settings_come_from_the_measured_configuration() -> None:
    config = EngineConfig(kind="transformers", context_length=512, max_active_requests=2, self_check_pattern="Paris")
    settings = EngineSettings.of(config, "m", Path("/models/m"))
    assert (settings.kind, settings.context_length, settings.self_check_pattern) == ("transformers", 512, "Paris")
    with pytest.raises(EngineSettingsError, match="somebody else runs"):
        EngineSettings.of(EngineConfig(kind="openai"), "m", Path("/models/m"))


def test_its_counters_are_read_like_sglangs() -> None:
    meter = Meter()
    asked, check = Run(), Run(counted=False)
    meter.began(asked, 10)
    meter.made(asked, 1)
    meter.made(asked, 3)
    assert meter.running == 1
    meter.ended(asked)
    meter.began(check, 5)
    meter.made(check, 1)
    meter.ended(check)
    assert parse_counters(meter.exposition()) == EngineCounters(prompt_tokens=10, generation_tokens=3, requests=1)
    assert meter.steps == 4
    assert meter.running == 0


def test_a_run_is_cancelled_once_and_for_all() -> None:
    run = Run()
    assert not run.cancelled
    run.cancel()
    run.cancel()
    assert run.cancelled
