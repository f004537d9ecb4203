"""Start SGLang; run by the engine environment's Python, never imported by the appliance.

Comes in: SGLang's options as arguments, and on standard input one JSON line ``{"api_key": …, "admin_api_key": …}``.
The keys join the options inside this process only, so they show neither in ``/proc/<pid>/cmdline`` nor in the
environment of any child. Standard input then stays open as a lifeline: a guard process, forked before anything else
happens, kills the whole process group when it closes (the supervisor died, however it died) or when this process dies.

On a CPU two gaps of the published wheels are filled, at the top level because SGLang's spawned children run it again:
``sgl_kernel`` exists for CUDA only (names bind, calls raise), and torchvision's wheel cannot load its CUDA operators.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import types
from typing import Any, NoReturn

# Imported, never called, by SGLang 0.5.19 on the torch_native path (found by starting it).
_KERNEL_NAMES = frozenset({
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "verify_tree_greedy_cpu",
})  # fmt: skip
_GUARD_POLL_S = 0.25
_KEYS_LIMIT = 4096


class _MissingKernels(types.ModuleType):
    """Stands where ``sgl_kernel`` would be: the known names bind, and raise if they are ever called."""

    def __getattr__(self, name: str) -> Any:
        if name not in _KERNEL_NAMES:
            raise AttributeError(f"module 'sgl_kernel' has no attribute {name!r}: it has no CPU build")

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(f"sgl_kernel.{name} has no CPU implementation")

        return missing


def fill_gaps() -> None:
    """Make ``sgl_kernel`` and torchvision importable beside a CPU build of torch."""
    import torch  # noqa: PLC0415 -- only where the engine runs on a CPU, and after the guard was forked

    sys.modules["sgl_kernel"] = _MissingKernels("sgl_kernel")
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_operators"] = operators  # torch forgets the schemas when the library object goes


def read_keys(descriptor: int) -> dict[str, str]:
    """Read the one line of keys, byte by byte so that nothing of the lifeline is buffered away."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte or len(line) > _KEYS_LIMIT:
            sys.exit("launcher: no keys on standard input")
        line += byte
    keys = json.loads(line)
    return {"api_key": str(keys["api_key"]), "admin_api_key": str(keys["admin_api_key"])}


def fork_guard(lifeline: int) -> None:
    """Fork the process that ends the group when the supervisor or this process is gone.

    It shares the group and waits for end-of-file on ``lifeline``, looking at its parent four times a second.
    """
    launcher = os.getpid()
    if os.fork():
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.getppid() == launcher:
        readable, _, _ = select.select([lifeline], [], [], _GUARD_POLL_S)
        if readable and not os.read(lifeline, 1024):
            break
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Read the keys, arm the guard, serve until told to stop; no child outlives this."""
    keys = read_keys(sys.stdin.fileno())
    fork_guard(sys.stdin.fileno())
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        fill_gaps()
    from sglang.launch_server import run_server  # noqa: PLC0415 -- needs the gaps filled
    from sglang.srt.server_args import prepare_server_args  # noqa: PLC0415 -- needs the gaps filled

    secrets = ["--api-key", keys["api_key"], "--admin-api-key", keys["admin_api_key"]]
    try:
        run_server(prepare_server_args([*arguments, *secrets]))
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
elif __name__ == "__mp_main__" and os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    fill_gaps()
