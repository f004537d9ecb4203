"""One target under libFuzzer: ``python fuzz_one.py TARGET CORPUS … -runs=N -max_total_time=S …`` (atheris).

The first corpus folder takes what is found; the seeds are written into the last. libFuzzer ends the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

_PACKAGES = ["attestation", "measurements", "appliance.wire", "appliance.boot.volume", "appliance.gateway.bodies",
             "appliance.engine.rules"]  # fmt: skip

with atheris.instrument_imports(include=_PACKAGES):
    from fuzz_all import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends."""
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    folders = [Path(word) for word in arguments if not word.startswith("-")]
    for number, seed in enumerate(target.seeds()):
        (folders[-1] / f"seed-{number}").write_bytes(seed)

    def test_one_input(data: bytes) -> None:
        target.try_one(data)

    atheris.Setup([sys.argv[0], f"-max_len={target.max_length}", *arguments], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
