"""How fast messages are read and written, against plain ``struct`` doing the same fields in the same run.

``python benchmarks/codec.py [--json] [--seconds N]``. Two messages are measured: the one that carries a piece of an
answer (and the packet around it), and the one that ends an answer with its usage. "struct" is what the leanest
hand-written code would do for the very same bytes, without classes, checks of padding or of anything else; the ratio
says what the table, the checks and the typed objects cost. Times are the best of several runs, on one thread.

The last row is a whole link on loopback, both ends in this process: the CPU time of sending and receiving one piece of
an answer, sixteen in a turn of the loop, against an asyncio protocol that writes and counts the very same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.wire.codec import decode, encode
from appliance.wire.messages import ProxyQueryAnswerPartEx, ProxyQueryFinalInfo, TcpPacket, TokensUsed
from appliance.wire.transport import LinkProtocol, TcpDialer, TcpListener, dial

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.wire.base import TLObject
    from appliance.wire.link import Link

PART_TEXT = b'data: {"choices":[{"delta":{"content":" word"},"index":0}],"id":"chatcmpl-1","model":"m"}\n\n'
TURN = 16  # messages sent in one turn of the event loop
REQUEST_ID = bytes(range(32))

_inner = struct.Struct(f"<I32sB{len(PART_TEXT)}s{-(len(PART_TEXT) + 1) % 4}xi")


@dataclass(frozen=True)
class Row:
    """One measurement; nanoseconds for one message, and megabytes (10⁶) of messages a second."""

    name: str
    ours_ns: float
    plain_ns: float
    ratio: float
    per_second: int
    ours_mb_s: float
    plain_mb_s: float

    @classmethod
    def of(cls, name: str, ours: float, plain: float, size: int) -> Row:
        """From the nanoseconds that each side takes for a message of so many bytes."""
        rates = (round(size / ours * 1e3, 1), round(size / plain * 1e3, 1))
        return cls(name, round(ours, 1), round(plain, 1), round(ours / plain, 2), int(1e9 / ours), *rates)


def best(call: Callable[[], object], seconds: float) -> float:
    """Nanoseconds of one call: the best of five batches that together take about the given time."""
    count, spent = 1, 0
    while spent < seconds * 1e9 / 20:
        count *= 2
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        spent = time.perf_counter_ns() - start
    times = []
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        times.append((time.perf_counter_ns() - start) / count)
    return min(times)


def struct_part_packet() -> bytes:
    inner = _inner.pack(0x6D85B50F, REQUEST_ID, len(PART_TEXT), PART_TEXT, 0)
    return struct.pack(f"<IB{len(inner)}s{-(len(inner) + 1) % 4}x", 0x9C17BAF8, len(inner), inner)


def measure(seconds: float) -> list[Row]:
    part = ProxyQueryAnswerPartEx(REQUEST_ID, PART_TEXT, 0)
    usage = TokensUsed(11, 0, 5, 0, 16)
    final = ProxyQueryAnswerPartEx(REQUEST_ID, b"", 1, ProxyQueryFinalInfo(2, usage, None, 1.5, 2.5))
    packet_bytes, final_bytes = encode(TcpPacket(encode(part))), encode(final)
    outer = struct.Struct(f"<IB{len(encode(part))}s{-(len(encode(part)) + 1) % 4}x")
    final_struct = struct.Struct("<I32sB3xiiqqqqqdd")
    final_values = (0x6D85B50F, REQUEST_ID, 0, 1, 2, 11, 0, 5, 0, 16, 1.5, 2.5)
    if struct_part_packet() != packet_bytes or final_struct.pack(*final_values) != final_bytes:
        message = "the two sides of this benchmark do not write the same bytes"
        raise SystemExit(message)

    def struct_read_packet() -> object:
        return _inner.unpack(outer.unpack(packet_bytes)[2])

    packet, end = len(packet_bytes), len(final_bytes)
    cases: list[tuple[str, Callable[[], object], Callable[[], object], int]] = [
        ("write a part in its packet", lambda: encode(TcpPacket(encode(part))), struct_part_packet, packet),
        (
            "read a packet and its part",
            lambda: decode(decode(packet_bytes, TcpPacket).data),
            struct_read_packet,
            packet,
        ),
        ("write the end with usage", lambda: encode(final), lambda: final_struct.pack(*final_values), end),
        ("read the end with usage", lambda: decode(final_bytes), lambda: final_struct.unpack(final_bytes), end),
    ]
    return [Row.of(name, best(ours, seconds), best(plain, seconds), size) for name, ours, plain, size in cases]


class Sink(asyncio.Protocol):
    """The plain far end: counts bytes."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.done = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Count them."""
        self.expected -= len(data)
        if self.expected <= 0:
            self.done.set()


class Counting:
    """The handler of the accepting link: counts messages."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.done = asyncio.Event()

    def link_ready(self, link: Link) -> None:
        """Nothing to do."""

    def message_received(self, link: Link, message: TLObject) -> None:
        """Count it."""
        self.expected -= 1
        if not self.expected:
            self.done.set()

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """Nobody asks."""
        raise NotImplementedError

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """Nothing to do."""


async def plain_stream(frame: bytes, count: int) -> float:
    """CPU nanoseconds of one frame through a plain asyncio connection."""
    sink = Sink(len(frame) * count)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: sink, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()[:2])
    start = time.process_time_ns()
    for _ in range(0, count, TURN):
        transport.write(b"".join([frame] * TURN))
        await asyncio.sleep(0)
    await sink.done.wait()
    spent = time.process_time_ns() - start
    transport.close()
    server.close()
    await server.wait_closed()
    return spent / count


async def whole_link(part: TLObject, count: int) -> float:
    """CPU nanoseconds of one message from ``send`` to the far handler."""
    far = Counting(count)
    server = await TcpListener().serve(lambda: LinkProtocol(far, connecting=False), "127.0.0.1", 0)
    link = await dial(TcpDialer(), Counting(0), server.sockets[0].getsockname()[:2])
    start = time.process_time_ns()
    for _ in range(0, count, TURN):
        for _ in range(TURN):
            link.send(part)
        await link.drain()
        await asyncio.sleep(0)
    await far.done.wait()
    spent = time.process_time_ns() - start
    link.close()
    await link.wait_closed()
    server.close()
    await server.wait_closed()
    return spent / count


def measure_link(seconds: float) -> Row:
    part = ProxyQueryAnswerPartEx(REQUEST_ID, PART_TEXT, 0)
    frame = bytes(8) + encode(TcpPacket(encode(part)))
    count = max(TURN, int(seconds * 40_000) // TURN * TURN)
    ours = min(asyncio.run(whole_link(part, count)) for _ in range(3))
    plain = min(asyncio.run(plain_stream(frame, count)) for _ in range(3))
    return Row.of("a message over a link", ours, plain, len(frame))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long each measurement takes")
    options = parser.parse_args()
    rows = [*measure(options.seconds), measure_link(options.seconds)]
    if options.json:
        print(json.dumps({"benchmark": "codec", "python": sys.version.split()[0], "rows": [asdict(r) for r in rows]}))
        return
    print(f"{'':28}{'ours ns':>10}{'plain ns':>11}{'ratio':>8}{'ours /s':>12}{'MB/s':>8}{'plain':>8}")
    for row in rows:
        times = f"{row.ours_ns:10.0f}{row.plain_ns:11.0f}{row.ratio:8.2f}{row.per_second:12,}"
        print(f"{row.name:28}{times}{row.ours_mb_s:8.0f}{row.plain_mb_s:8.0f}")


if __name__ == "__main__":
    main()
