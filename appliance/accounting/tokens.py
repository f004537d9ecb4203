"""Adjusted tokens: what usage costs (protocol specification, sections 3.5 and 3.6).

In: counts of the model server, coefficients (thousandths), multipliers (ten-thousandths). Out: adjusted tokens.
Both sides of a payment compute the same number, so the order of the floating point operations is part of the
protocol: ``trunc(((n * (coefficient * 0.001)) * multiplier) * 0.0001)`` in IEEE 754 doubles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from appliance.errors import ErrorCode, RequestError
from appliance.wire.messages import TokensUsed

MAX_COUNT = 2**48
"""More tokens than one answer can have; a larger count is a fault of whoever reports it."""
MAX_COEFFICIENT = 10**9
"""First coefficient that is refused, in thousandths (section 2.2)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as the model server counts them.

    ``cached`` is a part of ``prompt``, ``reasoning`` a part of ``completion``.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def grown(self, other: Self) -> Self:
        """The larger of both, count by count: a stream repeats its totals and they only grow."""
        return type(self)(
            max(self.prompt, other.prompt),
            max(self.cached, other.cached),
            max(self.completion, other.completion),
            max(self.reasoning, other.reasoning),
        )


@dataclass(frozen=True, slots=True)
class Multipliers:
    """Price multipliers of the root contract in ten-thousandths; 10000 where its struct version has none."""

    prompt: int = 10_000
    cached: int = 10_000
    completion: int = 10_000
    reasoning: int = 10_000


def adjust(n: int, coefficient: int, multiplier: int) -> int:
    """Adjusted tokens of ``n`` tokens.

    Args:
        n: Tokens, 0 or more.
        coefficient: The worker's price in thousandths (1000 is ×1).
        multiplier: Of the kind of token, in ten-thousandths.
    """
    return int(((n * (coefficient * 0.001)) * multiplier) * 0.0001)


def adjusted(usage: Usage, coefficient: int, multipliers: Multipliers) -> TokensUsed:
    """The adjusted tokens of an answer, kind by kind, and their sum.

    A model server that reports more cached than prompt tokens (or more reasoning than completion tokens) is not
    believed beyond the larger number: the parts never add up to more than the whole.
    """
    cached = min(usage.cached, usage.prompt)
    reasoning = min(usage.reasoning, usage.completion)
    parts = (
        adjust(usage.prompt - cached, coefficient, multipliers.prompt),
        adjust(cached, coefficient, multipliers.cached),
        adjust(usage.completion - reasoning, coefficient, multipliers.completion),
        adjust(reasoning, coefficient, multipliers.reasoning),
    )
    return TokensUsed(*parts, sum(parts))


def reservation(max_tokens: int, request_bytes: int, max_coefficient: int) -> int:
    """Adjusted tokens to set aside before a request runs (section 3.6).

    Args:
        max_tokens: Tokens the answer may have, over all its choices.
        request_bytes: Length of the serialised ``http.request``; a token is at least one byte.
        max_coefficient: The highest price the caller accepts, in thousandths.

    Raises:
        RequestError: A number is negative or absurd.
    """
    for name, value, limit in (
        ("max_tokens", max_tokens, 2**31),
        ("request length", request_bytes, 2**31),
        ("max_coefficient", max_coefficient, MAX_COEFFICIENT),
    ):
        if not 0 <= value < limit:
            raise RequestError(f"{name} is {value}, expected 0 to {limit - 1}", code=ErrorCode.PROTOCOL_VIOLATION)
    return adjust(max_tokens + request_bytes, max_coefficient, 10_000)


def cover(max_tokens: int, request_bytes: int, max_coefficient: int, multipliers: Multipliers) -> int:
    """Adjusted tokens that a request can cost, each kind at its own price; never below the reservation.

    Section 3.6 reserves as if every multiplier were 1. Where answers are dearer, requests that run side by side would
    use up several times what their client has, and nobody could pay their workers.

    Args:
        max_tokens: As in :func:`reservation`.
        request_bytes: As in :func:`reservation`.
        max_coefficient: As in :func:`reservation`.
        multipliers: Of the root contract.

    Raises:
        RequestError: A number is negative or absurd.
    """
    least = reservation(max_tokens, request_bytes, max_coefficient)
    asked = adjust(request_bytes, max_coefficient, max(multipliers.prompt, multipliers.cached))
    answered = adjust(max_tokens, max_coefficient, max(multipliers.completion, multipliers.reasoning))
    return max(least, asked + answered)
