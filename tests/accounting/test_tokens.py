"""Adjusted tokens against the reference's own numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounting.tokens import Multipliers, Usage, adjust, adjusted, cover, reservation
from appliance.errors import RequestError
from appliance.wire.messages import TokensUsed

if TYPE_CHECKING:
    from pathlib import Path

counts = st.integers(0, 2**40)
coefficients = st.integers(0, 10**9 - 1)
multipliers = st.integers(0, 2**32 - 1)


def test_vectors(shared: Path) -> None:
    cases = json.loads((shared / "vectors" / "cocoon.json").read_text())["tokens"]["adjust"]
    assert len(cases) > 5
    for case in cases:
        assert adjust(case["n"], case["coefficient"], case["multiplier"]) == case["adjusted"], case


def test_the_order_of_operations_is_part_of_the_protocol() -> None:
    # Exactly 3485; the protocol's rounding gives one less, and both sides must agree on that.
    assert 850 * 4100 * 10000 == 3485 * 10**7
    assert adjust(850, 4100, 10000) == 3484
    assert adjust(2750, 2312, 10000) == 6358 != int(2750 * (2312 * 0.001) * (10000 * 0.0001))


def test_usage_by_kind() -> None:
    used = adjusted(Usage(100, 64, 33, 7), 1500, Multipliers(10000, 2500, 40000, 30000))
    assert used == TokensUsed(54, 24, 156, 31, 265)


@given(
    usage=st.builds(Usage, counts, counts, counts, counts),
    coefficient=coefficients,
    kinds=st.builds(Multipliers, multipliers, multipliers, multipliers, multipliers),
)
def test_never_negative_and_the_total_is_the_sum(usage: Usage, coefficient: int, kinds: Multipliers) -> None:
    used = adjusted(usage, coefficient, kinds)
    parts = (
        used.prompt_tokens_used,
        used.cached_tokens_used,
        used.completion_tokens_used,
        used.reasoning_tokens_used,
    )
    assert min(parts) >= 0
    assert used.total_tokens_used == sum(parts)


@given(n=counts, more=counts, coefficient=coefficients, multiplier=multipliers)
def test_more_tokens_never_cost_less(n: int, more: int, coefficient: int, multiplier: int) -> None:
    assert adjust(n, coefficient, multiplier) <= adjust(n + more, coefficient, multiplier)


def test_reservation() -> None:
    assert reservation(50, 200, 4000) == 1000
    assert reservation(0, 0, 0) == 0


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.builds(Multipliers, *[st.integers(0, 10**6)] * 4),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_cover_is_never_below_what_is_charged_nor_below_the_protocol(
    max_tokens: int, size: int, coefficient: int, multipliers: Multipliers, shares: tuple[float, float]
) -> None:
    covered = cover(max_tokens, size, coefficient, multipliers)
    used = Usage(size, int(size * shares[0]), max_tokens, int(max_tokens * shares[1]))
    charged = adjusted(used, coefficient, multipliers).total_tokens_used
    # Each of the two sums is rounded once, and doubles are what the protocol counts with.
    assert charged <= covered + 4 + covered * 1e-12
    assert covered >= reservation(max_tokens, size, coefficient)
    even = Multipliers()
    assert cover(max_tokens, size, coefficient, even) <= reservation(max_tokens, size, coefficient) + 2


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (2**31, 1, 1), (1, 1, 10**9)])
def test_absurd_reservations_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(RequestError, match="expected 0 to"):
        reservation(*numbers)
