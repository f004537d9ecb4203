"""How fast messages are read and written, against plain ``struct`` doing the same fields in the same run.

``python benchmarks/codec.py [--json] [--seconds N]``. Two messages are measured: the one that carries a piece of an
answer (and the packet around it), and the one that ends an answer with its usage. "struct" is what the leanest
hand-written code would do for the very same bytes, without classes, checks of padding or of anything else; the ratio
says what the table, the checks and the typed objects cost. Times are the best of several runs, on one thread.
"""

from __future__ import annotations

import argparse
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

if TYPE_CHECKING:
    from collections.abc import Callable

PART_TEXT = b'data: {"choices":[{"delta":{"content":" word"},"index":0}],"id":"chatcmpl-1","model":"m"}\n\n'
REQUEST_ID = bytes(range(32))

_inner = struct.Struct(f"<I32sB{len(PART_TEXT)}s{-(len(PART_TEXT) + 1) % 4}xi")


@dataclass(frozen=True)
class Row:
    """One measurement; nanoseconds for one message."""

    name: str
    codec_ns: float
    struct_ns: float
    ratio: float
    per_second: int


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

    cases: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("write a part in its packet", lambda: encode(TcpPacket(encode(part))), struct_part_packet),
        ("read a packet and its part", lambda: decode(decode(packet_bytes, TcpPacket).data), struct_read_packet),
        ("write the end with usage", lambda: encode(final), lambda: final_struct.pack(*final_values)),
        ("read the end with usage", lambda: decode(final_bytes), lambda: final_struct.unpack(final_bytes)),
    ]
    rows = []
    for name, ours, plain in cases:
        codec, bare = best(ours, seconds), best(plain, seconds)
        rows.append(Row(name, round(codec, 1), round(bare, 1), round(codec / bare, 2), int(1e9 / codec)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long each measurement takes")
    options = parser.parse_args()
    rows = measure(options.seconds)
    if options.json:
        print(json.dumps({"benchmark": "codec", "python": sys.version.split()[0], "rows": [asdict(r) for r in rows]}))
        return
    print(f"{'':28}{'codec ns':>10}{'struct ns':>11}{'ratio':>8}{'codec /s':>12}")
    for row in rows:
        print(f"{row.name:28}{row.codec_ns:10.0f}{row.struct_ns:11.0f}{row.ratio:8.2f}{row.per_second:12,}")


if __name__ == "__main__":
    main()
