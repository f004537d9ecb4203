"""Counting an answer's tokens while it passes (protocol specification, section 3.4).

In: slices of the model server's body. Out: the bytes to pass on and the tokens counted so far. Two kinds of body:

* JSON values: held until complete, then passed on compact, keys sorted, with a line feed, as the reference does.
* server-sent events: passed on line by line as they come; only a line with a usage object is looked into.

Whichever it is, usage that grew gets three cost fields: adjusted tokens times the price of a token, in nanotons.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from appliance.accounting.tokens import MAX_COUNT, Multipliers, Usage, adjusted
from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from appliance.wire.messages import TokensUsed

MAX_HELD_BYTES = 8 * 2**20
"""Most bytes of an answer held back: a JSON body, or one line of an event stream."""

_SPACE = b" \t\r\n"
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
"""Finds usage and not its mention: inside a JSON text the quotation marks would be escaped."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def _count(value: object) -> int:
    """An unsigned integer, or 0 for anything else a model server may put there."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT else 0


def _detail(usage: dict[str, Any], details: str, name: str) -> int:
    inner = usage.get(details)
    return _count(inner.get(name)) if isinstance(inner, dict) else 0


def read_usage(usage: dict[str, Any]) -> Usage:
    """The four counts of a ``usage`` object, 0 where it has none."""
    return Usage(
        _count(usage.get("prompt_tokens")),
        _detail(usage, "prompt_tokens_details", "cached_tokens"),
        _count(usage.get("completion_tokens")),
        max(_detail(usage, "completion_tokens_details", "reasoning_tokens"), _count(usage.get("reasoning_tokens"))),
    )


class UsageCounter:
    """Counts one answer's tokens and rewrites its usage.

    Args:
        coefficient: Price of this request in thousandths.
        multipliers: Of the root contract.
        price: Nanotons an adjusted token costs the client.
        events: True for ``text/event-stream``, False for JSON, None to tell from the first bytes.
        max_held: Most bytes held back.

    Attributes:
        events: Which kind of body it is; None while unknown.
        usage: The counts so far.
    """

    __slots__ = ("_coefficient", "_held", "_max_held", "_multipliers", "_price", "_retry_at", "events", "usage")

    def __init__(
        self,
        coefficient: int,
        multipliers: Multipliers,
        price: int,
        *,
        events: bool | None = None,
        max_held: int = MAX_HELD_BYTES,
    ) -> None:
        self._coefficient = coefficient
        self._multipliers = multipliers
        self._price = price
        self.events = events
        self._max_held = max_held
        self._held = b""
        self._retry_at = 0
        self.usage = Usage()

    def used(self) -> TokensUsed:
        """Adjusted tokens so far."""
        return adjusted(self.usage, self._coefficient, self._multipliers)

    def feed(self, data: bytes) -> bytes:
        """Take a slice of the body; returns what to pass on now (it may be empty, or the slice itself).

        Raises:
            RequestError: More would have to be held back than is allowed.
        """
        if self.events:
            if not self._held and data[-1:] == b"\n" and b'"usage"' not in data:
                return data
            return self._feed_events(data)
        if self.events is None:
            self.events = self._tell(self._held + data)
            if self.events:
                return self.feed(data) if not self._held else self._feed_events(data)
        return self._feed_json(data)

    def finish(self) -> bytes:
        """The body is complete: what is still held back, counted if it is a last line or value."""
        held, self._held = self._held, b""
        if not held:
            return b""
        if self.events:
            return self._rewrite_lines(held)
        values, rest = self._take_values(held)
        return values + rest

    @staticmethod
    def _tell(start: bytes) -> bool | None:
        start = start.lstrip(_SPACE)
        if not start:
            return None
        return start.startswith(_EVENT_STARTS)

    def _hold(self, data: bytes) -> None:
        if len(data) > self._max_held:
            raise RequestError(
                f"the model server's answer has {len(data)} bytes in one piece, expected at most {self._max_held}",
                code=ErrorCode.FAILURE,
                hint="ask for a streamed answer, or for fewer choices or log probabilities",
            )
        self._held = data

    def _feed_events(self, data: bytes) -> bytes:
        data = self._held + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._hold(data[end:])
        return self._rewrite_lines(data[:end])

    def _rewrite_lines(self, data: bytes) -> bytes:
        """Count and rewrite the lines of ``data`` that hold a usage object; the others stay as they are."""
        if b'"usage"' not in data or _USAGE_OBJECT.search(data) is None:
            return data
        return b"".join(self._rewrite_line(line) for line in data.splitlines(keepends=True))

    def _rewrite_line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:") or _USAGE_OBJECT.search(line) is None:
            return line
        content = line[5:].strip(_SPACE)
        try:
            value = _DECODER.decode(content.decode("utf-8"))
        except (ValueError, RecursionError):
            return line
        if not self._count_value(value):
            return line
        ending = line[len(line.rstrip(b"\r\n")) :]
        return b"data: " + _compact(value) + ending

    def _feed_json(self, data: bytes) -> bytes:
        held = self._held + data
        if held.lstrip(_SPACE)[:1] not in (b"{", b"[", b""):
            # Not a value that can hold usage (a text, a bare number): nothing to count, nothing to wait for.
            self._held = b""
            return held
        # A value can only be complete where a bracket closes; after a failure wait until there is twice as much,
        # so that a body in many slices is not parsed again with each.
        if len(held) >= self._retry_at and held.rstrip(_SPACE)[-1:] in (b"}", b"]"):
            values, held = self._take_values(held)
            self._retry_at = 2 * len(held) if held.strip(_SPACE) else 0
            self._hold(held)
            return values
        self._hold(held)
        return b""

    def _take_values(self, held: bytes) -> tuple[bytes, bytes]:
        """Rewrite the complete values at the start of ``held``; returns them and the rest as it was."""
        try:
            text = held.decode("utf-8")
        except UnicodeDecodeError:
            return b"", held
        done: list[bytes] = []
        position = 0
        while True:
            start = position
            while start < len(text) and text[start] in " \t\r\n":
                start += 1
            if text[start : start + 1] not in ("{", "["):
                break
            try:
                value, position = _DECODER.raw_decode(text, start)
            except (ValueError, RecursionError):
                break
            self._count_value(value)
            done.append(_compact(value) + b"\n")
        return b"".join(done), text[position:].encode() if done else held

    def _count_value(self, value: object) -> bool:
        """Take over larger counts; where one grew, add the costs to the value. Returns whether one grew."""
        usage = value.get("usage") if isinstance(value, dict) else None
        if not isinstance(usage, dict):
            return False
        grown = self.usage.grown(read_usage(usage))
        if grown == self.usage:
            return False
        self.usage = grown
        used = self.used()
        prompt = (used.prompt_tokens_used + used.cached_tokens_used) * self._price
        completion = (used.completion_tokens_used + used.reasoning_tokens_used) * self._price
        usage.update(prompt_total_cost=prompt, completion_total_cost=completion, total_cost=prompt + completion)
        return True


def _compact(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")
