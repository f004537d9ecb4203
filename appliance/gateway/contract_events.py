"""What the transactions of the gateway's own contract say (protocol specification, section 6.9). Pure.

In: proven transactions and the terms under which the contract was made. Out: events. A message counts only when the
contract accepted it and its sender is the contract that follows from the owner it names; anything else says nothing.
A marker counts when the gateway's own wallet sent it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError
from appliance.chain.messages import ClientRegisterPart, ClientRequest, Op, ProxyPayout, WorkerRequest

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import Message, Transaction
    from appliance.gateway.terms import Terms

SAVE_STATE = 0x53109C0F
"""``proxy_save_state``: what a marker message carries after its operation and query id (section 6.9)."""


@dataclass(frozen=True, slots=True)
class ClientSeen:
    """A client contract told its state; ``nonce`` when it registered for a long authorisation. Amounts in nanotons."""

    owner: Address
    contract: Address
    status: int
    balance: int
    stake: int
    used: int
    secret_hash: bytes
    nonce: int | None


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker contract told how many tokens it has been paid for."""

    owner: Address
    contract: Address
    status: int
    paid: int


@dataclass(frozen=True, slots=True)
class MarkerSeen:
    """The gateway's wallet wrote a ledger's sequence number and session on the chain."""

    seqno: int
    session: bytes


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The contract paid its balance to its owner."""

    query_id: int


Event: TypeAlias = ClientSeen | WorkerSeen | MarkerSeen | Withdrawn


def marker_body(seqno: int, session: bytes, query_id: int) -> Cell:
    """The body of a marker message."""
    body = Writer("marker").uint(Op.DO_NOT_PROCESS, 32).uint(query_id, 64)
    return body.uint(SAVE_STATE, 32).uint(seqno, 32).raw(session, 32).end()


def event_of(transaction: Transaction, terms: Terms, wallet: Address) -> Event | None:
    """What a transaction of the gateway's contract says; None when it says nothing of the kinds above.

    Args:
        transaction: Proven, of ``terms.contract``.
        terms: Under which the contract was made.
        wallet: The gateway's own node wallet, which sends markers.
    """
    message = transaction.inbound
    if message is None or message.source is None or message.bounced:
        return None
    try:
        op = Reader(message.body, "inbound message").uint(32)
        if op == Op.DO_NOT_PROCESS and message.source == wallet:
            # One nanoton buys no gas, so the contract never runs for a marker: that it arrived is what counts.
            return _marker(message.body)
        if transaction.aborted:
            return None
        match op:
            case Op.CLIENT_REQUEST:
                event: Event | None = _client(message, message.source, terms)
            case Op.WORKER_REQUEST:
                event = _worker(message, message.source, terms)
            case Op.PROXY_PAYOUT:
                event = Withdrawn(ProxyPayout.from_cell(message.body).query_id)
            case _:
                event = None
    except LayoutError:
        return None
    return event


def _client(message: Message, source: Address, terms: Terms) -> ClientSeen | None:
    request = ClientRequest.from_cell(message.body)
    if terms.client_contract(request.owner) != source:
        return None
    state = request.state
    return ClientSeen(
        owner=request.owner,
        contract=source,
        status=state.state,
        balance=state.balance,
        stake=state.stake,
        used=state.tokens_used,
        secret_hash=state.secret_hash,
        nonce=_nonce(request.payload),
    )


def _nonce(payload: Cell | None) -> int | None:
    if payload is None:
        return None
    try:
        if Reader(payload, "client payload").uint(32) != Op.CLIENT_REQUEST_REGISTER:
            return None
        return ClientRegisterPart.from_cell(payload).nonce
    except LayoutError:
        return None


def _worker(message: Message, source: Address, terms: Terms) -> WorkerSeen | None:
    request = WorkerRequest.from_cell(message.body)
    if terms.worker_contract(request.owner) != source:
        return None
    return WorkerSeen(request.owner, source, request.state, request.tokens)


def _marker(body: Cell) -> MarkerSeen | None:
    reader = Reader(body, "marker")
    reader.uint(32)
    reader.uint(64)
    if reader.uint(32) != SAVE_STATE:
        return None
    seqno, session = reader.uint(32), reader.raw(32)
    reader.end()
    return MarkerSeen(seqno, session)
