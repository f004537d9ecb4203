"""How the engine is started: the values a release fixes, checked, and what they become for each kind of engine.

The command lines are made in :mod:`appliance.engine.command_sglang` and :mod:`appliance.engine.command_light`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from appliance.engine import command_light, command_sglang
from appliance.engine.errors import EngineSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.config.models import EngineConfig

EngineKind = Literal["sglang", "transformers"]
_HERE: Final = Path(__file__).parent
_INHERITED: Final = frozenset({
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "PATH",
    "TZ",
})  # fmt: skip
_COMPILER: Final = frozenset({"CC", "CXX", "NVCC_PREPEND_FLAGS", "TRITON_LIBCUDA_PATH"})
"""Which compiler and driver library kernels are built with; an image's service file says it."""
_PARSER_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,40}$")
_MODEL_NAME: Final = re.compile(r"^[A-Za-z0-9._/-]{1,200}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine: its model and its limits (the values of ``EngineConfig``).

    Attributes:
        model_dir: The checkpoint's directory: safetensors, tokenizer, configuration.
        model_name: The name that requests carry (before ``@``).
        kind: ``sglang``, or ``transformers``, the light engine for where SGLang cannot run.
        device: ``cpu`` or ``cuda``; the light engine knows the first only.
        context_length: Tokens of prompt and answer together, at most.
        max_total_tokens: Tokens of SGLang's key-value cache; used on the CPU. On CUDA ``memory_fraction`` decides.
        max_active_requests: Requests that run at once (the light engine runs one and lets the others wait).
        max_queued_requests: Requests that wait in the engine before it answers 503.
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: Copies of the model.
        memory_fraction: Share of GPU memory for weights and cache; None leaves it to SGLang.
        reasoning_parser: SGLang's name of the parser that tells thoughts from answers.
        tool_call_parser: SGLang's name of the parser for tool calls.
        self_check_prompt: What a fresh engine is asked.
        self_check_pattern: What must be found in its answer (``.`` also matches a line's end).
        tuning: Further options of the kind's ``TUNING`` with their values.

    Raises:
        EngineSettingsError: A value is out of its range or an option is not allowed.
    """

    model_dir: Path
    model_name: str
    kind: EngineKind = "sglang"
    device: Literal["cpu", "cuda"] = "cpu"
    context_length: int = 2048
    max_total_tokens: int = 16384
    max_active_requests: int = 60
    max_queued_requests: int = 256
    tensor_parallel: int = 1
    data_parallel: int = 1
    memory_fraction: float | None = None
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    self_check_prompt: str = "What is the capital of France? Answer in one sentence."
    self_check_pattern: str = "."
    tuning: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what must not reach the engine."""
        if not _MODEL_NAME.match(self.model_name):
            raise EngineSettingsError(f"model name {self.model_name!r} has characters other than letters, digits, ._/-")
        for name in ("context_length", "max_total_tokens", "max_active_requests", "max_queued_requests"):
            if getattr(self, name) < 1:
                raise EngineSettingsError(f"{name} is {getattr(self, name)}, must be at least 1")
        for parser in (self.reasoning_parser, self.tool_call_parser):
            if parser is not None and not _PARSER_NAME.match(parser):
                raise EngineSettingsError(f"parser {parser!r} is not a name", hint="see SGLang's list of parsers")
        if self.memory_fraction is not None and not 0 < self.memory_fraction < 1:
            raise EngineSettingsError(f"memory_fraction is {self.memory_fraction}, must be between 0 and 1")
        if self.device == "cpu" and (self.tensor_parallel, self.data_parallel) != (1, 1):
            raise EngineSettingsError("tensor and data parallelism need device = 'cuda'")
        try:
            re.compile(self.self_check_pattern)
        except re.error as error:
            raise EngineSettingsError(f"self_check_pattern is not a regular expression: {error}") from error
        if self.kind == "transformers":
            command_light.check(self)
        allowed = command_light.TUNING if self.kind == "transformers" else command_sglang.TUNING
        for option, value in self.tuning:
            _check_tuning(option, value, allowed)

    @classmethod
    def of(cls, config: EngineConfig, model_name: str, model_dir: Path) -> EngineSettings:
        """The settings that a measured configuration fixes.

        Args:
            config: What it says of the engine.
            model_name: The name that requests carry.
            model_dir: The checkpoint.

        Raises:
            EngineSettingsError: A value is out of its range, or the engine is somebody else's.
        """
        if config.kind == "openai":
            raise EngineSettingsError(
                "engine kind 'openai' is a server that somebody else runs: it cannot be started here",
                hint="set host.engine_url, or engine.kind = 'sglang'",
            )
        return cls(
            model_dir=model_dir,
            model_name=model_name,
            kind=config.kind,
            device=config.device,
            context_length=config.context_length,
            max_total_tokens=config.max_total_tokens,
            max_active_requests=config.max_active_requests,
            tensor_parallel=config.tensor_parallel,
            data_parallel=config.data_parallel,
            reasoning_parser=config.reasoning_parser,
            tool_call_parser=config.tool_call_parser,
            self_check_prompt=config.self_check_prompt,
            self_check_pattern=config.self_check_pattern,
        )

    @property
    def launcher(self) -> Path:
        """The program that the engine environment's Python runs."""
        return _HERE / (command_light.LAUNCHER if self.kind == "transformers" else command_sglang.LAUNCHER)

    def arguments(self, port: int) -> tuple[str, ...]:
        """The launcher's options for this engine on loopback port ``port``; no key is among them."""
        if self.kind == "transformers":
            return command_light.arguments(self, port)
        return command_sglang.arguments(self, port)

    def environment(self, inherited: Mapping[str, str], scratch: Path) -> dict[str, str]:
        """The engine's whole environment: a few inherited names, nothing that could switch a forbidden thing on.

        Args:
            inherited: The supervisor's own environment.
            scratch: A private directory for the engine's sockets and temporary files.
        """
        allowed = _INHERITED if self.device == "cpu" else _INHERITED | _COMPILER
        kept = {name: value for name, value in inherited.items() if name in allowed}
        common = {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TMPDIR": str(scratch),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.kind == "transformers":
            return kept | common | command_light.environment()
        return kept | common | command_sglang.environment(self, scratch)


def _check_tuning(option: str, value: str, allowed: frozenset[str]) -> None:
    if option in allowed and value and not value.startswith("-"):
        return
    reason = command_sglang.FORBIDDEN.get(option, "it is not on the list of options that only change speed or memory")
    if option in allowed:
        reason = f"its value {value!r} is empty or another option"
    raise EngineSettingsError(f"engine option {option!r} is refused: {reason}", hint="remove it from the configuration")
