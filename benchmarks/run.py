"""All benchmarks, each in a process of its own, one after the other: ``just bench``.

``python benchmarks/run.py [--json] [--only NAME …] [--quick]``. Every benchmark prints rows; here they become one table
or, with ``--json``, one object: ``machine``, and under ``benchmarks`` each one's rows and how long it took. Every ratio
is between two measurements of the same run. ``--quick`` measures for so short a time that the figures mean nothing:
it shows that everything works.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """One file.

    Attributes:
        name: Of the file, without its suffix.
        about: What it compares.
        quick: Arguments for the shortest run that still does everything.
    """

    name: str
    about: str
    quick: tuple[str, ...]


BENCHMARKS = (
    Benchmark("codec", "wire messages against struct on the same fields", ("--seconds", "0.02")),
    Benchmark("handshake", "RA-TLS against plain mutual TLS", ("--rounds", "1", "--connections", "3")),
    Benchmark(
        "evidence",
        "quotes against dcap-qvl called bare, full bundles cold and known, idle attested links",
        ("--rounds", "2", "--bundles", "2", "--connections", "3", "--links", "4"),
    ),
    Benchmark("labchain", "transactions of the lab's chain against the bare TVM", ("--rounds", "1", "--wallets", "2")),
    Benchmark(
        "path",
        "client endpoint, gateway, worker and engine against the same engine called directly",
        ("--rounds", "1", "--seconds", "0.3", "--warmup", "0.1", "--tokens", "8"),
    ),
    Benchmark(
        "model_volume",
        "a model volume read through dm-verity against the same disk without it",
        ("--mib", "8", "--rounds", "1"),
    ),
    Benchmark(
        "predictions",
        "one shape's registers a platform, SEV-SNP's part against sev-snp-measure called plainly",
        ("--rounds", "1"),
    ),
    Benchmark("boot", "the image's boot, stage by stage, against a plain Debian cloud image's", ()),
)


def run(benchmark: Benchmark, *, quick: bool) -> dict[str, Any]:
    """Run one; its object.

    Raises:
        SystemExit: It failed; its error output was shown.
    """
    command = [sys.executable, str(HERE / f"{benchmark.name}.py"), "--json", *(benchmark.quick if quick else ())]
    begun = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=HERE.parent, check=False)
    if done.returncode:
        message = f"benchmark {benchmark.name} ended with status {done.returncode}"
        raise SystemExit(message)
    found: dict[str, Any] = json.loads(done.stdout)
    return {"about": benchmark.about, "seconds": round(time.monotonic() - begun, 1), "rows": found["rows"]}


def machine() -> dict[str, Any]:
    """What the figures were taken on; nothing that names it."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ":")
    memory = next((line for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "MemTotal: 0 kB")
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.split()[1]) / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version() + (", profile-guided build" if optimised else ", plain build"),
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _cells(row: dict[str, Any], prefix: str = "") -> list[str]:
    """A row's numbers as ``name value``, those of inner objects with the object's name before theirs."""
    cells: list[str] = []
    for name, value in row.items():
        if isinstance(value, dict):
            cells += _cells(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            cells.append(f"{prefix}{name} {value:.3g}" if abs(value) < 100 else f"{prefix}{name} {value:,.0f}")
        elif value is not None and name != "name":
            cells.append(f"{prefix}{name} {value}")
    return cells


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}: {found['about']} ({found['seconds']:.0f} s)")
    for row in found["rows"]:
        print(f"  {row['name']:<28}" + ", ".join(_cells(row)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", action="append", choices=[b.name for b in BENCHMARKS], help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "quick": options.quick, "benchmarks": {}}
    if not options.json:
        print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    for benchmark in BENCHMARKS:
        if options.only and benchmark.name not in options.only:
            continue
        found = result["benchmarks"][benchmark.name] = run(benchmark, quick=options.quick)
        if not options.json:
            show(benchmark.name, found)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
