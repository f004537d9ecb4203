"""What a worker keeps about one gateway, and the rules by which it changes (protocol specification, section 2.6). Pure.

In: the record so far and what the gateway says. Out: the next record, or a refusal that names both numbers.
The record says nothing about who asked for what: three totals and the newest signed payment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.accounting.errors import PaymentRefusedError

if TYPE_CHECKING:
    from appliance.chain.addresses import Address

MAX_TOKENS = 2**62
"""More adjusted tokens than a contract can have paid; totals are signed 64-bit numbers on the wire."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of adjusted tokens since the contract was made: ``0 ≤ committed ≤ db ≤ max``.

    ``committed`` is on the chain's record and signed for, ``db`` in the gateway's database, ``max`` in its memory.

    Raises:
        PaymentRefusedError: The numbers are negative, absurd or out of order.
    """

    committed: int = 0
    db: int = 0
    max: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.committed <= self.db <= self.max < MAX_TOKENS:
            raise PaymentRefusedError(
                f"counters committed={self.committed}, db={self.db}, max={self.max}: "
                f"expected 0 ≤ committed ≤ db ≤ max < 2^62",
                hint="the peer's accounts are impossible; nothing of them was taken over",
            )


@dataclass(frozen=True, slots=True)
class ProxyRecord:
    """A worker's account with one gateway contract.

    Attributes:
        contract: The gateway's contract.
        public_key: The gateway's Ed25519 key, 32 bytes.
        worker_contract: The contract that pays this worker's owner.
        params_version: Of the root contract's parameters from which both addresses follow.
        counters: The highest totals heard.
        payment: The newest signed payment whole (bag of cells), for ``counters.committed`` tokens.
        requested: Tokens of the newest payout asked for; 0 when none was.
        requested_query_id: Its query id, by which the chain shows it.
        requested_at: When, in Unix seconds.
        lost: Tokens that the gateway knew and then lost (it restarted before writing them down).
    """

    contract: Address
    public_key: bytes
    worker_contract: Address
    params_version: int
    counters: Counters = Counters()
    payment: bytes | None = None
    requested: int = 0
    requested_query_id: int = 0
    requested_at: int = 0
    lost: int = 0


def with_payment(record: ProxyRecord, tokens: int, boc: bytes) -> ProxyRecord:
    """Take a *verified* payment for ``tokens`` into account: a higher one replaces the stored one and lifts the rest.

    Raises:
        PaymentRefusedError: It is older than the stored one.
    """
    known = record.counters
    if tokens < known.committed:
        raise PaymentRefusedError(
            f"payment is for {tokens} tokens, {known.committed} are already signed for",
            hint="the gateway has lost accounts it signed; the newer payment is kept and can still be paid out",
        )
    if tokens == known.committed and record.payment is not None:
        return record
    db = max(known.db, tokens)
    return replace(record, counters=Counters(tokens, db, max(known.max, db)), payment=boc)


def with_totals(record: ProxyRecord, db: int, maximum: int) -> ProxyRecord:
    """Take the gateway's two unsigned totals into account.

    Raises:
        PaymentRefusedError: One is lower than known, or they are impossible.
    """
    known = record.counters
    if db < known.db or maximum < known.max:
        raise PaymentRefusedError(
            f"totals went back: db {known.db} to {db}, max {known.max} to {maximum}",
            hint="the link is closed so that both sides compare their accounts afresh",
        )
    if db == known.db and maximum == known.max:
        return record
    return replace(record, counters=Counters(known.committed, db, max(db, maximum)))
