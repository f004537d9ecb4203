"""The light engine's process: keys and lifeline first, then the model, then the door.

Comes in: options as arguments, and on standard input the line of keys that SGLang's launcher gets too; standard input
stays open as the lifeline (see :mod:`appliance.engine.launcher`). Goes out: OpenAI's API on loopback.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.engine.endpoint import HOST
from appliance.engine.launcher import fork_guard, read_keys

if TYPE_CHECKING:
    from collections.abc import Sequence


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; everything must be given."""
    parser = argparse.ArgumentParser(prog="light", allow_abbrev=False)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context-length", type=int, required=True)
    parser.add_argument("--max-requests", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Read the keys, arm the guard, load, serve until told to stop; no child outlives this."""
    chosen = options(arguments)
    key = read_keys(sys.stdin.fileno())["api_key"]
    fork_guard(sys.stdin.fileno())
    try:
        serve(chosen, key)
    except Exception as error:  # noqa: BLE001 -- said here: nothing of this process is left to say it below
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os.killpg(0, signal.SIGKILL)


def serve(chosen: argparse.Namespace, key: str) -> None:
    """Load the model and answer requests."""
    # SGLang's environment has one that cannot load beside a CPU build of torch; this engine reads text only.
    sys.modules["torchvision"] = None  # type: ignore[assignment] # means that it is not installed
    import torch  # noqa: PLC0415 -- after the guard was forked
    import uvicorn  # type: ignore[import-not-found]  # noqa: PLC0415 -- the engine environment's, as above

    from appliance.engine.light.app import App  # noqa: PLC0415 -- as above
    from appliance.engine.light.generation import Generator, Resident  # noqa: PLC0415 -- as above
    from appliance.engine.light.meter import Meter  # noqa: PLC0415 -- as above
    from appliance.engine.light.quiet import silence  # noqa: PLC0415 -- as above

    torch.set_num_threads(chosen.threads)
    resident = Resident.load(
        chosen.model_path, chosen.served_model_name, context_length=chosen.context_length, dtype=chosen.dtype
    )
    meter = Meter()
    app = App(Generator(resident, meter), meter, key, chosen.max_requests)
    silence()
    uvicorn.run(
        app,
        host=HOST,
        port=chosen.port,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
