"""Three witnesses of one account: disk, gateway, chain (design, section 4, "Money"). Pure.

In: the record on disk, what the chain has paid, what the gateway says. Out: the record to go on with, and findings
that say who was behind and what follows. A gateway that is behind what it signed is refused; a disk that is behind
(a restored backup) catches up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from appliance.accounting.records import Counters, ProxyRecord

FindingKind = Literal[
    "disk-behind-chain",
    "disk-behind-peer",
    "peer-behind-disk",
    "peer-behind-chain",
    "peer-lost-memory",
    "peer-lost-database",
]
TOLERATED_LOSS = 100
"""One part in so many of what a gateway has signed for: what it may lose of totals acknowledged and not yet signed.

A gateway whose database was restored from a backup cannot know them any more. More than this is a reason not to work
for it; a worker that refused over a single token would never work for it again.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement. ``fatal`` ones mean that the gateway's accounts cannot be gone on with. Numbers are tokens."""

    kind: FindingKind
    seen: int
    expected: int
    fatal: bool
    hint: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The record to go on with, and what was found."""

    record: ProxyRecord
    findings: tuple[Finding, ...] = ()

    @property
    def refused(self) -> Finding | None:
        """The first finding that forbids going on, if any."""
        return next((finding for finding in self.findings if finding.fatal), None)


def with_chain(record: ProxyRecord, paid: int) -> Reconciled:
    """Compare with the tokens that the worker contract has paid for.

    Normally ``paid ≤ committed``: nothing can be paid that was not signed and sent here. More means that the file is
    older than the world (a backup); a stored payment below ``paid`` is then worthless and dropped.
    """
    known = record.counters
    if paid <= known.committed:
        return Reconciled(record)
    db = max(known.db, paid)
    finding = Finding(
        "disk-behind-chain",
        known.committed,
        paid,
        fatal=False,
        hint="the ledger is older than the chain (was a backup restored?); the chain's total was taken over",
    )
    lifted = replace(record, counters=Counters(paid, db, max(known.max, db)), payment=None)
    return Reconciled(lifted, (finding,))


def with_peer(record: ProxyRecord, peer: Counters, payment: bytes, *, paid: int | None = None) -> Reconciled:
    """Compare with the gateway's totals; ``payment`` is its *verified* signed payment for ``peer.committed``.

    Args:
        record: From disk, already compared with the chain.
        peer: The gateway's totals.
        payment: The payment's bag of cells.
        paid: Tokens paid on chain, where known.
    """
    known = record.counters
    if paid is not None and peer.committed < paid:
        hint = "the gateway signs for less than the chain has paid: it lost its database"
        return Reconciled(record, (Finding("peer-behind-chain", peer.committed, paid, fatal=True, hint=hint),))
    lost = max(0, known.max - peer.max, known.db - peer.db)
    intolerable = (record.lost + lost) * TOLERATED_LOSS > peer.committed
    for seen, expected, fatal in (
        (peer.committed, known.committed, True),
        (peer.db, known.db, intolerable),
    ):
        if seen < expected and fatal:
            hint = "the gateway lost accounts it had acknowledged; the newest signed payment is kept for a payout"
            return Reconciled(record, (Finding("peer-behind-disk", seen, expected, fatal=True, hint=hint),))
    findings: list[Finding] = []
    if peer.committed > known.committed:
        hint = "tokens were signed for since the last contact; the newer payment was taken over"
        findings.append(Finding("disk-behind-peer", known.committed, peer.committed, fatal=False, hint=hint))
    if peer.db < known.db:
        hint = "the gateway's database is older than what it acknowledged; the difference will not be paid"
        findings.append(Finding("peer-lost-database", peer.db, known.db, fatal=False, hint=hint))
    elif lost:
        hint = "the gateway restarted before it wrote these tokens down; they will not be paid"
        findings.append(Finding("peer-lost-memory", peer.max, known.max, fatal=False, hint=hint))
    keep = record.payment is not None and peer.committed == known.committed
    merged = replace(record, counters=peer, payment=record.payment if keep else payment, lost=record.lost + lost)
    return Reconciled(merged, tuple(findings))
