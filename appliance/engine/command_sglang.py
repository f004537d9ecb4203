"""SGLang's command line and environment, from the values a release fixes. Pure.

Every option that reaches SGLang is either made here or on :data:`TUNING`, an allow-list. SGLang's parser accepts
abbreviations, so a list of what is forbidden could be walked around; :data:`FORBIDDEN` only explains refusals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.engine.endpoint import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.engine.settings import EngineSettings

LAUNCHER: Final = "launcher.py"

TUNING: Final = frozenset({
    "--attention-backend", "--chunked-prefill-size", "--cuda-graph-max-bs", "--dtype", "--ep-size",
    "--kv-cache-dtype", "--max-prefill-tokens", "--page-size", "--quantization", "--sampling-backend",
    "--schedule-conservativeness", "--schedule-policy", "--stream-interval",
})  # fmt: skip
"""Options that change speed or memory only; each takes one value. SGLang 0.5.19 (on a CPU) and 0.5.10.post1 (the GPU
image's) know all of them."""

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

_CACHES: Final[Mapping[str, str]] = {
    "CUDA_CACHE_PATH": "cuda",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TVM_FFI_CACHE_DIR": "tvm-ffi",
    "XDG_CACHE_HOME": "cache",
}
"""Where compiled kernels are kept: each library's variable, and its directory below the engine's private one."""


def arguments(settings: EngineSettings, port: int) -> tuple[str, ...]:
    """SGLang's options for an engine on loopback port ``port``; no key is among them."""
    options: dict[str, str | int | float | None] = {
        "--model-path": str(settings.model_dir),
        "--served-model-name": settings.model_name,
        "--host": HOST,
        "--port": port,
        "--device": settings.device,
        "--context-length": settings.context_length,
        "--max-running-requests": settings.max_active_requests,
        "--max-queued-requests": settings.max_queued_requests,
        "--grammar-backend": "xgrammar",
        "--load-format": "safetensors",
        "--log-level": "warning",
        "--reasoning-parser": settings.reasoning_parser,
        "--tool-call-parser": settings.tool_call_parser,
    }
    if settings.device == "cpu":
        options |= {"--attention-backend": "torch_native", "--max-total-tokens": settings.max_total_tokens}
        options |= {"--cuda-graph-backend-decode": "disabled", "--cuda-graph-backend-prefill": "disabled"}
    else:
        options |= {"--tp-size": settings.tensor_parallel, "--dp-size": settings.data_parallel}
        options |= {"--mem-fraction-static": settings.memory_fraction}
    options |= dict(settings.tuning)
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    return (*words, "--enable-metrics", "--enable-cache-report")


def environment(settings: EngineSettings, scratch: Path) -> dict[str, str]:
    """What SGLang's environment holds beyond the inherited names and those of every engine."""
    own = {
        # Collectives talk over loopback; by default they take the interface that the host name resolves to.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    if settings.data_parallel == 1:
        # torch's own rendezvous listens on every interface. (Each of several replicas needs one of its own, which
        # this variable cannot say: there the guest's firewall has to close the port.)
        own["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = f"file://{scratch}/rendezvous"
    if settings.device == "cpu":
        # One thread: more of them fight over few cores until the engine crawls.
        own |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    else:
        own |= {variable: f"{scratch}/{name}" for variable, name in _CACHES.items()}
    return own
