"""Following one account: every new transaction once, oldest first, without gaps.

In: a chain, an address and the logical time of the last transaction seen. Out: proven transactions. When more of them
happened than one look returns (the program slept), the watcher looks further back before it yields any (6.9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.chain.errors import ChainTimeoutError, ProofError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountState, ChainReader, Transaction

_FIRST_LIMIT = 256
_LARGEST_LIMIT = 1 << 16
_WAIT_S = 30.0


class AccountWatcher:
    """Yields an account's new transactions.

    Args:
        chain: Proven reads.
        address: The account.
        after_lt: Logical time of the last transaction that is known already; 0 starts with the first one.
    """

    def __init__(self, chain: ChainReader, address: Address, *, after_lt: int = 0) -> None:
        self._chain = chain
        self._address = address
        self._after_lt = after_lt
        self._seqno = -1
        self.state: AccountState | None = None
        """The account as of the last look."""

    @property
    def after_lt(self) -> int:
        """Logical time of the last transaction given out."""
        return self._after_lt

    async def skip(self) -> AccountState:
        """Take everything that happened so far as known; the account's state."""
        state = await self._look()
        self._after_lt = max(self._after_lt, state.last_lt)
        return state

    async def poll(self) -> Sequence[Transaction]:
        """The transactions since the last look, oldest first; empty when there is none. Raises ``ChainError``."""
        state = await self._look()
        if state.last_lt <= self._after_lt:
            return ()
        limit = _FIRST_LIMIT
        while True:
            found = await self._chain.transactions(self._address, after_lt=self._after_lt, limit=limit)
            if not found or found[0].previous_lt <= self._after_lt:
                break
            if limit >= _LARGEST_LIMIT:
                raise ProofError(f"account {self._address.friendly()}: more than {limit} unseen transactions")
            limit *= 4
        if found:
            self._after_lt = found[-1].lt
        return found

    async def __aiter__(self) -> AsyncIterator[Transaction]:
        while True:
            for transaction in await self.poll():
                yield transaction
            try:
                await self._chain.wait_head(self._seqno, timeout=_WAIT_S)
            except ChainTimeoutError:
                continue

    async def _look(self) -> AccountState:
        self.state = await self._chain.account(self._address)
        self._seqno = self.state.head.block.seqno
        return self.state
