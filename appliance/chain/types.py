"""Plain values of the chain that every room shares, and the protocol through which it is read.

Nothing here does I/O or trusts anybody: :class:`ChainReader` is implemented by :mod:`appliance.chain.client`, which
returns only what a proof from the configured trust point covers, and by tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

AccountStatus = Literal["absent", "uninit", "active", "frozen"]


@dataclass(frozen=True, slots=True)
class BlockId:
    """A block's full identity (``tonNode.blockIdExt``).

    ``shard`` is signed 64-bit as on the wire; the masterchain's is ``-2**63``. Hashes are 32 raw bytes.
    """

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The newest masterchain block that a proof chain from the trust point reaches. ``utime`` in Unix seconds."""

    block: BlockId
    utime: int


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as of one proven masterchain block. ``balance`` in nanotons; cells are None unless active."""

    address: Address
    status: AccountStatus
    balance: int
    code: Cell | None
    data: Cell | None
    last_lt: int
    last_hash: bytes
    head: Head


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transaction. ``source`` is None for external-in, ``destination`` None for external-out."""

    source: Address | None
    destination: Address | None
    value: int
    body: Cell
    bounced: bool
    created_lt: int
    forward_fee: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction, bound to the account state by its hash chain. Amounts in nanotons, times in Unix seconds.

    ``exit_code`` is None where the compute phase was skipped; ``action_code`` is None where there was no action phase.
    ``total_fees`` holds storage, gas and action fees; a sent message costs its ``forward_fee`` besides its value.
    """

    account: Address
    lt: int
    hash: bytes
    previous_lt: int
    previous_hash: bytes
    utime: int
    inbound: Message | None
    outbound: tuple[Message, ...]
    total_fees: int
    exit_code: int | None
    aborted: bool
    action_code: int | None = None


class ChainReader(Protocol):
    """What the programs need of the chain. Every answer is proven or an error is raised (``ChainError``)."""

    async def head(self) -> Head:
        """The newest proven masterchain block."""
        ...

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - protocol-level limit
        """Wait for a masterchain block newer than ``after_seqno``; raises ``ChainTimeoutError``."""
        ...

    async def account(self, address: Address) -> AccountState:
        """The account's proven state, or its proven absence."""
        ...

    async def transactions(self, address: Address, *, after_lt: int = 0, limit: int = 256) -> Sequence[Transaction]:
        """Transactions with ``lt > after_lt``, oldest first, linked by hash to the proven account state."""
        ...

    async def send(self, boc: bytes) -> None:
        """Hand an external message (a bag of cells) to the network; raises ``SendRefusedError`` with the reason."""
        ...
