"""How the engine is started: the values a release fixes, turned into SGLang's command line. Pure.

Every option that reaches SGLang is either made here or on :data:`TUNING`, an allow-list. SGLang's parser accepts
abbreviations, so a list of what is forbidden could be walked around; :data:`FORBIDDEN` only explains refusals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from appliance.engine.errors import EngineSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOST: Final = "127.0.0.1"  # protocol specification, section 8, item 16

TUNING: Final = frozenset({
    "--attention-backend", "--chunked-prefill-size", "--cuda-graph-max-bs", "--dtype", "--ep-size",
    "--kv-cache-dtype", "--max-prefill-tokens", "--page-size", "--quantization", "--sampling-backend",
    "--schedule-conservativeness", "--schedule-policy", "--stream-interval",
})  # fmt: skip
"""Options that change speed or memory only; each takes one value."""

FORBIDDEN: Final[Mapping[str, str]] = {
    "--admin-api-key": "keys are made at start and never stand on a command line",
    "--api-key": "keys are made at start and never stand on a command line",
    "--config": "it would bring in options that nobody checked",
    "--crash-dump-folder": "it writes requests to disk",
    "--enable-custom-logit-processor": "it runs code from a request",
    "--enable-return-hidden-states": "it gives away the model's inner states",
    "--enable-trace": "it sends request data elsewhere",
    "--export-metrics-to-file": "it writes request data to disk",
    "--file-storage-path": "it writes request data to disk",
    "--host": "the engine listens on loopback only",
    "--log-level": "below 'warning' the engine logs keys and requests",
    "--log-requests": "it logs requests",
    "--trust-remote-code": "it runs code from a model directory",
    "--trust-request-chat-template": "it runs a template from a request",
}
"""Why the options that a worker must never set are refused."""

_INHERITED: Final = frozenset({
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "PATH",
    "TZ",
})  # fmt: skip
_PARSER_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,40}$")
_MODEL_NAME: Final = re.compile(r"^[A-Za-z0-9._/-]{1,200}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine: its model and its limits (the values of ``EngineConfig``).

    Attributes:
        model_dir: The checkpoint's directory: safetensors, tokenizer, configuration.
        model_name: The name that requests carry (before ``@``).
        device: ``cpu`` or ``cuda``.
        context_length: Tokens of prompt and answer together, at most.
        max_total_tokens: Tokens of the key-value cache; used on the CPU. On CUDA ``memory_fraction`` decides.
        max_active_requests: Requests that run at once.
        max_queued_requests: Requests that wait in the engine before it answers 503.
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: Copies of the model.
        memory_fraction: Share of GPU memory for weights and cache; None leaves it to SGLang.
        reasoning_parser: SGLang's name of the parser that tells thoughts from answers.
        tool_call_parser: SGLang's name of the parser for tool calls.
        self_check_prompt: What a fresh engine is asked.
        self_check_pattern: What must be found in its answer (``.`` also matches a line's end).
        tuning: Further options of :data:`TUNING` with their values.

    Raises:
        EngineSettingsError: A value is out of its range or an option is not allowed.
    """

    model_dir: Path
    model_name: str
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
        for option, value in self.tuning:
            _check_tuning(option, value)

    def arguments(self, port: int) -> tuple[str, ...]:
        """SGLang's options for this engine on loopback port ``port``; no key is among them."""
        options: dict[str, str | int | float | None] = {
            "--model-path": str(self.model_dir),
            "--served-model-name": self.model_name,
            "--host": HOST,
            "--port": port,
            "--device": self.device,
            "--context-length": self.context_length,
            "--max-running-requests": self.max_active_requests,
            "--max-queued-requests": self.max_queued_requests,
            "--grammar-backend": "xgrammar",
            "--load-format": "safetensors",
            "--log-level": "warning",
            "--reasoning-parser": self.reasoning_parser,
            "--tool-call-parser": self.tool_call_parser,
        }
        if self.device == "cpu":
            options |= {"--attention-backend": "torch_native", "--max-total-tokens": self.max_total_tokens}
            options |= {"--cuda-graph-backend-decode": "disabled", "--cuda-graph-backend-prefill": "disabled"}
        else:
            options |= {"--tp-size": self.tensor_parallel, "--dp-size": self.data_parallel}
            options |= {"--mem-fraction-static": self.memory_fraction}
        options |= dict(self.tuning)
        words = [f"{name}={value}" for name, value in options.items() if value is not None]
        return (*words, "--enable-metrics", "--enable-cache-report")

    def environment(self, inherited: Mapping[str, str], scratch: Path) -> dict[str, str]:
        """The engine's whole environment: a few inherited names, nothing that could switch a forbidden thing on.

        Args:
            inherited: The supervisor's own environment.
            scratch: A private directory for the engine's sockets and temporary files.
        """
        kept = {name: value for name, value in inherited.items() if name in _INHERITED}
        own = {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # Collectives talk over loopback; by default they take the interface that the host name resolves to.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "TMPDIR": str(scratch),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.data_parallel == 1:
            # torch's own rendezvous listens on every interface. (Each of several replicas needs one of its own, which
            # this variable cannot say: there the guest's firewall has to close the port.)
            own["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = f"file://{scratch}/rendezvous"
        if self.device == "cpu":
            # One thread: more of them fight over few cores until the engine crawls.
            own |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return kept | own


def _check_tuning(option: str, value: str) -> None:
    if option in TUNING and value and not value.startswith("-"):
        return
    reason = FORBIDDEN.get(option, "it is not on the list of options that only change speed or memory")
    if option in TUNING:
        reason = f"its value {value!r} is empty or another option"
    raise EngineSettingsError(f"engine option {option!r} is refused: {reason}", hint="remove it from the configuration")
