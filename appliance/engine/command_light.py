"""The light engine's command line and environment (:mod:`appliance.engine.light`). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.engine.errors import EngineSettingsError

if TYPE_CHECKING:
    from appliance.engine.settings import EngineSettings

LAUNCHER: Final = "light/__main__.py"
TUNING: Final = frozenset({"--dtype", "--threads"})
"""Options that change speed or memory only; each takes one value."""


def check(settings: EngineSettings) -> None:
    """Refuse what this engine cannot do.

    Raises:
        EngineSettingsError: Names the setting.
    """
    if settings.device != "cpu":
        raise EngineSettingsError("engine kind 'transformers' runs on a CPU only", hint="use kind = 'sglang'")
    for name in ("reasoning_parser", "tool_call_parser"):
        if getattr(settings, name) is not None:
            raise EngineSettingsError(f"{name} is SGLang's; engine kind 'transformers' has none", hint="remove it")


def arguments(settings: EngineSettings, port: int) -> tuple[str, ...]:
    """Its options on loopback port ``port``; no key is among them."""
    options = {
        "--model-path": str(settings.model_dir),
        "--served-model-name": settings.model_name,
        "--port": port,
        "--context-length": settings.context_length,
        "--max-requests": settings.max_active_requests + settings.max_queued_requests,
        "--threads": 1,  # measured: with two on two busy CPUs each token takes up to thirty times as long
        "--dtype": "auto",
    }
    options |= dict(settings.tuning)
    return tuple(f"{name}={value}" for name, value in options.items())


def environment() -> dict[str, str]:
    """What its environment holds beyond the inherited names and those of every engine."""
    return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
