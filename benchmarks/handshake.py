"""How many attested connections a second, against plain mutual TLS 1.3 of the same library in the same run.

``python benchmarks/handshake.py [--json] [--rounds N] [--connections N]``. Both ends are in this process, on loopback,
one connection after the other; proof of work has difficulty 0, so only its two messages remain. The rows:

* plain: pyOpenSSL over asyncio, both sides show a bare Ed25519 certificate, nobody looks at it;
* warm: RA-TLS with a quote on both sides whose appraisal is still kept;
* cold: the same with nothing kept, so each side verifies the other's quote, chain, revocation lists and TCB;
* transfer rows: megabytes a second through an established connection, plain sockets against RA-TLS.

A ratio below 1 means slower than plain. Rounds of all kinds are interleaved and the best of each counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from OpenSSL import SSL

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.lab.tee import SyntheticTdx
from attestation import policy
from attestation.collateral import StaticCollateral
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHUNK = b"\x5a" * (1 << 20)
TRANSFER_CHUNKS = 64


@dataclass(frozen=True)
class Row:
    """One measurement; ``ratio`` is to the plain row of its unit."""

    name: str
    unit: str
    value: float
    ratio: float


class Machine:
    """A simulated machine in this process."""

    name = "simulated"

    def __init__(self, world: SyntheticTdx) -> None:
        self.world = world

    async def collect(self, report_data: bytes) -> bytes:
        """Make a quote."""
        return self.world.quote(report_data)


class Idle(asyncio.Protocol):
    """Counts what arrives and says when a number of bytes is there."""

    def __init__(self) -> None:
        self.left = 0
        self.arrived = asyncio.Event()
        self.lost = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count."""
        self.left -= len(data)
        if self.left <= 0:
            self.arrived.set()

    def pause_writing(self) -> None:
        """Make the writer wait."""
        self.room.clear()

    def resume_writing(self) -> None:
        """Let the writer go on."""
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self.lost.set()


class PlainTls(asyncio.Protocol):
    """Mutual TLS and nothing else: what the library costs."""

    def __init__(self, context: SSL.Context, *, connecting: bool) -> None:
        self.tls = SSL.Connection(context, None)
        self.connecting = connecting
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.connecting:
            self.tls.set_connect_state()
            self.step()
        else:
            self.tls.set_accept_state()

    def data_received(self, data: bytes) -> None:
        """Go on."""
        self.tls.bio_write(data)
        if not self.done.is_set():
            self.step()

    def step(self) -> None:
        """Advance the handshake and send what it produced."""
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            pass
        else:
            self.tls.get_peer_certificate(as_cryptography=True)
            self.done.set()
        with contextlib.suppress(SSL.WantReadError):
            self.transport.write(self.tls.bio_read(1 << 16))


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def rate(connect: Callable[[], Awaitable[None]], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        await connect()
    return count / (time.perf_counter() - start)


async def transfer(near: asyncio.Transport, sender: Idle, receiver: Idle) -> float:
    receiver.left = TRANSFER_CHUNKS * len(CHUNK)
    receiver.arrived.clear()
    start = time.perf_counter()
    for _ in range(TRANSFER_CHUNKS):
        near.write(CHUNK)
        await asyncio.sleep(0)
        await sender.room.wait()
    await receiver.arrived.wait()
    return TRANSFER_CHUNKS / (time.perf_counter() - start)


async def measure(rounds: int, connections: int) -> list[Row]:
    """Handshakes and transfers."""
    return [*await handshakes(rounds, connections), *await transfers(rounds)]


async def handshakes(rounds: int, connections: int) -> list[Row]:
    """Handshakes a second, of each kind in turn."""
    world = SyntheticTdx()
    trust = policy.for_name("simulated", simulated_roots=(world.root_der,))
    collateral = StaticCollateral(world.collateral_json())
    server, client = [await Identity.create(Machine(world)) for _ in range(2)]
    bare_server, bare_client = [await Identity.create(None) for _ in range(2)]
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(lambda: PlainTls(bare_server.context, connecting=False), "127.0.0.1", 0)

    async def connect_plain() -> None:
        transport, protocol = await loop.create_connection(
            lambda: PlainTls(bare_client.context, connecting=True), "127.0.0.1", port_of(plain)
        )
        await protocol.done.wait()
        transport.abort()

    async def attested(cache_limit: int) -> tuple[RatlsDialer, asyncio.Server]:
        judge, other = (Verifier(trust, collateral, cache_limit=cache_limit) for _ in range(2))
        return RatlsDialer(client, other), await RatlsListener(server, judge, 0).serve(Idle, "127.0.0.1", 0)

    warm_dialer, warm = await attested(1000)
    cold_dialer, cold = await attested(0)

    async def connect_attested(dialer: RatlsDialer, listening: asyncio.Server) -> None:
        transport, _ = await dialer.connect(Idle, "127.0.0.1", port_of(listening))
        transport.abort()

    kinds: dict[str, Callable[[], Awaitable[None]]] = {
        "plain mutual TLS": connect_plain,
        "RA-TLS, warm verdict cache": lambda: connect_attested(warm_dialer, warm),
        "RA-TLS, cold verdict cache": lambda: connect_attested(cold_dialer, cold),
    }
    best = dict.fromkeys(kinds, 0.0)
    for _ in range(rounds):
        for name, connect in kinds.items():
            best[name] = max(best[name], await rate(connect, connections))
    base = best["plain mutual TLS"]
    for listening in (plain, warm, cold):
        listening.close()
    await asyncio.sleep(0.1)
    return [Row(name, "handshakes/s", value, value / base) for name, value in best.items()]


async def transfers(rounds: int) -> list[Row]:
    """Bytes through an established connection, without TLS and attested."""
    world = SyntheticTdx()
    trust = policy.for_name("simulated", simulated_roots=(world.root_der,))
    server, client = [await Identity.create(Machine(world)) for _ in range(2)]
    judge = Verifier(trust, StaticCollateral(world.collateral_json()))
    loop = asyncio.get_running_loop()
    far_secure: list[Idle] = []
    listener = RatlsListener(server, judge, 0)
    warm = await listener.serve(lambda: far_secure.append(Idle()) or far_secure[-1], "127.0.0.1", 0)
    secure, sender = await RatlsDialer(client, judge).connect(Idle, "127.0.0.1", port_of(warm))
    far_plain: list[Idle] = []
    sink = await loop.create_server(lambda: far_plain.append(Idle()) or far_plain[-1], "127.0.0.1", 0)
    bare, bare_sender = await loop.create_connection(Idle, "127.0.0.1", port_of(sink))
    await asyncio.sleep(0.1)
    assert isinstance(sender, Idle)
    speeds = {"plain sockets": 0.0, "RA-TLS": 0.0}
    for _ in range(rounds):
        speeds["plain sockets"] = max(speeds["plain sockets"], await transfer(bare, bare_sender, far_plain[0]))
        speeds["RA-TLS"] = max(speeds["RA-TLS"], await transfer(secure, sender, far_secure[0]))
    bare.abort()
    secure.abort()
    for listening in (warm, sink):
        listening.close()
    await asyncio.sleep(0.1)
    return [Row(name, "MiB/s", value, value / speeds["plain sockets"]) for name, value in speeds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=100)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows = asyncio.run(measure(options.rounds, options.connections))
    if options.json:
        print(json.dumps({"benchmark": "handshake", "rows": [asdict(row) for row in rows]}))
        return
    for row in rows:
        print(f"{row.name:<28}{row.value:>10.0f} {row.unit:<14}{row.ratio:>6.2f} of plain")


if __name__ == "__main__":
    main()
