"""The engine's command line and environment: what is always there, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.engine.command_sglang import FORBIDDEN, TUNING
from appliance.engine.errors import EngineSettingsError
from appliance.engine.settings import EngineSettings

BASE: dict[str, Any] = {"model_dir": Path("/models/m"), "model_name": "m"}


def options(settings: EngineSettings) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in settings.arguments(1234))


def test_cpu_engine() -> None:
    found = options(EngineSettings(**BASE, max_total_tokens=4096))
    assert found["--host"] == "127.0.0.1"
    assert found["--port"] == "1234"
    assert found["--device"] == "cpu"
    assert found["--attention-backend"] == "torch_native"
    assert found["--max-total-tokens"] == "4096"
    assert found["--log-level"] == "warning"
    assert found["--load-format"] == "safetensors"
    assert {"--enable-metrics", "--enable-cache-report"} <= set(found)
    assert "--reasoning-parser" not in found


def test_cuda_engine() -> None:
    settings = EngineSettings(
        **BASE, device="cuda", tensor_parallel=4, data_parallel=2, memory_fraction=0.8, reasoning_parser="qwen3"
    )
    found = options(settings)
    assert (found["--tp-size"], found["--dp-size"]) == ("4", "2")
    assert found["--mem-fraction-static"] == "0.8"
    assert found["--reasoning-parser"] == "qwen3"
    assert not {"--max-total-tokens", "--attention-backend", "--cuda-graph-backend-decode"} & set(found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_forbidden_option_is_ever_made(device: Any) -> None:
    made = set(options(EngineSettings(**BASE, device=device, tool_call_parser="qwen25")))
    assert not made & (set(FORBIDDEN) - {"--host", "--log-level"})


@pytest.mark.parametrize("option", sorted(FORBIDDEN))
def test_a_forbidden_option_is_refused_with_its_reason(option: str) -> None:
    with pytest.raises(EngineSettingsError, match=option) as caught:
        EngineSettings(**BASE, tuning=((option, "x"),))
    assert FORBIDDEN[option] in caught.value.message


@pytest.mark.parametrize(
    "option", ["--log-req", "--trust-remote", "--crash-dump", "--unknown", "log-requests", "--admin"]
)
def test_an_abbreviation_or_unknown_option_is_refused_too(option: str) -> None:
    with pytest.raises(EngineSettingsError, match="refused"):
        EngineSettings(**BASE, tuning=((option, "1"),))


def test_a_tuning_option_is_taken_but_its_value_cannot_be_an_option() -> None:
    found = options(EngineSettings(**BASE, tuning=(("--page-size", "16"),)))
    assert found["--page-size"] == "16"
    for value in ("", "--log-requests", "-x"):
        with pytest.raises(EngineSettingsError, match="--page-size"):
            EngineSettings(**BASE, tuning=(("--page-size", value),))
    assert not TUNING & set(FORBIDDEN)


@pytest.mark.parametrize(
    "bad",
    [
        {"model_name": "a b"},
        {"model_name": "--log-requests=1 "},
        {"context_length": 0},
        {"max_active_requests": -1},
        {"reasoning_parser": "--log-requests"},
        {"tool_call_parser": "a=b"},
        {"memory_fraction": 1.5},
        {"tensor_parallel": 2},
        {"self_check_pattern": "("},
    ],
)
def test_values_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(EngineSettingsError):
        EngineSettings(**{**BASE, **bad})


def test_the_environment_is_ours() -> None:
    inherited = {
        "PATH": "/bin",
        "SGLANG_LOG_REQUESTS": "1",
        "HTTP_PROXY": "http://example.invalid",
        "PYTHONPATH": "/evil",
        "LD_PRELOAD": "/evil.so",
        "SECRET": "x",
    }
    found = EngineSettings(**BASE).environment(inherited, Path("/scratch"))
    assert found["PATH"] == "/bin"
    assert found["TMPDIR"] == "/scratch"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["OMP_NUM_THREADS"] == "1"
    assert not set(found) & (set(inherited) - {"PATH"})
    cuda = EngineSettings(**BASE, device="cuda").environment(inherited | {"CUDA_VISIBLE_DEVICES": "1"}, Path("/s"))
    assert cuda["CUDA_VISIBLE_DEVICES"] == "1"
    assert "SGLANG_USE_CPU_ENGINE" not in cuda
