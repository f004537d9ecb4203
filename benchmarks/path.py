"""The whole path, client endpoint → gateway → worker → engine, against the same stub engine called directly.

``python benchmarks/path.py [--json] [--seconds S] [--rounds N] [--profile DIR]``. Everything runs as processes on the
production path (see :mod:`network`); the load generator is a process of its own and asks either the client endpoint or
the engine. Direct and whole runs alternate, and of several rounds the one with the most requests counts, for each of
both. Every figure is also given as a ratio to the direct one.

* unstreamed: 200-word answers at concurrency 1, 16 and 64, the engine answers at once;
* streamed: 200 tokens at concurrency 64, the engine makes tokens as fast as it can, one for each request in turn;
* paced: 200 tokens at concurrency 64, the engine makes a token every 20 ms for each request, as a model would: this is
  where the added latency of the first token means something, because nothing waits for a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog
from load import Outcome
from network import MODEL, Network

PACE_S = 0.02


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    name: str
    concurrency: int
    stream: bool = False
    pace_s: float = 0.0


CASES = (
    Case("unstreamed, 1", 1),
    Case("unstreamed, 16", 16),
    Case("unstreamed, 64", 64),
    Case("streamed, 64", 64, stream=True),
    Case("paced stream, 64", 64, stream=True, pace_s=PACE_S),
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: rates a second, times in milliseconds, CPU seconds and resident MiB by process."""

    requests_per_s: float
    tokens_per_s: float
    median_ms: float
    p99_ms: float
    first_median_ms: float | None
    first_p99_ms: float | None
    errors: int
    cpu_s: dict[str, float] = field(default_factory=dict)
    rss_mib: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One case. ``ratio`` is whole to direct: of requests a second, and of the median time of an answer."""

    name: str
    direct: Side
    whole: Side
    ratio_requests: float
    ratio_median: float
    added_first_median_ms: float | None
    added_first_p99_ms: float | None


def percentile(values: list[float], share: float) -> float:
    """In milliseconds; of an empty list 0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 if ordered else 0.0


async def measure_side(network: Network, case: Case, options: argparse.Namespace, *, whole: bool) -> Side:
    command = ["--port", str(network.client_port if whole else network.engine_port), "--model", MODEL]
    seconds = max(options.seconds, 2 * case.pace_s * options.tokens)
    command += ["--concurrency", str(case.concurrency), "--seconds", str(seconds)]
    command += ["--tokens", str(options.tokens), "--warmup", str(options.warmup)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("load.py")),
        *command,
        *(["--stream"] if case.stream else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    before = network.uses()
    output, _ = await process.communicate(network.key.encode() if whole else b"")
    after = network.uses()
    if process.returncode:
        message = f"the load generator ended with status {process.returncode}"
        raise SystemExit(message)
    seen = Outcome(**json.loads(output))
    if seen.errors:
        message = f"{case.name}: {seen.errors} answers were not as they should be, the last: {seen.error}"
        raise SystemExit(message)
    cpu = {name: round(use.cpu - before[name].cpu, 2) for name, use in after.items()}
    return Side(
        seen.requests / seen.seconds,
        seen.tokens / seen.seconds,
        statistics.median(seen.whole) * 1e3 if seen.whole else 0.0,
        percentile(seen.whole, 0.99),
        percentile(seen.first, 0.5) if case.stream else None,
        percentile(seen.first, 0.99) if case.stream else None,
        seen.errors,
        cpu | {"load": round(seen.cpu, 2)},
        {name: round(use.rss_mib, 1) for name, use in after.items()},
    )


async def measure_case(network: Network, case: Case, options: argparse.Namespace) -> Row:
    await network.pace(case.pace_s)
    direct, whole = [], []
    for _ in range(options.rounds):
        direct.append(await measure_side(network, case, options, whole=False))
        whole.append(await measure_side(network, case, options, whole=True))
    # A paced engine gives the same rate to all: there the round with the quickest first token counts.
    best = min if case.pace_s else max
    d = best(direct, key=lambda side: (side.first_p99_ms or 0.0) if case.pace_s else side.requests_per_s)
    w = best(whole, key=lambda side: (side.first_p99_ms or 0.0) if case.pace_s else side.requests_per_s)
    streams = d.first_median_ms is not None and w.first_median_ms is not None
    return Row(
        case.name,
        d,
        w,
        w.requests_per_s / d.requests_per_s if d.requests_per_s else 0.0,
        w.median_ms / d.median_ms if d.median_ms else 0.0,
        w.first_median_ms - d.first_median_ms if streams else None,  # type: ignore[operator]  # both are numbers
        w.first_p99_ms - d.first_p99_ms if streams else None,  # type: ignore[operator]  # as above
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    cases = [case for case in CASES if not options.case or case.name.startswith(tuple(options.case))]
    with tempfile.TemporaryDirectory(prefix="path-", ignore_cleanup_errors=True) as directory:
        async with Network(Path(directory), profile=options.profile) as network:
            return [await measure_case(network, case, options) for case in cases]


def show(rows: list[Row]) -> None:
    head = f"{'':18}{'':8}{'requests/s':>12}{'tokens/s':>11}{'median ms':>11}{'p99 ms':>9}{'first ms':>10}{'p99':>8}"
    print(head)
    for row in rows:
        for name, side in (("direct", row.direct), ("whole", row.whole)):
            first = "" if side.first_median_ms is None else f"{side.first_median_ms:10.2f}{side.first_p99_ms:8.2f}"
            print(
                f"{row.name if name == 'direct' else '':18}{name:8}{side.requests_per_s:12.1f}"
                f"{side.tokens_per_s:11.0f}{side.median_ms:11.2f}{side.p99_ms:9.2f}{first}"
            )
        added = (
            ""
            if row.added_first_median_ms is None
            else (f", first token {row.added_first_median_ms:+.2f} ms (p99 {row.added_first_p99_ms:+.2f} ms)")
        )
        print(f"{'':18}{'ratio':8}{row.ratio_requests:12.3f} of direct, time × {row.ratio_median:.2f}{added}")
        cpu = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row.whole.cpu_s.items())
        print(f"{'':26}CPU s: {cpu}")
    memory = ", ".join(f"{name} {size:.0f}" for name, size in rows[-1].whole.rss_mib.items())
    print(f"resident MiB: {memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200, help="words of an answer")
    parser.add_argument("--case", action="append", help="only cases whose name begins so; may be repeated")
    parser.add_argument("--profile", type=Path, help="a directory: each program runs under cProfile")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    rows = asyncio.run(measure(options))
    if options.json:
        print(json.dumps({"benchmark": "path", "rows": [asdict(row) for row in rows]}))
        return
    show(rows)


if __name__ == "__main__":
    main()
