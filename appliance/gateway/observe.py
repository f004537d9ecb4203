"""What the gateway sees of an answer, and whether the worker's report agrees with it. Pure.

In: the body parts as they pass, then the worker's report. Out: the tokens that are charged, and what was wrong with the
report, if anything (protocol specification, section 8, item 8). Parts are not parsed: only the end of the body is
kept, and one look is taken at it when the answer is complete.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.accounting.tokens import Usage, adjusted
from appliance.engine.usage import read_usage
from appliance.wire.messages import TokensUsed

if TYPE_CHECKING:
    from appliance.accounting.tokens import Multipliers

TAIL_BYTES = 8192
"""End of a body in which its last usage object lies: an OpenAI-style server writes it last, in some hundred bytes."""
PROMPT_SLACK = 1024
"""Tokens that a chat template may add to a prompt; all others are at least one byte of the request each."""
ANSWER_SLACK = 16
"""Tokens of an answer that leave no byte in it, such as the one that ends it."""
NOTHING = TokensUsed(0, 0, 0, 0, 0)

_KEY = b'"usage"'
_DECODER = json.JSONDecoder()


class AnswerObserver:
    """Counts an answer's bytes and keeps its end. Its content goes nowhere else."""

    __slots__ = ("_held", "_tail", "size")

    def __init__(self) -> None:
        self.size = 0
        self._tail: deque[bytes] = deque()
        self._held = 0

    def feed(self, part: bytes) -> None:
        """A part passed."""
        size = len(part)
        self.size += size
        tail = self._tail
        tail.append(part)
        held = self._held + size
        while held - len(tail[0]) >= TAIL_BYTES:
            held -= len(tail.popleft())
        self._held = held

    def usage(self) -> Usage | None:
        """The last usage object that passed; None when the end of the body holds none that can be read.

        A mention inside a text is not mistaken for it: there the quotation marks are escaped.
        """
        text = b"".join(self._tail)[-2 * TAIL_BYTES :]
        at = text.rfind(_KEY)
        while at >= 0:
            start = text.find(b"{", at + len(_KEY))
            between = text[at + len(_KEY) : start] if start >= 0 else b"?"
            if between.strip() == b":":
                try:
                    value, _ = _DECODER.raw_decode(text[start:].decode("utf-8", "replace"))
                except (ValueError, RecursionError):
                    return None
                return read_usage(value) if isinstance(value, dict) else None
            at = text.rfind(_KEY, 0, at)
        return None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is charged for an answer. ``flaw`` says how the report contradicts what passed; empty when it does not."""

    tokens: TokensUsed
    flaw: str = ""


def judge(
    report: TokensUsed,
    observer: AnswerObserver,
    *,
    coefficient: int,
    multipliers: Multipliers,
    max_tokens: int,
    request_bytes: int,
) -> Judgement:
    """Compare a worker's report with what passed, and limit it to that.

    The answer's own usage is what its reader sees, so more than it is never charged. Without one (a reference worker
    that streams reports nothing then) the bound is: no more prompt tokens than bytes of the request, no more answer
    tokens than were reserved and than bytes passed.

    Args:
        report: Adjusted tokens as the worker says.
        observer: What passed.
        coefficient: The request's price in thousandths.
        multipliers: Of the root contract.
        max_tokens: Answer tokens that were reserved.
        request_bytes: Length of the serialised request.
    """
    parts = (
        report.prompt_tokens_used,
        report.cached_tokens_used,
        report.completion_tokens_used,
        report.reasoning_tokens_used,
    )
    if min(parts) < 0 or report.total_tokens_used != sum(parts):
        return Judgement(NOTHING, f"report is no sum: total {report.total_tokens_used}, parts {parts}")
    most = Usage(request_bytes + PROMPT_SLACK, 0, min(max_tokens, observer.size) + ANSWER_SLACK, 0)
    seen = observer.usage()
    if seen is None:
        limit = _dearest(most, coefficient, multipliers)
        if report.total_tokens_used > limit:
            capped = _scaled(parts, limit)
            return Judgement(capped, f"report of {report.total_tokens_used} is above the bound {limit} of what passed")
        return Judgement(report)
    believed = Usage(min(seen.prompt, most.prompt), seen.cached, min(seen.completion, most.completion), seen.reasoning)
    expected = adjusted(believed, coefficient, multipliers)
    if report.total_tokens_used > expected.total_tokens_used:
        limit = expected.total_tokens_used
        return Judgement(expected, f"report of {report.total_tokens_used} is above the answer's own usage, {limit}")
    return Judgement(report)


def _dearest(usage: Usage, coefficient: int, multipliers: Multipliers) -> int:
    """Most adjusted tokens these counts can make, whatever part of them is cached or reasoning."""
    cached = Usage(usage.prompt, usage.prompt, 0, 0)
    reasoning = Usage(0, 0, usage.completion, usage.completion)
    prompt = max(adjusted(kind, coefficient, multipliers).total_tokens_used for kind in (Usage(usage.prompt), cached))
    answer = max(
        adjusted(kind, coefficient, multipliers).total_tokens_used
        for kind in (Usage(completion=usage.completion), reasoning)
    )
    return prompt + answer


def _scaled(parts: tuple[int, int, int, int], limit: int) -> TokensUsed:
    """The parts cut to a sum of ``limit``, the prompt's first."""
    kept = []
    left = limit
    for part in parts:
        kept.append(min(part, left))
        left -= kept[-1]
    return TokensUsed(kept[0], kept[1], kept[2], kept[3], sum(kept))
