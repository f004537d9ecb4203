"""The gateway under one version of the root parameters: its contract, accounts, desk, links and settlement.

A change of the parameters changes every contract address, so all of it is made anew and the old one is retired
(protocol specification, sections 2.7 and 6.8). A change of the lists alone is taken over in place.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.accounting.gateway_ledger import InstanceRow
from appliance.gateway.book import Book, Sequence
from appliance.gateway.contract_events import ClientSeen, Event
from appliance.gateway.desk import Desk, DeskLimits
from appliance.gateway.links import ClientLinks, WorkerLinks
from appliance.gateway.payments import Payments
from appliance.gateway.settlement import GatewayWallet, Settlement
from appliance.gateway.status import GatewayStatus, MoneyStatus, WorkerStatus

if TYPE_CHECKING:
    import asyncio
    from collections import Counter
    from collections.abc import Awaitable, Callable, Collection

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from appliance.accounting.gateway_ledger import GatewayLedger
    from appliance.chain.types import ChainReader
    from appliance.gateway.admission import Checks
    from appliance.gateway.evidence import EvidencePolicy
    from appliance.gateway.tally import Tally
    from appliance.gateway.terms import Terms

log = structlog.get_logger(__name__)

SESSION_BYTES = 32


@dataclass(frozen=True, slots=True)
class Session:
    """This process's mark in the ledger: a random hash, and all that were used before (it included)."""

    hash: bytes
    known: frozenset[bytes]

    @classmethod
    def open(cls, ledger: GatewayLedger) -> Session:
        """Draw a hash and write it down."""
        fresh = secrets.token_bytes(SESSION_BYTES)
        return cls(fresh, ledger.open_session(fresh, int(time.time())))


@dataclass(frozen=True, slots=True)
class Parts:
    """What every epoch is made with. ``payout_min`` in nanotons, ``commit_interval`` in seconds.

    ``refused_at_the_door`` are the newest reasons why a certificate was refused; who listens adds to it.
    """

    ledger: GatewayLedger
    session: Session
    key: Ed25519PrivateKey
    chain: ChainReader
    wallet: GatewayWallet
    checks: Checks
    evidence: EvidencePolicy
    limits: DeskLimits
    commit_interval: float
    payout_min: int
    own_evidence: Callable[[bytes], Awaitable[bytes]] | None
    newer_config: Callable[[], None]
    sequence: Sequence
    writing: asyncio.Lock
    refused_at_the_door: Collection[str] = ()

    def book(self, instance: InstanceRow) -> Book:
        """The accounts under a contract as they are on disk."""
        return Book(
            instance,
            sequence=self.sequence,
            session=self.session.hash,
            sessions=self.session.known,
            workers=self.ledger.workers(instance.contract),
            clients=self.ledger.clients(instance.contract),
        )


class Epoch:
    """See the module.

    Args:
        parts: What does not change with the parameters.
        terms: The root state to begin with.
        tally: Totals that go on from one epoch to the next.
    """

    def __init__(self, parts: Parts, terms: Terms, tally: Tally) -> None:
        contract = terms.contract.raw()
        known = {row.contract: row for row in parts.ledger.instances()}
        self.book = parts.book(known.get(contract, InstanceRow(contract, terms.params_version)))
        self._refused_at_the_door = parts.refused_at_the_door
        payments = Payments(parts.key, parts.wallet.address)
        self.desk = Desk(
            parts.limits,
            terms,
            self.book,
            payments,
            monotonic=time.monotonic,
            wall=time.time,
            random_id=lambda: secrets.token_bytes(32),
            tally=tally,
        )
        self.workers = WorkerLinks(self.desk, payments, parts.checks, parts.evidence, wall=time.time)
        self.clients = ClientLinks(
            self.desk,
            payments,
            self.workers,
            own_evidence=parts.own_evidence,
            newer_config=parts.newer_config,
        )
        self.settlement = Settlement(
            parts.ledger,
            self.book,
            terms,
            payments,
            parts.chain,
            parts.wallet,
            heard=self._heard,
            trouble=self._ledger_trouble,
            monotonic=time.monotonic,
            commit_interval=parts.commit_interval,
            payout_min=parts.payout_min,
            writing=parts.writing,
        )
        self._checks = parts.checks
        self._closed = ""
        self._trouble = ""

    def close(self, reason: str) -> None:
        """Take no new peers and no new requests; an empty reason opens again."""
        self._closed = reason
        self._decide()

    def take_over(self, terms: Terms) -> None:
        """A root state with the same parameters: new lists. Who left them is not offered requests any more."""
        self.desk.terms = terms
        for connection in self.desk.fleet:
            admitted = connection.admitted
            images = not self._checks.images or terms.image_listed(admitted.image_hash)
            models = not self._checks.models or terms.model_listed(admitted.model)
            if connection.listed != (images and models):
                connection.listed = images and models
                log.warning(
                    "worker listing changed",
                    worker=connection.number,
                    state="listed" if connection.listed else "not listed",
                )
        self.desk.refill()

    def disconnect(self, reason: str) -> None:
        """End every request and every link."""
        self.desk.end_all(reason)
        self.workers.close_all()
        self.clients.close_all()

    def status(self, *, wallet: str, root_age: float) -> GatewayStatus:
        """A snapshot for the status port."""
        desk, book, tally = self.desk, self.book, self.desk.tally
        identity = desk.terms.identity
        workers = tuple(book.workers)
        return GatewayStatus(
            taking_work=desk.closed is None,
            reason=desk.closed or "",
            contract=identity.text(desk.terms.contract),
            wallet=wallet,
            root_version=desk.terms.version,
            params_version=desk.terms.params_version,
            root_age_s=root_age,
            clients=len(self.clients.links),
            requests_open=desk.open,
            requests_waiting=desk.waiting,
            totals={
                "requests": tally.requests,
                "succeeded": tally.succeeded,
                "tokens": tally.tokens,
                "bytes_relayed": tally.bytes_relayed,
                "queued": tally.queued,
                "cancelled": tally.cancelled,
                "overflows": tally.overflows,
                "absurd_reports": tally.absurd_reports,
                "order_violations": tally.order_violations,
                "stray_messages": tally.stray_messages,
            },
            failures=_texts(tally.failures),
            refusals=dict(tally.refusals),
            refused_workers=[*self._refused_at_the_door, *self.workers.refusals],
            workers=[
                WorkerStatus(
                    number=worker.number,
                    model=worker.admitted.model,
                    image_hash=worker.admitted.image_hash.hex(),
                    coefficient=worker.coefficient,
                    offered=worker.offered,
                    proven=worker.cleared,
                    running=len(worker.running),
                    limit=worker.admitted.limit,
                    average_s=worker.average.value,
                    absurd_reports=worker.absurd_reports,
                )
                for worker in desk.fleet
            ],
            money=MoneyStatus(
                sequence=book.seqno,
                marker_on_its_way=book.instance.marker_seqno,
                earned=sum(account.tokens for account in workers),
                earned_written=sum(account.db for account in workers),
                earned_committed=sum(account.committed for account in workers),
                earned_on_chain=sum(account.on_chain for account in workers),
                reserved=sum(account.reserved for account in book.clients),
                foreign_markers=book.foreign_markers,
                problem=self.settlement.problem,
            ),
        )

    def _heard(self, event: Event) -> None:
        if isinstance(event, ClientSeen) and event.nonce is not None:
            self.clients.registered(event.owner, event.nonce)

    def _ledger_trouble(self, reason: str | None) -> None:
        self._trouble = reason or ""
        self._decide()

    def _decide(self) -> None:
        self.desk.closed = self._closed or self._trouble or None


def _texts(counts: Counter[int]) -> dict[str, int]:
    return {str(code): count for code, count in counts.items()}
