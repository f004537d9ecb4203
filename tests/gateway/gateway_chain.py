"""A chain for tests of the gateway's settlement: one contract whose transactions the test (or the wallet) makes."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import TYPE_CHECKING

from gateway_world import SECRET, WALLET, address

from appliance.chain.cells import Reader, Writer
from appliance.chain.layouts import ProxyData
from appliance.chain.messages import ClientRegisterPart, ClientRequest, ClientStateReport, Op, WorkerRequest
from appliance.chain.types import AccountState, BlockId, Head, Message, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.envelopes import OutgoingMessage
    from appliance.gateway.terms import Terms


class FakeChain:
    """Proven reads of one proxy contract. A ``ChainReader``; only what settlement asks for has content."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.deployed = True
        self.balance = 0
        self.status = 0
        self.found: list[Transaction] = []
        self._lts = itertools.count(10, 10)
        self._seqno = 1
        self._grown = asyncio.Condition()

    def happen(self, source: Address, body: Cell, *, aborted: bool = False, bounced: bool = False) -> Transaction:
        """The contract receives a message."""
        lt = next(self._lts)
        previous = self.found[-1].lt if self.found else 0
        message = Message(source, self.terms.contract, 10**9, body, bounced, lt - 1, 0)
        values = {
            "account": self.terms.contract,
            "lt": lt,
            "hash": lt.to_bytes(32, "big"),
            "previous_lt": previous,
            "previous_hash": previous.to_bytes(32, "big"),
            "utime": 1_700_000_000 + lt,
            "inbound": message,
            "outbound": (),
            "total_fees": 0,
            "exit_code": 0,
            "aborted": aborted,
        }
        transaction = Transaction(**values)  # type: ignore[arg-type]
        self.found.append(transaction)
        self._seqno += 1
        return transaction

    def client_request(
        self, number: int, *, used: int = 0, status: int = 0, nonce: int | None = None, source: Address | None = None
    ) -> Transaction:
        """Client ``number`` tells its state, perhaps with a registration."""
        owner = address(1000 + number)
        state = ClientStateReport(status, 10**10, 10**10, used, hashlib.sha256(SECRET).digest())
        payload = None if nonce is None else ClientRegisterPart(nonce).to_cell()
        body = ClientRequest(1, owner, state, payload).to_cell()
        return self.happen(source or self.terms.client_contract(owner), body)

    def worker_request(
        self, number: int, paid: int, *, source: Address | None = None, aborted: bool = False
    ) -> Transaction:
        """Worker ``number`` was paid for ``paid`` tokens in all."""
        owner = address(2000 + number)
        body = WorkerRequest(1, owner, 0, paid, None).to_cell()
        return self.happen(source or self.terms.worker_contract(owner), body, aborted=aborted)

    async def head(self) -> Head:
        return Head(BlockId(-1, -(2**63), self._seqno, bytes(32), bytes(32)), 1_700_000_000)

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - the reader's protocol
        await asyncio.sleep(0.01)
        self._seqno = max(self._seqno, after_seqno + 1)
        return await self.head()

    async def account(self, where: Address) -> AccountState:
        head = await self.head()
        if where != self.terms.contract or not self.deployed:
            return AccountState(where, "absent", 0, None, None, 0, bytes(32), head)
        identity = self.terms.identity
        data = ProxyData(
            identity.owner,
            identity.public_key,
            identity.root_contract,
            self.status,
            self.balance,
            10**10,
            0,
            self.terms.state.params.for_proxy().to_cell(),
        )
        last = self.found[-1].lt if self.found else 1
        return AccountState(where, "active", 10**10, Writer("code").end(), data.to_cell(), last, bytes(32), head)

    async def transactions(self, where: Address, *, after_lt: int = 0, limit: int = 256) -> Sequence[Transaction]:
        return [transaction for transaction in self.found if transaction.lt > after_lt][-limit:]

    async def send(self, boc: bytes) -> None:
        raise AssertionError("the wallet sends, nobody else")


class FakeWallet:
    """Executes at once what it is asked to send: markers and payouts appear on the chain."""

    def __init__(self, chain: FakeChain) -> None:
        self.address = WALLET
        self.chain = chain
        self.sent: list[OutgoingMessage] = []
        self.lost = False

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> Transaction:
        self.sent.extend(messages)
        last = None
        for message in messages:
            if message.init is not None:
                self.chain.deployed = True
            if message.body is not None and not self.lost and message.destination == self.chain.terms.contract:
                # A marker carries one nanoton: no gas, so the real contract does not run and the transaction aborts.
                last = self.chain.happen(self.address, message.body, aborted=message.value == 1)
        return last or self.chain.happen(address(1), Writer("other").uint(Op.EXCESSES, 32).uint(0, 64).end())

    def operations(self) -> list[int]:
        """Operations of what was sent."""
        return [Reader(message.body, "sent").uint(32) for message in self.sent if message.body is not None]
