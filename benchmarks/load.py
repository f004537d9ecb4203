"""The load generator: keeps a number of requests open for a while and counts. A process of its own, as lean as can be.

``python benchmarks/load.py --port P --model M --concurrency N --seconds S [--stream] [--tokens T]``; the bearer key, if
there is one, comes on standard input. One JSON object goes out. Every answer is checked: status 200, and as many tokens
as were asked for; anything else is counted as an error, and errors are reported, never left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, field

import uvloop

PROMPT = "Tell me about the sea, in as many words as you like, and do not forget the ships that cross it."
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_COMPLETION = re.compile(rb'"completion_tokens": *(\d+)')
_TOKEN = b'"content":'


@dataclass
class Outcome:
    """What was seen. Times in seconds from the request's first byte: to the whole answer, and to its first token."""

    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    errors: int = 0
    cpu: float = 0.0
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    error: str = ""


class Connection(asyncio.Protocol):
    """One connection that sends the same request again and again, one at a time.

    Args:
        request: Head and body.
        tokens: What each answer has to have.
        outcome: Where answers are counted.
        stream: Whether answers are streams of events.
    """

    def __init__(self, request: bytes, tokens: int, outcome: Outcome, *, stream: bool) -> None:
        self.request, self.tokens, self.outcome, self.stream = request, tokens, outcome, stream
        self.until = self.counted_from = 0.0
        self.done = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []
        self._missing: int | None = None
        self._began = self._first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def ask(self) -> None:
        """Send the request."""
        self._pieces, self._missing, self._first = [], None, 0.0
        self._began = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]  # uvloop's streams derive from nothing

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        if not self._first and self.stream and _TOKEN in data:
            self._first = time.perf_counter()
            if self.counted_from <= self._first <= self.until:
                self.outcome.first.append(self._first - self._began)
        self._pieces.append(data)
        if self._missing is None:
            head, mark, body = b"".join(self._pieces).partition(HEAD_END)
            if not mark:
                return
            length = _LENGTH.search(head + b"\r\n")
            self._missing = int(length[1]) - len(body) if length else -1
        elif self._missing > 0:
            self._missing -= len(data)
        if self._missing == 0 or (self._missing < 0 and data.endswith(LAST_CHUNK)):
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server went away."""
        if not self.done.done():
            self.outcome.errors += 1
            self.outcome.error = "the connection was closed"
            self.done.set_result(None)

    def _answered(self) -> None:
        now = time.perf_counter()
        answer = b"".join(self._pieces)
        if self.stream:
            tokens = answer.count(_TOKEN)
        else:
            found = _COMPLETION.search(answer)
            tokens = int(found[1]) if found else -1
        if not answer.startswith(b"HTTP/1.1 200 ") or tokens != self.tokens:
            self.outcome.errors += 1
            self.outcome.error = f"{answer[:12].decode('latin-1')}, {tokens} tokens of {self.tokens}"
        elif self.counted_from <= now <= self.until:
            self.outcome.requests += 1
            self.outcome.tokens += tokens
            self.outcome.whole.append(now - self._began)
        if now < self.until and self.outcome.errors < 100:
            self.ask()
        else:
            self.done.set_result(None)
            self.transport.close()


def request_bytes(options: argparse.Namespace, key: str) -> bytes:
    """The HTTP request."""
    body: dict[str, object] = {
        "model": options.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": options.tokens,
    }
    if options.stream:
        body["stream"] = True
    payload = json.dumps(body).encode()
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{options.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
    ]
    if key:
        head.append(f"Authorization: Bearer {key}")
    return "\r\n".join(head).encode() + HEAD_END + payload


async def load(options: argparse.Namespace, key: str) -> Outcome:
    """Run it. Connections start one by one over the warm-up time, so that they do not march in step."""
    outcome = Outcome()
    request = request_bytes(options, key)
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for _ in range(options.concurrency):
        _, connection = await loop.create_connection(
            lambda: Connection(request, options.tokens, outcome, stream=options.stream), "127.0.0.1", options.port
        )
        connections.append(connection)
    start = time.perf_counter()
    for connection in connections:
        connection.counted_from = start + options.warmup
        connection.until = connection.counted_from + options.seconds
    for connection in connections:
        connection.ask()
        await asyncio.sleep(options.warmup / options.concurrency)
    await asyncio.sleep(max(0.0, start + options.warmup - time.perf_counter()))
    cpu = time.process_time()
    await asyncio.sleep(max(0.0, start + options.warmup + options.seconds - time.perf_counter()))
    outcome.cpu, outcome.seconds = time.process_time() - cpu, options.seconds
    await asyncio.gather(*(connection.done for connection in connections))
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    outcome = uvloop.run(load(options, sys.stdin.read().strip()))
    # Not print: an unbuffered standard output drops what a pipe does not take at once.
    rest = memoryview(json.dumps(asdict(outcome)).encode())
    os.set_blocking(1, True)
    while rest:
        rest = rest[os.write(1, rest) :]


if __name__ == "__main__":
    main()
