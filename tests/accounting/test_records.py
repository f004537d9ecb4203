"""The rules by which an account changes, and what happens when its witnesses disagree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounting.errors import PaymentRefusedError
from appliance.accounting.reconcile import with_chain, with_peer
from appliance.accounting.records import MAX_TOKENS, Counters, ProxyRecord, with_payment, with_totals
from appliance.chain.addresses import Address

BASE = ProxyRecord(Address(0, b"\1" * 32), b"\2" * 32, Address(0, b"\3" * 32), params_version=1)


def record(committed: int = 10, db: int = 20, maximum: int = 30) -> ProxyRecord:
    return ProxyRecord(
        BASE.contract, BASE.public_key, BASE.worker_contract, 1, Counters(committed, db, maximum), b"old"
    )


def test_a_higher_payment_replaces_the_stored_one_and_lifts_the_totals() -> None:
    assert with_payment(record(), 15, b"new").counters == Counters(15, 20, 30)
    lifted = with_payment(record(), 40, b"new")
    assert lifted.counters == Counters(40, 40, 40)
    assert lifted.payment == b"new"


def test_an_equal_payment_changes_nothing_but_fills_a_gap() -> None:
    assert with_payment(record(), 10, b"new").payment == b"old"
    assert with_payment(BASE, 0, b"zero").payment == b"zero"


def test_an_older_payment_is_refused() -> None:
    with pytest.raises(PaymentRefusedError, match="9 tokens, 10"):
        with_payment(record(), 9, b"new")


def test_totals_only_grow() -> None:
    assert with_totals(record(), 20, 30) == record()
    assert with_totals(record(), 35, 30).counters == Counters(10, 35, 35), "db lifts max"
    for db, maximum in ((19, 30), (20, 29), (-1, 30), (20, MAX_TOKENS)):
        with pytest.raises(PaymentRefusedError):
            with_totals(record(), db, maximum)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (1, 0, 0), (0, 2, 1), (0, 0, MAX_TOKENS)])
def test_impossible_counters_do_not_exist(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(PaymentRefusedError, match="expected 0"):
        Counters(*numbers)


totals = st.integers(0, 2**40)


@given(st.lists(st.tuples(totals, totals, totals), max_size=20))
def test_whatever_a_gateway_says_no_total_goes_down(said: list[tuple[int, int, int]]) -> None:
    current = BASE
    for tokens, db, maximum in said:
        before = current.counters
        for step in (lambda r: with_payment(r, tokens, b"p"), lambda r: with_totals(r, db, maximum)):  # noqa: B023
            try:
                current = step(current)
            except PaymentRefusedError:
                continue
        after = current.counters
        assert after.committed >= before.committed
        assert after.db >= before.db
        assert after.max >= before.max


def test_the_chain_behind_or_level_is_normal() -> None:
    for paid in (0, 10):
        found = with_chain(record(), paid)
        assert found.record == record()
        assert found.findings == ()


def test_a_restored_backup_catches_up_with_the_chain() -> None:
    found = with_chain(record(), 25)
    assert found.record.counters == Counters(25, 25, 30)
    assert found.record.payment is None, "a payment below what is paid is worth nothing"
    assert [finding.kind for finding in found.findings] == ["disk-behind-chain"]
    assert found.refused is None


def test_a_gateway_ahead_is_caught_up_with() -> None:
    found = with_peer(record(), Counters(12, 22, 32), b"new")
    assert found.record.counters == Counters(12, 22, 32)
    assert found.record.payment == b"new"
    assert found.refused is None


def test_a_gateway_level_keeps_the_stored_payment() -> None:
    found = with_peer(record(), Counters(10, 20, 30), b"new")
    assert found.record == record()
    assert found.findings == ()


def test_a_gateway_that_lost_its_memory_is_gone_on_with_and_the_loss_is_noted() -> None:
    found = with_peer(record(), Counters(10, 20, 24), b"new")
    assert found.record.counters == Counters(10, 20, 24)
    assert found.record.lost == 6
    assert found.refused is None
    assert [finding.kind for finding in found.findings] == ["peer-lost-memory"]


@pytest.mark.parametrize(
    ("peer", "paid", "kind"),
    [
        (Counters(9, 20, 30), None, "peer-behind-disk"),
        (Counters(10, 19, 30), None, "peer-behind-disk"),
        (Counters(10, 20, 30), 11, "peer-behind-chain"),
    ],
)
def test_a_gateway_that_lost_what_it_acknowledged_is_refused(peer: Counters, paid: int | None, kind: str) -> None:
    found = with_peer(record(), peer, b"new", paid=paid)
    assert found.refused is not None
    assert found.refused.kind == kind
    assert found.refused.hint
    assert found.record == record(), "the newest signed payment is kept"
