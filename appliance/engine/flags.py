"""Whether the engine of an image imports and reads its options; run by the engine environment's Python in the guest.

Comes in: a file to write, and no model, no GPU. Out: one line in that file, such as ``sglang 0.5.10.post1 imported, 27
options read``, or what was refused. It is what can be seen of a CUDA engine on a machine without a GPU: the libraries
are found, and SGLang's own parser takes every option that :class:`~appliance.engine.settings.EngineSettings` makes.
Nothing is started.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAID_CHARS: Final = 200
SAMPLES: Final = {
    "--attention-backend": "fa3",
    "--chunked-prefill-size": "8192",
    "--cuda-graph-max-bs": "160",
    "--dtype": "bfloat16",
    "--ep-size": "1",
    "--kv-cache-dtype": "auto",
    "--max-prefill-tokens": "16384",
    "--page-size": "1",
    "--quantization": "fp8",
    "--sampling-backend": "flashinfer",
    "--schedule-conservativeness": "1.0",
    "--schedule-policy": "lpm",
    "--stream-interval": "1",
}
"""A value for each option that a release may tune."""


class _RefusedError(Exception):
    """SGLang's parser refused the options."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _RefusedError(message)


def every_option() -> tuple[str, ...]:
    """Every option that a worker's settings can make, with the keys that the launcher adds."""
    # This file runs in the engine's environment, which holds nothing of ours: our packages come last on its path.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance.engine.settings import EngineSettings  # noqa: PLC0415 - needs the path

    settings = EngineSettings(
        model_dir=Path("/run/chrysalis/model"),
        model_name="check",
        device="cuda",
        tensor_parallel=2,
        data_parallel=2,
        memory_fraction=0.85,
        reasoning_parser="qwen3",
        tool_call_parser="qwen25",
        tuning=tuple(SAMPLES.items()),
    )
    return (*settings.arguments(30000), "--api-key", "check", "--admin-api-key", "check")


def read_options(options: Sequence[str]) -> str:
    """What SGLang makes of its options, in one line."""
    try:
        from sglang.srt.server_args import ServerArgs  # noqa: PLC0415 - this is what is tried

        parser = _Parser()
        ServerArgs.add_cli_args(parser)
        parser.parse_args(list(options))
    except Exception as error:  # noqa: BLE001 - whatever an import raises is the answer
        words = " ".join(str(error).split())[:_SAID_CHARS]
        return f"the engine cannot start: {type(error).__name__.strip('_')}: {words}"
    count = sum(1 for word in options if word.startswith("--"))
    return f"sglang {importlib.metadata.version('sglang')} imported, {count} options read"


def main(arguments: list[str]) -> int:
    """Write the line to the file that is named."""
    text = read_options(every_option())
    Path(arguments[0]).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
