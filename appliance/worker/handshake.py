"""The worker's side of the handshake (protocol specification, section 2.2). Sans-I/O.

A generator: it yields what has to be done (:class:`Ask` a query, :class:`Recall` what is known, :class:`Keep` a record
on disk), is sent the outcome, and returns the :class:`Session`, or raises when the gateway does not pass a check.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from appliance.accounting.reconcile import Finding, with_chain, with_peer
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.tokens import Multipliers
from appliance.chain.addresses import Address, parse_friendly
from appliance.chain.errors import ChainError
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.chain.stateinit import proxy_address, worker_address
from appliance.wire.messages import (
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    WorkerCompareBalanceWithProxy,
    WorkerCompareBalanceWithProxyResult,
    WorkerConnectedToProxy,
    WorkerConnectToProxy,
    WorkerExtendedCompareBalanceWithProxy,
    WorkerExtendedCompareBalanceWithProxyResult,
    WorkerParams,
    WorkerProxyHandshakeComplete,
    WorkerProxyHandshakeCompleted,
)
from appliance.worker.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Generator

    from appliance.chain.layouts import Params
    from appliance.wire.base import TLFunction, TLObject

MIN_PROTOCOL = 0
MAX_PROTOCOL = 2


@dataclass(frozen=True, slots=True)
class Offer:
    """What this worker tells every gateway. ``coefficient`` in thousandths; ``model`` is the full name."""

    owner: Address
    model: str
    coefficient: int
    is_test: bool
    testnet: bool
    proxy_count: int
    max_active_requests: int

    def query(self) -> WorkerConnectToProxy:
        """``worker.connectToProxy``."""
        params = WorkerParams(
            flags=3,
            worker_owner_address=self.owner.friendly(testnet=self.testnet),
            model=self.model,
            coefficient=self.coefficient,
            is_test=self.is_test,
            proxy_cnt=self.proxy_count,
            max_active_requests=self.max_active_requests,
            min_proto_version=MIN_PROTOCOL,
            max_proto_version=MAX_PROTOCOL,
        )
        return WorkerConnectToProxy(params)


@dataclass(frozen=True, slots=True)
class Terms:
    """The root contract as of this handshake: its address and parameters."""

    root: Address
    params: Params

    @property
    def multipliers(self) -> Multipliers:
        """Price multipliers in ten-thousandths."""
        return Multipliers(
            self.params.prompt_tokens_price_multiplier,
            self.params.cached_tokens_price_multiplier,
            self.params.completion_tokens_price_multiplier,
            self.params.reasoning_tokens_price_multiplier,
        )


@dataclass(frozen=True, slots=True)
class Session:
    """What a completed handshake settles for the life of the link. ``price`` in nanotons an adjusted token."""

    contract: Address
    worker_contract: Address
    public_key: bytes
    protocol: int
    params_version: int
    multipliers: Multipliers
    price: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this query; the outcome is its answer."""

    query: TLFunction[Any]


@dataclass(frozen=True, slots=True)
class Recall:
    """Look up the account with a gateway; the outcome is :class:`Recalled`."""

    contract: Address
    worker_contract: Address
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Recalled:
    """The record on disk and the tokens the worker contract has paid for; None where there is neither."""

    record: ProxyRecord | None
    paid: int | None


@dataclass(frozen=True, slots=True)
class Keep:
    """Have ``record`` on disk in place of ``known`` (what was recalled) before going on; the outcome is None."""

    record: ProxyRecord
    known: ProxyRecord | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Everything is agreed on; the outcome is None. The gateway may send requests as soon as it hears the last query.

    Its first one can arrive together with the answer to that query, so it has to be accepted from here on.
    """

    session: Session


Step = Ask | Recall | Keep | Settled


def handshake(
    offer: Offer, terms: Terms, *, is_disabled: bool, state_totals: bool = True
) -> Generator[Step, TLObject | Recalled | None, Session]:
    """Run the four queries.

    Args:
        offer: What is told about this worker.
        terms: The current root contract.
        is_disabled: Whether this worker takes requests at the moment.
        state_totals: False states zeros as a fresh worker does. A reference gateway that has lost its database ends
            as a process when it is told larger numbers than it has; the checks here find the loss just as well.

    Raises:
        HandshakeError: The gateway does not pass; names both values.
    """
    connected = yield Ask(offer.query())
    session = check_connected(connected, offer, terms)
    recalled = yield Recall(session.contract, session.worker_contract, session.public_key)
    if not isinstance(recalled, Recalled):
        raise TypeError(f"the outcome of Recall is {type(recalled).__name__}, expected Recalled")
    base = _base_record(recalled.record, session)
    by_chain = with_chain(base, recalled.paid or 0)
    known = by_chain.record.counters
    stated = known if state_totals else Counters()
    compared = yield Ask(WorkerCompareBalanceWithProxy(stated.committed, stated.db, stated.max))
    if _forgot_its_signature(compared, by_chain.record):
        yield Ask(WorkerExtendedCompareBalanceWithProxy(known.db, by_chain.record.payment or b""))
        raise HandshakeError(
            f"the gateway has no record of {known.committed} tokens that it signed for",
            hint="it was shown its own signature, takes it over, and is compared with again at the next attempt",
        )
    peer, payment, error_code = _check_compared(compared, session)
    found = with_peer(by_chain.record, peer, payment, paid=recalled.paid)
    if found.refused is not None:
        finding = found.refused
        raise HandshakeError(
            f"gateway accounts: {finding.kind}, seen {finding.seen} tokens, expected {finding.expected}",
            hint=finding.hint,
        )
    if error_code != 0:
        extended = yield Ask(WorkerExtendedCompareBalanceWithProxy(known.db, b""))
        if not isinstance(extended, WorkerExtendedCompareBalanceWithProxyResult):
            raise _unexpected(extended)
        if extended.error_code != 0:
            raise HandshakeError(
                f"the gateway refused the extended comparison with code {extended.error_code}",
                hint="both sides' totals differ; the newest signed payment is kept",
            )
    yield Keep(found.record, recalled.record)
    session = replace(session, findings=by_chain.findings + found.findings)
    yield Settled(session)
    completed = yield Ask(WorkerProxyHandshakeComplete(is_disabled))
    if not isinstance(completed, WorkerProxyHandshakeCompleted):
        raise _unexpected(completed)
    return session


def check_connected(answer: object, offer: Offer, terms: Terms) -> Session:
    """Check ``worker.connectedToProxy`` against our own derivation (section 2.2, step 1).

    Raises:
        HandshakeError: An address, a flag or the version is not as it must be.
    """
    if not isinstance(answer, WorkerConnectedToProxy):
        raise _unexpected(answer)
    params = answer.params
    if not params.flags & 3:
        raise HandshakeError(f"proxy.params has flags {params.flags}, expected bit 0 or 1")
    if params.is_test is not None and params.is_test != offer.is_test:
        raise HandshakeError(
            f"the gateway's is_test is {params.is_test}, expected {offer.is_test}",
            hint="test and real networks do not mix: check which network the gateway serves",
        )
    protocol = params.proto_version or 0
    if not MIN_PROTOCOL <= protocol <= MAX_PROTOCOL:
        raise HandshakeError(f"the gateway chose protocol {protocol}, expected {MIN_PROTOCOL} to {MAX_PROTOCOL}")
    try:
        owner = Address.parse(params.proxy_owner_address)
        contract = proxy_address(terms.root, terms.params, owner, params.proxy_public_key)
        worker_contract = worker_address(terms.params, offer.owner, contract, params.proxy_public_key)
    except ChainError as error:
        raise HandshakeError(f"the gateway's owner or key: {error.message}", hint=error.hint) from error
    _same_address("proxy_sc_address", params.proxy_sc_address, contract, testnet=offer.testnet)
    _same_address("worker_sc_address", answer.worker_sc_address, worker_contract, testnet=offer.testnet)
    return Session(
        contract=contract,
        worker_contract=worker_contract,
        public_key=params.proxy_public_key,
        protocol=protocol,
        params_version=terms.params.params_version,
        multipliers=terms.multipliers,
        price=terms.params.price_per_token,
    )


def _same_address(what: str, text: str, expected: Address, *, testnet: bool) -> None:
    """The strict comparison: account and both flags of the friendly form (sections 2.2 and 2.9)."""
    try:
        seen = parse_friendly(text)
    except ChainError as error:
        raise HandshakeError(f"{what}: {error.message}", hint=error.hint) from error
    if seen.address != expected:
        raise HandshakeError(
            f"{what} is {seen.address}, expected {expected}",
            hint="gateway and worker see different root parameters: one of them has not read the newest",
        )
    if seen.bounceable or seen.testnet != testnet:
        raise HandshakeError(
            f"{what} has bounceable={seen.bounceable}, testnet={seen.testnet}; expected False, {testnet}"
        )


def _base_record(record: ProxyRecord | None, session: Session) -> ProxyRecord:
    fresh = ProxyRecord(session.contract, session.public_key, session.worker_contract, session.params_version)
    if record is None:
        return fresh
    # The contract's address covers key and worker contract; a difference means that the ledger is not this owner's.
    if (record.public_key, record.worker_contract) != (session.public_key, session.worker_contract):
        raise HandshakeError(
            f"the ledger has worker contract {record.worker_contract} for gateway {session.contract}, "
            f"expected {session.worker_contract}",
            hint="the ledger belongs to another owner: use another state_dir",
        )
    return record


def _forgot_its_signature(answer: object, record: ProxyRecord) -> bool:
    """Whether a gateway of ours says that it is behind a payment we hold: its ledger is an old backup.

    It then sends no payment, since it signs nothing lower than it has, and a code that leads to the extended step.
    """
    return (
        isinstance(answer, WorkerCompareBalanceWithProxyResult)
        and isinstance(answer.signed_payment, ProxySignedPaymentEmpty)
        and answer.error_code != 0
        and record.payment is not None
        and record.counters.committed > 0
    )


def _check_compared(answer: object, session: Session) -> tuple[Counters, bytes, int]:
    if not isinstance(answer, WorkerCompareBalanceWithProxyResult):
        raise _unexpected(answer)
    tokens, boc = verified(answer.signed_payment, session.public_key, session.worker_contract)
    if boc is None:
        raise HandshakeError("the gateway sent an empty payment, expected one signed for its committed total")
    try:
        return Counters(tokens, answer.tokens_committed_to_db, answer.max_tokens), boc, answer.error_code
    except Exception as error:
        raise HandshakeError(f"the gateway's accounts are impossible: {error}") from error


def verified(
    payment: ProxySignedPayment | ProxySignedPaymentEmpty, public_key: bytes, worker_contract: Address
) -> tuple[int, bytes | None]:
    """Read and verify a gateway's payment (section 6.6).

    Returns:
        Its tokens and its bag of cells; (0, None) for an empty one.

    Raises:
        HandshakeError: Layout, contract or signature are wrong.
    """
    if isinstance(payment, ProxySignedPaymentEmpty):
        return 0, None
    try:
        signed = parse_payment(payment.data, op=Op.WORKER_PAYOUT)
        signed.verify(public_key, worker_contract)
    except ChainError as error:
        raise HandshakeError(f"the gateway's payment: {error.message}", hint=error.hint) from error
    return signed.tokens, payment.data


def _unexpected(answer: object) -> HandshakeError:
    return HandshakeError(f"the gateway answered with {type(answer).__name__}")
