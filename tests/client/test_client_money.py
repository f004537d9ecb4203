"""What requests may cost and what they did: the purse, and every way in which a request can end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client_world import PRICE, STAKE, Ticks, charge, final, head, random_id, root_params, root_state, terms, used
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.accounting.client_ledger import LEASE_TOKENS, ClientLedger, Deposit
from appliance.accounting.errors import PaymentRefusedError, StoreBusyError, StoreFullError
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.client.errors import BudgetError
from appliance.client.handshake import Self
from appliance.client.money import SETTLE_S, Purse, ceiling
from appliance.client.request import Limits, prepare
from appliance.client.session import GatewaySession
from appliance.wire import messages as tl
from appliance.wire.extensions import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.wire.base import TLObject

AT = terms()
LONGEST_S = 20.0
REQUEST = prepare(
    "POST",
    "/v1/chat/completions",
    b'{"model":"m","messages":[],"max_tokens":50}',
    Limits(2000, 100, LONGEST_S),
    salt="aa",
)
MOST = ceiling(REQUEST, AT.params)


def signed(tokens: int) -> Any:
    return parse_payment(charge(tokens).data, op=Op.CLIENT_CHARGE)


def open_purse(path: Path, **options: Any) -> Purse:
    options.setdefault("budget", None)
    return Purse(ClientLedger(path), longest_s=LONGEST_S, **options)


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


@pytest.fixture
def purse(tmp_path: Path, clock: Ticks) -> Iterator[Purse]:
    made = open_purse(tmp_path / "client.sqlite", clock=clock)
    made.opened(AT, None, 0)
    yield made
    made.close()


def on_disk(purse: Purse) -> Any:
    """The account as another process would find it."""
    return purse._ledger.accounts()[AT.contract]


# The bound ------------------------------------------------------------------------------------------------------------


def test_the_ceiling_covers_multipliers_that_the_reservation_does_not() -> None:
    answer = 50 * 2 * 2  # max_tokens, coefficient 2000, multiplier 20000
    assert answer + 2 * len(REQUEST.http) <= MOST
    dearer = root_params(completion_tokens_price_multiplier=90_000)
    assert ceiling(REQUEST, dearer) - MOST == pytest.approx(66 * 2 * 7, abs=1)


def test_a_request_is_authorised_on_disk_before_it_leaves(purse: Purse) -> None:
    assert on_disk(purse).authorized_tokens == 0
    purse.reserve(AT, random_id(), REQUEST)
    assert on_disk(purse).authorized_tokens == MOST + LEASE_TOKENS
    for _ in range(LEASE_TOKENS // MOST):
        purse.reserve(AT, random_id(), REQUEST)
    assert on_disk(purse).authorized_tokens == MOST + LEASE_TOKENS, "a lease saves writes"
    purse.reserve(AT, random_id(), REQUEST)
    assert on_disk(purse).authorized_tokens > MOST + LEASE_TOKENS


def test_nothing_is_held_when_the_disk_does_not_take_it(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_accounts: object) -> None:
        raise StoreFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(purse._ledger, "save", full)
        with pytest.raises(StoreFullError):
            purse.reserve(AT, random_id(), REQUEST)
    assert purse.at_risk(AT.contract) == 0
    assert purse.account(AT.contract) == on_disk(purse)
    purse.reserve(AT, random_id(), REQUEST)


@pytest.mark.parametrize(
    ("report", "fits"),
    [
        (used(10, 5), True),
        (tl.TokensUsed(MOST, 0, 0, 0, MOST), True),
        (tl.TokensUsed(MOST + 1, 0, 0, 0, MOST + 1), False),
        (tl.TokensUsed(2**62, 0, 0, 0, 2**62), False),
        (used(10, 5, total=14), False),
        (tl.TokensUsed(-5, 0, 20, 0, 15), False),
        (tl.TokensUsed(0, 0, -(2**63), 0, -(2**63)), False),
    ],
)
def test_a_report_is_a_sum_and_within_the_bound(purse: Purse, report: tl.TokensUsed, fits: bool) -> None:
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    if fits:
        assert purse.settle(request, report) == report.total_tokens_used * PRICE
        assert purse.at_risk(AT.contract) == 0
    else:
        with pytest.raises(PaymentRefusedError):
            purse.settle(request, report)
        assert purse.at_risk(AT.contract) == MOST, "what it really cost is not known"
    account = purse.account(AT.contract)
    assert account is not None
    assert account.spent_tokens == (report.total_tokens_used if fits else 0)


def test_a_charge_for_more_than_was_used_is_refused_even_inside_the_lease(purse: Purse) -> None:
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    purse.charged(AT, signed(MOST))
    with pytest.raises(PaymentRefusedError, match="at most"):
        purse.charged(AT, signed(MOST + 1))
    purse.settle(request, used(10, 5))
    assert on_disk(purse).authorized_tokens > 15
    with pytest.raises(PaymentRefusedError):
        purse.charged(AT, signed(MOST))


def test_an_older_charge_changes_nothing(purse: Purse) -> None:
    purse.reserve(AT, random_id(), REQUEST)
    purse.charged(AT, signed(9))
    before = purse.account(AT.contract)
    purse.charged(AT, signed(8))
    assert purse.account(AT.contract) is before


# What was left --------------------------------------------------------------------------------------------------------


def test_a_left_request_is_settled_by_the_gateways_report(purse: Purse) -> None:
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    purse.reported(request, 7)
    assert purse.at_risk(AT.contract) == MOST, "one that runs is settled by its answer"
    purse.leave(request)
    purse.charged(AT, signed(MOST))
    with pytest.raises(PaymentRefusedError):
        purse.reported(request, MOST + 1)
    with pytest.raises(PaymentRefusedError):
        purse.reported(request, -1)
    purse.reported(request, 7)
    assert (purse.at_risk(AT.contract), purse.account(AT.contract).spent_tokens) == (0, 7)  # type: ignore[union-attr]
    purse.reported(request, 7)
    assert purse.account(AT.contract).spent_tokens == 7, "it counts once"  # type: ignore[union-attr]


def test_a_left_request_is_settled_by_the_total_when_its_time_is_over(purse: Purse, clock: Ticks) -> None:
    counted, free = random_id(), random_id()
    for request in (counted, free):
        purse.reserve(AT, request, REQUEST)
        purse.leave(request)
    purse.counted(AT, 0)
    assert purse.at_risk(AT.contract) == 2 * MOST
    purse.counted(AT, 30)
    assert (purse.at_risk(AT.contract), purse.account(AT.contract).spent_tokens) == (2 * MOST - 30, 30)  # type: ignore[union-attr]
    clock.now += LONGEST_S + SETTLE_S
    purse.counted(AT, 30)
    assert (purse.at_risk(AT.contract), purse.account(AT.contract).spent_tokens) == (0, 30)  # type: ignore[union-attr]


def test_an_absurd_total_is_believed_only_inside_what_was_left(purse: Purse) -> None:
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    purse.leave(request)
    purse.counted(AT, 2**62)
    assert purse.account(AT.contract).spent_tokens == MOST  # type: ignore[union-attr]
    purse.counted(AT, -5)
    assert purse.account(AT.contract).spent_tokens == MOST  # type: ignore[union-attr]


def test_nothing_is_taken_over_while_requests_run(purse: Purse) -> None:
    left, running = random_id(), random_id()
    for request in (left, running):
        purse.reserve(AT, request, REQUEST)
    purse.leave(left)
    purse.counted(AT, 15)
    assert purse.account(AT.contract).spent_tokens == 0, "the total may be ahead of an answer"  # type: ignore[union-attr]
    purse.settle(running, used(10, 5))
    purse.counted(AT, 15)
    assert purse.account(AT.contract).spent_tokens == 15  # type: ignore[union-attr]


# Budget ---------------------------------------------------------------------------------------------------------------


def test_the_budget_counts_what_may_still_be_charged(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "client.sqlite", budget=2 * MOST * PRICE)
    purse.opened(AT, None, 0)
    first, second = random_id(), random_id()
    purse.reserve(AT, first, REQUEST)
    purse.reserve(AT, second, REQUEST)
    assert purse.funds().budget_left == 0
    with pytest.raises(BudgetError, match=str(MOST * PRICE)):
        purse.reserve(AT, random_id(), REQUEST)
    purse.leave(first)
    with pytest.raises(BudgetError):
        purse.reserve(AT, random_id(), REQUEST)
    purse.release(second)
    purse.reserve(AT, second, REQUEST)
    purse.close()


def test_the_price_is_the_contracts_own(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "client.sqlite")
    purse.opened(AT, None, 0)
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    dearer = terms(root_params(price_per_token=PRICE * 100, params_version=4))
    assert dearer.contract != AT.contract, "a price rise makes other contracts"
    purse.opened(dearer, None, 0)
    assert purse.settle(request, used(10, 5)) == 15 * PRICE
    purse.reserve(dearer, request, REQUEST)
    assert purse.settle(request, used(10, 5)) == 15 * PRICE * 100
    purse.close()


def test_deposits_stay_inside_the_budget_and_come_free_with_a_closed_contract(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "client.sqlite", budget=2 * STAKE)
    purse.opened(AT, None, 0)
    assert purse.deposit_room() == 2 * STAKE
    purse.depositing(AT, Deposit(1, STAKE, 0, 0, 0))
    assert purse.deposit_room() == STAKE
    with pytest.raises(PaymentRefusedError, match="still on its way"):
        purse.depositing(AT, Deposit(2, STAKE, 0, 0, 0))
    purse.deposited(AT.contract, arrived=False)
    assert purse.deposit_room() == 2 * STAKE
    purse.depositing(AT, Deposit(3, STAKE, 0, 0, 0))
    purse.deposited(AT.contract, arrived=True)
    purse.deposited(AT.contract, arrived=True)
    assert purse.funds().topped_up == STAKE
    request = random_id()
    purse.reserve(AT, request, REQUEST)
    purse.settle(request, used(10, 5))
    purse.closed(AT.contract)
    assert purse.deposit_room() == 2 * STAKE - 15 * PRICE
    purse.close()


# Restarts -------------------------------------------------------------------------------------------------------------


def test_after_a_kill_the_truth_is_between_spent_and_authorised(tmp_path: Path, clock: Ticks) -> None:
    first = open_purse(tmp_path / "client.sqlite")
    first.opened(AT, None, 0)
    first.reserve(AT, random_id(), REQUEST)
    first._ledger.close()  # killed: nothing else is written
    second = open_purse(tmp_path / "client.sqlite", clock=clock)
    assert second.at_risk(AT.contract) == MOST + LEASE_TOKENS
    second.opened(AT, signed(40), 60)
    account = second.account(AT.contract)
    assert account is not None
    assert (account.spent_tokens, account.signed_tokens) == (60, 40)
    with pytest.raises(PaymentRefusedError):
        second.charged(AT, signed(MOST + LEASE_TOKENS + 1))
    clock.now += LONGEST_S + SETTLE_S
    second.counted(AT, 60)
    assert second.at_risk(AT.contract) == 0
    with pytest.raises(PaymentRefusedError):
        second.charged(AT, signed(61))
    second.close()


def test_a_good_end_leaves_only_what_may_still_be_charged(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "client.sqlite")
    purse.opened(AT, None, 0)
    left, done = random_id(), random_id()
    for request in (left, done):
        purse.reserve(AT, request, REQUEST)
    purse.leave(left)
    purse.settle(done, used(10, 5))
    purse.close()
    ledger = ClientLedger(tmp_path / "client.sqlite")
    assert ledger.accounts()[AT.contract].authorized_tokens == 15 + MOST
    ledger.close()


@pytest.mark.parametrize("total", [500, 2**62])
def test_a_lost_ledger_takes_over_what_was_signed_and_a_stakes_worth_of_what_is_said(
    tmp_path: Path, total: int
) -> None:
    purse = open_purse(tmp_path / "client.sqlite")
    purse.opened(AT, signed(400), total)
    account = purse.account(AT.contract)
    assert account is not None
    assert account.spent_tokens == min(total, 400 + STAKE // PRICE)
    purse.close()
    # The control: a ledger that is there is not overruled.
    again = open_purse(tmp_path / "client.sqlite")
    with pytest.raises(PaymentRefusedError):
        again.opened(AT, signed(account.spent_tokens + 1), total)
    again.close()


def test_a_restored_ledger_takes_over_what_was_signed_since(tmp_path: Path) -> None:
    path, backup = tmp_path / "client.sqlite", tmp_path / "backup.sqlite"
    purse = open_purse(path)
    purse.opened(AT, None, 0)
    purse.close()
    backup.write_bytes(path.read_bytes())
    for _ in range(2):
        purse = open_purse(path)
        purse.close()
    path.write_bytes(backup.read_bytes())
    restored = open_purse(path)
    restored.opened(AT, signed(700), 700)
    assert restored.account(AT.contract).spent_tokens == 700  # type: ignore[union-attr]
    with pytest.raises(PaymentRefusedError):
        restored.opened(AT, signed(701), 701)
    restored.close()


def test_one_process_holds_the_ledger(tmp_path: Path, purse: Purse) -> None:
    with pytest.raises(StoreBusyError):
        ClientLedger(tmp_path / "client.sqlite")


def test_an_account_comes_back_from_disk_as_it_was(purse: Purse) -> None:
    purse.depositing(AT, Deposit(2**63 - 1, STAKE, 2**62, 17, 1_900_000_000))
    purse.reserve(AT, random_id(), REQUEST)
    purse.charged(AT, signed(3))
    purse.flush()
    assert on_disk(purse) == purse.account(AT.contract)
    purse.closed(AT.contract)
    assert on_disk(purse) == purse.account(AT.contract)
    assert on_disk(purse).closed


def test_a_ledger_of_the_first_schema_is_brought_up(tmp_path: Path) -> None:
    from appliance.accounting.client_ledger import APPLICATION_ID, MIGRATIONS
    from appliance.accounting.store import Store

    path = tmp_path / "client.sqlite"
    old = Store(path, application_id=APPLICATION_ID, migrations=MIGRATIONS[:1])
    row = (AT.contract.raw(), AT.public_key, AT.client_contract.raw(), 3, 5, None, 7, 140, 9, STAKE)
    with old.transaction("old") as connection:
        connection.execute("INSERT INTO account VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    old.close()
    ledger = ClientLedger(path)
    account = ledger.accounts()[AT.contract]
    assert (account.spent_tokens, account.authorized_tokens, account.price, account.closed) == (7, 9, 0, False)
    ledger.close()


# A barred gateway -----------------------------------------------------------------------------------------------------


def test_a_barred_gateway_gets_nothing_until_the_restart(tmp_path: Path) -> None:
    purse = open_purse(tmp_path / "client.sqlite")
    purse.opened(AT, None, 0)
    purse.require_trusted(AT)
    purse.bar(AT, "it charged too much")
    purse.bar(AT, "something else")
    elsewhere = terms(root_params(params_version=4))
    assert elsewhere.contract != AT.contract
    with pytest.raises(PaymentRefusedError):
        purse.require_trusted(elsewhere)
    with pytest.raises(PaymentRefusedError, match="it charged too much"):
        purse.reserve(AT, random_id(), REQUEST)
    purse.close()
    again = open_purse(tmp_path / "client.sqlite")
    again.require_trusted(AT)
    again.close()


# Every way to end -----------------------------------------------------------------------------------------------------


class SentLink:
    """A link that remembers what is sent over it."""

    extensions = ALL
    closed = False

    def __init__(self) -> None:
        self.sent: list[TLObject] = []

    def send(self, message: TLObject) -> None:
        self.sent.append(message)

    async def drain(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


async def no_register(_terms: object) -> None:
    raise AssertionError


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "head",
                "part",
                "big",
                "end",
                "error",
                "free",
                "old-head",
                "old-end",
                "old-error",
                "cancel",
                "payment",
                "status",
            ]
        ),
        st.integers(0, 3),
        st.integers(0, MOST),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(events=EVENTS, lost=st.booleans())
async def test_whatever_happens_each_request_is_accounted_for_once(
    events: list[tuple[str, int, int]], lost: bool
) -> None:
    """An honest gateway charges at most once a request, and never more than it may cost."""
    with tempfile.TemporaryDirectory() as directory:
        clock = Ticks()
        purse = open_purse(Path(directory) / "client.sqlite", clock=clock)
        purse.opened(AT, None, 0)
        me = Self(AT.contract, AT.owner, b"secret", True, False)
        session = GatewaySession(me, root_state(), purse, no_register)
        link: Any = SentLink()
        session.link_ready(link)
        session.terms = AT
        answers = [await session.run(REQUEST) for _ in range(4)]
        gateway = _HonestBook()
        for kind, which, tokens in events:
            _happen(session, link, answers[which], kind, tokens, gateway, purse)
        if lost:
            session.link_lost(link, None)
        else:
            for answer in answers:
                answer.cancel()
        assert session.running == 0
        assert all(answer.finished for answer in answers)
        account = purse.account(AT.contract)
        assert account is not None
        assert account.spent_tokens <= account.authorized_tokens
        assert account.spent_tokens <= gateway.total <= account.spent_tokens + purse.at_risk(AT.contract)
        assert sum(answer.cost for answer in answers) <= account.spent_nanotons
        clock.now += LONGEST_S + SETTLE_S
        purse.counted(AT, gateway.total)
        assert purse.at_risk(AT.contract) == 0
        assert purse.account(AT.contract).spent_tokens == gateway.total  # type: ignore[union-attr]
        assert purse.funds().reserved == 0
        assert not link.closed
        purse.close()


class _HonestBook:
    """What an honest gateway has counted, request by request."""

    def __init__(self) -> None:
        self.charged: dict[bytes, int] = {}
        self.told: set[bytes] = set()

    @property
    def total(self) -> int:
        return sum(self.charged.values())


def _happen(  # noqa: PLR0917 - one event with all it touches
    session: GatewaySession, link: Any, answer: Any, kind: str, tokens: int, gateway: _HonestBook, purse: Purse
) -> None:
    key = answer.request_id
    ended = key in gateway.charged or key in gateway.told
    report = tl.TokensUsed(tokens, 0, 0, 0, tokens)
    zero = tl.TokensUsed(0, 0, 0, 0, 0)
    match kind:
        case "head":
            session.message_received(link, tl.ClientQueryAnswerEx(key, head(), 0))
        case "old-head":
            session.message_received(link, tl.ClientQueryAnswer(head(), False, key, zero))
        case "part":
            session.message_received(link, tl.ClientQueryAnswerPartEx(key, b"x" * 100, 0))
        case "big":
            session.message_received(link, tl.ClientQueryAnswerPartEx(key, bytes(5 << 20), 0))
        case "end" if not ended:
            gateway.charged[key] = tokens
            session.message_received(link, tl.ClientQueryAnswerPartEx(key, b"", 1, final(report)))
        case "old-end" if not ended:
            gateway.charged[key] = tokens
            session.message_received(link, tl.ClientQueryAnswerPart(b"", True, key, report))
        case "error" if not ended:
            gateway.told.add(key)
            session.message_received(link, tl.ClientQueryAnswerErrorEx(key, 652, "late", 0))
        case "old-error" if not ended:
            gateway.told.add(key)
            session.message_received(link, tl.ClientQueryAnswerPartError(653, "cancelled", key, zero))
        case "free" if not ended and not answer.finished:
            gateway.charged[key] = 0
            session.message_received(link, tl.ClientQueryAnswerError(651, "busy", key, zero))
        case "cancel":
            answer.cancel()
        case "payment" if key not in gateway.charged and answer.finished:
            gateway.charged[key] = tokens
            shown = charge(gateway.total)
            session.message_received(link, tl.ProxyClientRequestPayment(key, shown, 0, gateway.total, tokens))
        case "status":
            purse.counted(AT, gateway.total)
