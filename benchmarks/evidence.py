"""What it costs to check evidence, and to hold links whose far ends were checked.

``python benchmarks/evidence.py [--json] [--rounds N] [--bundles N] [--links N] [--connections N]``. The machines are
synthetic (:mod:`appliance.lab`); their evidence has the form, size and signatures of real machines'. The rows:

* quote rows: dcap_qvl called bare on a TDX quote and its collateral, and the call of it that also says what it read;
  against verification here (strict parsing, the same library, the claims), and against all that a certificate's quote
  goes through, with every rule of the policy; also with the quote of a certificate seen for the first time;
* bundle rows: a TDX quote, one GPU, an event log and everything stapled, the verifier without sources of its own. Cold:
  a new verifier, nothing kept. Next: another bundle of a machine that was seen before, for another nonce, so that quote
  and GPU report are new and their certificates, manifests and revocation answers are not. Same: the very bundle again;
* SEV-SNP and GPU rows: those parts alone;
* handshakes: RA-TLS without proof of work against plain mutual TLS 1.3 of the same library
  (``benchmarks/handshake.py``);
* links: what an idle attested link adds to the memory of the process that accepted it, measured in a process of its
  own that only accepts: once when every client shows a certificate of its own, once when all show the same.

Kinds of the same part are interleaved; the median of all rounds counts, and the fastest stands beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dcap_qvl
import structlog
import uvloop
from handshake import Idle, Machine, handshakes, port_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.lab import tee_service
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation import claims, policy
from attestation.claims import WorkloadStatement
from attestation.collateral import FileCollateral
from attestation.devices import Judged, References
from attestation.evidence import build_bundle, parse_bundle
from attestation.platforms import SimulatedTdx
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.rules import AllOf, Subject
from attestation.snp import reader as snp_reader
from attestation.snp.rules import snp_rules
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

GREETED = 16
"""Links that are opened and closed before memory is read for the first time, so that everything is loaded."""

AT_ONCE = 16
"""Links that are opened at the same time."""


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def interleaved(kinds: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times of several calls in milliseconds, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, call in kinds.items():
            times[name].append(timed(call))
    return times


def row(name: str, times: Sequence[float], base: Sequence[float] | None = None) -> dict[str, Any]:
    """A row; ``ratio`` is that of the medians."""
    ratio = {} if base is None else {"ratio": statistics.median(times) / statistics.median(base)}
    return {"name": name, "median_ms": statistics.median(times), "best_ms": min(times), **ratio}


def rss(process: int | None = None) -> int:
    """Resident memory of a process in bytes, this one's by default."""
    pages = Path(f"/proc/{process or os.getpid()}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Logged(Machine):
    """A simulated machine that shows its event log."""

    async def event_log(self) -> bytes:
        """The log."""
        return self.world.event_log()


def quotes(rounds: int) -> list[dict[str, Any]]:
    """A quote by the bare library and by a policy."""
    world = SyntheticTdx()
    data, root, now = bytes(64), world.root_der, time.time()
    quote, collateral = world.quote(data), world.collateral_json()
    trust = policy.for_name("simulated", simulated_roots=(root,))
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    others = iter([world.quote(data) for _ in range(rounds)])

    def bare() -> object:
        """From the same bytes."""
        read = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        return dcap_qvl.verify_with_root_ca(quote, read, root, int(now))

    def claimed() -> object:
        """With what it read of platform and certificate, which the other call does not say."""
        read = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        only = dcap_qvl.QuotePolicy.claims_only(int(now))
        return json.loads(dcap_qvl.QuoteVerifier(root).verify_with_policy(quote, read, int(now), only).to_json())

    def judged(shown: bytes) -> None:
        appraisal = trust.appraise(shown, collateral, report_data=data, now=now)
        assert all(check.passed for check in appraisal.checks)

    times = interleaved(
        {
            "quote, bare dcap-qvl": bare,
            "quote, bare, collateral parsed before": lambda: dcap_qvl.verify_with_root_ca(
                quote, parsed, root, int(now)
            ),
            "quote, bare, with its claims": claimed,
            "quote, verified": lambda: trust.reader.read(quote, collateral, now).checks[0].passed,
            "quote, verified and judged": lambda: judged(quote),
            "quote of a new certificate": lambda: judged(next(others)),
        },
        rounds,
    )
    return [row(name, found, times["quote, bare dcap-qvl"]) for name, found in times.items()]


class FullBundles:
    """A TDX machine with one GPU, and everything stapled."""

    def __init__(self) -> None:
        self.tdx = SyntheticTdx()
        self.gpus = SyntheticGpus(1)
        self.platform = Logged(self.tdx)
        self.staple = Staple(tdx=self.tdx.collateral_json(), rims=self.gpus.rims(), ocsp=self.gpus.ocsp())

    async def make(self, identity: Identity) -> tuple[bytes, bytes]:
        """A nonce and a bundle for it."""
        nonce = os.urandom(32)

        async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
            return self.staple

        image = claims.image_hash(parse_quote(self.tdx.quote(bytes(64))).report.measurements)
        engine: dict[str, claims.Plain] = {"device": "cuda", "tensor_parallel": 1}
        statement = WorkloadStatement(image=image, measured_config=bytes(32), engine=engine)
        made = await build_bundle(
            self.platform, identity, statement, nonce, b"", devices=self.gpus, staple=staple, made_at=time.time()
        )
        return nonce, made

    def verifier(self) -> Verifier:
        """A verifier that has seen nothing and has no sources."""
        roots = {"simulated_roots": (self.tdx.root_der,), "gpu_roots": self.gpus.roots()}
        return Verifier(policy.for_name("simulated", **roots))  # type: ignore[arg-type]  # keywords of two types


async def bundles(count: int) -> list[dict[str, Any]]:
    """Full bundles: cold, the machine's next, the same again; and what stays in memory."""
    world = FullBundles()
    identity = await Identity.create(world.platform)
    made = [await world.make(identity) for _ in range(count + 1)]

    async def judge(verifier: Verifier, shown: tuple[bytes, bytes]) -> float:
        start = time.perf_counter()
        verdict = await verifier.verify_bundle(shown[1], nonce=shown[0], public_key=identity.public_key)
        taken = (time.perf_counter() - start) * 1000
        verdict.require()
        assert verdict.devices is not None
        assert len(verdict.devices) == 1
        return taken

    known = world.verifier()
    await judge(known, made[0])
    gc.collect()
    before = rss()
    times: dict[str, list[float]] = {"cold": [], "next": [], "same": []}
    for shown in made[1:]:
        times["cold"].append(await judge(world.verifier(), shown))
        times["next"].append(await judge(known, shown))
        times["same"].append(await judge(known, shown))
    gc.collect()
    grown = rss() - before
    tracemalloc.start()
    await judge(world.verifier(), made[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = {"kib": len(made[0][1]) / 1024}
    return [
        {**row("full bundle, cold", times["cold"], times["cold"]), **size, "python_peak_kib": peak / 1024},
        {**row("full bundle, machine known", times["next"], times["cold"]), **size},
        {
            **row("full bundle, verdict kept", times["same"], times["cold"]),
            **size,
            "rss_kib_each": max(grown, 0) / 1024 / count,
        },
    ]


async def parts(rounds: int) -> list[dict[str, Any]]:
    """SEV-SNP evidence and one GPU, each alone."""
    snp, now, data = SyntheticSnp(), time.time(), bytes(64)
    evidence, endorsed, roots, rules = snp.evidence(data), snp.collateral(), snp.roots, AllOf(snp_rules())

    def judge_snp() -> None:
        found, checks = snp_reader.read(evidence, endorsed, roots, now)
        assert found is not None
        assert all(check.passed for check in checks)
        subject = Subject(None, None, found.image_hash, data, now, snp=found)
        assert all(check.passed for check in rules.appraise(subject).checks)

    world = FullBundles()
    made = parse_bundle((await world.make(await Identity.create(world.platform)))[1])
    references = References(made.collateral.rims, made.collateral.ocsp)

    def judge_gpu(judge: Judged) -> None:
        assert judge.judge(made.devices, made.device_nonce, references, now).claims is not None

    known = Judged(world.gpus.roots())
    judge_gpu(known)
    times = interleaved(
        {
            "SEV-SNP report and chain": judge_snp,
            "GPU, cold": lambda: judge_gpu(Judged(world.gpus.roots())),
            "GPU, known": lambda: judge_gpu(known),
        },
        rounds,
    )
    return [row(name, found) for name, found in times.items()]


async def accept(socket: Path) -> None:
    """The process that is measured: accepts attested links, says where, and keeps them until its input ends."""
    trust = policy.for_name("simulated", simulated_roots=(tee_service.root_path(socket).read_bytes(),))
    verifier = Verifier(trust, FileCollateral(tee_service.collateral_path(socket)))
    listener = RatlsListener(await Identity.create(SimulatedTdx(socket)), verifier, 0)
    server = await listener.serve(Idle, "127.0.0.1", 0)
    print(port_of(server), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


async def links(name: str, count: int, clients: int) -> dict[str, Any]:
    """Memory of a process that holds attested links on which nothing happens.

    Args:
        name: Of the row.
        count: How many links.
        clients: How many certificates they are opened with.
    """
    world = SyntheticTdx()
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "quote.sock"
        service = await tee_service.start(socket, world)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--accept",
            str(socket),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(await process.stdout.readline())
            trust = policy.for_name("simulated", simulated_roots=(world.root_der,))
            verifier = Verifier(trust, FileCollateral(tee_service.collateral_path(socket)))

            shown = cycle([await Identity.create(Machine(world)) for _ in range(clients)])

            async def link() -> asyncio.BaseTransport:
                dialer = RatlsDialer(next(shown), verifier)
                return (await dialer.connect(Idle, "127.0.0.1", port))[0]

            for transport in await together(link, GREETED):
                transport.close()
            await asyncio.sleep(0.5)
            before = rss(process.pid)
            held = await together(link, count)
            await asyncio.sleep(0.5)
            grown = rss(process.pid) - before
            assert not any(transport.is_closing() for transport in held)
            for transport in held:
                transport.close()
        finally:
            process.stdin.close()
            await process.wait()
            service.close()
            await service.wait_closed()
    mib = 1 << 20
    return {
        "name": name,
        "links": count,
        "baseline_mib": before / mib,
        "added_mib": max(grown, 1) / mib,
        "kib_each": max(grown, 1) / 1024 / count,
    }


async def together(link: Callable[[], Awaitable[asyncio.BaseTransport]], count: int) -> list[asyncio.BaseTransport]:
    """Open links, a few at a time."""
    held: list[asyncio.BaseTransport] = []
    while len(held) < count:
        held += await asyncio.gather(*(link() for _ in range(min(AT_ONCE, count - len(held)))))
    return held


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = quotes(options.rounds)
    rows += await bundles(options.bundles)
    rows += await parts(max(options.rounds // 4, 1))
    turns = max(options.rounds // 40, 1)
    rows += [vars(found) for found in await handshakes(turns, options.connections)]
    rows.append(await links("idle attested links", options.links, options.links))
    rows.append(await links("idle links of one peer", options.links, 1))
    return rows


def show(found: dict[str, Any]) -> None:
    """One row, for a person."""
    cells = [f"{name} {value:,.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()]
    print(f"{found['name']:<40}" + ", ".join(cells[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--bundles", type=int, default=60)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--links", type=int, default=1000)
    parser.add_argument("--accept", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if options.accept is not None:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(accept(options.accept))
        return
    rows = asyncio.run(measure(options))
    if options.json:
        print(json.dumps({"benchmark": "evidence", "rows": rows}))
        return
    for found in rows:
        show(found)


if __name__ == "__main__":
    main()
