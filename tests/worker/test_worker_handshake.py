"""The handshake as a state machine: what passes, and each check with the one thing changed that breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from worker_world import GATEWAY_OWNER, OWNER, ROOT, Accounts, make_params, offer

from appliance.accounting.records import Counters, ProxyRecord
from appliance.chain.addresses import Address
from appliance.wire.messages import (
    ProxyParams,
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    WorkerCompareBalanceWithProxy,
    WorkerCompareBalanceWithProxyResult,
    WorkerConnectedToProxy,
    WorkerConnectToProxy,
    WorkerExtendedCompareBalanceWithProxy,
    WorkerExtendedCompareBalanceWithProxyResult,
    WorkerProxyHandshakeComplete,
    WorkerProxyHandshakeCompleted,
)
from appliance.worker.errors import HandshakeError
from appliance.worker.handshake import Ask, Keep, Recall, Recalled, Session, Settled, Terms, handshake

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNTS = Accounts(make_params())
TERMS = Terms(ROOT, ACCOUNTS.params)


def connected(**changes: Any) -> WorkerConnectedToProxy:
    params: dict[str, Any] = {
        "flags": 3,
        "proxy_public_key": ACCOUNTS.public_key,
        "proxy_owner_address": GATEWAY_OWNER.friendly(),
        "proxy_sc_address": ACCOUNTS.contract.friendly(),
        "is_test": True,
        "proto_version": 2,
    }
    worker = changes.pop("worker", ACCOUNTS.worker_contract.friendly())
    return WorkerConnectedToProxy(ProxyParams(**(params | changes)), worker)


def compared(committed: int = 0, db: int = 0, maximum: int = 0, code: int = 0) -> WorkerCompareBalanceWithProxyResult:
    return WorkerCompareBalanceWithProxyResult(ACCOUNTS.payment(committed), db, maximum, code)


def record(committed: int, db: int, maximum: int) -> ProxyRecord:
    return ProxyRecord(
        ACCOUNTS.contract, ACCOUNTS.public_key, ACCOUNTS.worker_contract, 1, Counters(committed, db, maximum),
        ACCOUNTS.payment(committed).data,
    )  # fmt: skip


class Drive:
    """Runs the handshake against canned answers and notes what it did."""

    def __init__(
        self,
        first: object = None,
        second: object = None,
        *,
        known: ProxyRecord | None = None,
        paid: int | None = 0,
        extended: int = 0,
        change: Callable[[Any], Any] = lambda answer: answer,
        **options: Any,
    ) -> None:
        self.asked: list[Any] = []
        self.kept: list[ProxyRecord] = []
        self.session: Session | None = None
        steps = handshake(offer(), options.pop("terms", TERMS), is_disabled=False, **options)
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                self.session = done.value
                return
            match step:
                case Recall():
                    outcome = Recalled(known, paid)
                case Keep():
                    self.kept.append(step.record)
                    outcome = None
                case Settled():
                    assert self.kept, "requests are accepted once the accounts are on disk"
                    outcome = None
                case Ask():
                    self.asked.append(step.query)
                    outcome = change(self._answer(step.query, first, second, extended))

    @staticmethod
    def _answer(query: object, first: object, second: object, extended: int) -> object:
        match query:
            case WorkerConnectToProxy():
                return first or connected()
            case WorkerCompareBalanceWithProxy():
                return second or compared()
            case WorkerExtendedCompareBalanceWithProxy():
                return WorkerExtendedCompareBalanceWithProxyResult(extended)
            case _:
                return WorkerProxyHandshakeCompleted()


def test_the_first_time() -> None:
    run = Drive()
    hello, compare, complete = run.asked
    assert hello.params.flags == 3
    assert hello.params.worker_owner_address == OWNER.friendly()
    assert (hello.params.min_proto_version, hello.params.max_proto_version) == (0, 2)
    assert compare == WorkerCompareBalanceWithProxy(0, 0, 0)
    assert complete == WorkerProxyHandshakeComplete(is_disabled=False)
    assert run.session is not None
    assert (run.session.protocol, run.session.price) == (2, 2)
    assert [kept.counters for kept in run.kept] == [Counters()]
    assert run.kept[0].payment is not None


def test_after_a_restart_the_totals_on_disk_are_stated() -> None:
    run = Drive(None, compared(5, 8, 9), known=record(5, 8, 9))
    assert run.asked[1] == WorkerCompareBalanceWithProxy(5, 8, 9)
    assert run.session is not None
    assert run.session.findings == ()


def test_a_restored_backup_catches_up() -> None:
    run = Drive(None, compared(9, 9, 9), known=record(5, 8, 8), paid=7)
    assert run.asked[1] == WorkerCompareBalanceWithProxy(7, 8, 8)
    assert run.kept[-1].counters == Counters(9, 9, 9)


def test_a_gateway_that_lost_its_memory_is_compared_further_and_gone_on_with() -> None:
    run = Drive(None, compared(5, 8, 8, code=1), known=record(5, 8, 12))
    assert run.asked[2] == WorkerExtendedCompareBalanceWithProxy(8, b"")
    assert run.kept[-1].counters == Counters(5, 8, 8)
    assert run.kept[-1].lost == 4
    with pytest.raises(HandshakeError, match="extended comparison with code 1"):
        Drive(None, compared(5, 8, 8, code=1), known=record(5, 8, 12), extended=1)


def test_totals_need_not_be_stated_to_be_checked() -> None:
    run = Drive(None, compared(5, 8, 9), known=record(5, 8, 9), state_totals=False)
    assert run.asked[1] == WorkerCompareBalanceWithProxy(0, 0, 0)
    with pytest.raises(HandshakeError, match="peer-behind-disk"):
        Drive(None, compared(0, 0, 0), known=record(5, 8, 9), state_totals=False)


@pytest.mark.parametrize(("protocol", "flags"), [(0, 1), (1, 3), (2, 3)])
def test_every_version_is_spoken(protocol: int, flags: int) -> None:
    run = Drive(connected(flags=flags, proto_version=protocol if flags == 3 else None))
    assert run.session is not None
    assert run.session.protocol == protocol


OTHER = Address(0, b"\x77" * 32)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (connected(flags=0, is_test=None, proto_version=None), "flags 0"),
        (connected(is_test=False), "is_test is False"),
        (connected(proto_version=3), "chose protocol 3"),
        (connected(proto_version=-1), "chose protocol -1"),
        (connected(proxy_owner_address="nonsense"), "owner or key"),
        (connected(proxy_owner_address=OTHER.friendly()), "proxy_sc_address is"),
        (connected(proxy_public_key=b"\x01" * 32), "proxy_sc_address is"),
        (connected(proxy_sc_address=OTHER.friendly()), "proxy_sc_address is"),
        (connected(proxy_sc_address=ACCOUNTS.contract.friendly(bounceable=True)), "bounceable=True"),
        (connected(proxy_sc_address=ACCOUNTS.contract.friendly(testnet=True)), "testnet=True"),
        (connected(proxy_sc_address=ACCOUNTS.contract.raw()), "proxy_sc_address"),
        (connected(worker=OTHER.friendly()), "worker_sc_address is"),
        (connected(worker=ACCOUNTS.worker_contract.friendly(bounceable=True)), "bounceable=True"),
        (connected(worker=""), "worker_sc_address"),
        (WorkerProxyHandshakeCompleted(), "WorkerProxyHandshakeCompleted"),
    ],
)
def test_a_gateway_that_says_who_it_is_wrongly(answer: object, words: str) -> None:
    with pytest.raises(HandshakeError, match=words):
        Drive(answer)
    assert Drive(connected()).session is not None, "the control"


def paid_with(payment: object, db: int = 0, maximum: int = 0) -> WorkerCompareBalanceWithProxyResult:
    return WorkerCompareBalanceWithProxyResult(payment, db, maximum, 0)  # type: ignore[arg-type]  # hostile on purpose


STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (paid_with(ProxySignedPaymentEmpty()), "empty payment"),
        (paid_with(ProxySignedPayment(b"")), "payment"),
        (paid_with(ProxySignedPayment(b"\xff" * 3000)), "payment"),
        (paid_with(ACCOUNTS.payment(0, key=STRANGER)), "does not verify"),
        (paid_with(Accounts(make_params(2)).payment(0)), "is for contract"),
        (paid_with(ACCOUNTS.payment(5), 4, 9), "impossible"),
        (paid_with(ACCOUNTS.payment(5), 9, 8), "impossible"),
        (paid_with(ACCOUNTS.payment(0), -1, 8), "impossible"),
        (paid_with(ACCOUNTS.payment(0), 0, 2**62), "impossible"),
        (paid_with(ACCOUNTS.payment(2**63), 2**63 - 1, 2**63 - 1), "impossible"),
    ],
)
def test_a_gateway_whose_accounts_cannot_be(answer: object, words: str) -> None:
    with pytest.raises(HandshakeError, match=words):
        Drive(None, answer)
    assert Drive(None, paid_with(ACCOUNTS.payment(5), 8, 9)).session is not None, "the control"


def test_a_gateway_that_signs_for_less_than_is_known_is_refused_and_nothing_is_kept() -> None:
    for known, paid, words in ((record(6, 8, 9), 0, "peer-behind-disk"), (record(5, 8, 9), 6, "peer-behind-chain")):
        with pytest.raises(HandshakeError, match=words):
            Drive(None, compared(5, 8, 9), known=known, paid=paid)


def test_a_gateway_that_forgot_its_signature_is_shown_it() -> None:
    forgot = WorkerCompareBalanceWithProxyResult(ProxySignedPaymentEmpty(), 0, 0, 1)
    seen: list[Any] = []

    def note(answer: Any) -> Any:
        seen.append(answer)
        return answer

    known = record(5, 8, 9)
    for held, asked in ((known, 3), (replace(known, counters=Counters(0, 0, 0)), 2), (None, 2)):
        seen.clear()
        with pytest.raises(HandshakeError, match="5 tokens that it signed for" if asked == 3 else "empty payment"):
            Drive(None, forgot, known=held, change=note)
        assert len(seen) == asked, "only who holds a payment has something to show"
    # Control: with the payment on record there again, the next attempt passes.
    assert Drive(None, compared(5, 8, 9), known=known).session is not None


def test_acknowledged_tokens_may_be_lost_up_to_a_small_share_of_what_was_signed() -> None:
    known = record(1000, 1010, 1012)
    run = Drive(None, compared(1000, 1002, 1002), known=known)
    assert run.kept[-1].lost == 10
    assert run.session is not None
    assert [finding.kind for finding in run.session.findings] == ["peer-lost-database"]
    for again in (replace(known, lost=1), record(1000, 1011, 1013)):
        with pytest.raises(HandshakeError, match="peer-behind-disk"):
            Drive(None, compared(1000, 1002, 1002), known=again)


def test_a_ledger_of_another_owner_is_not_used() -> None:
    foreign = replace(record(0, 0, 0), worker_contract=OTHER)
    with pytest.raises(HandshakeError, match="another owner"):
        Drive(known=foreign)


def test_other_root_parameters_are_noticed() -> None:
    with pytest.raises(HandshakeError, match="different root parameters"):
        Drive(terms=Terms(ROOT, make_params(2)))
