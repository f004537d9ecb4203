"""The chain as the programs see it: every answer is proven from the trust point, whichever liteserver gave it.

In: a trust point and liteserver addresses. Out: heads, account states, transactions, configuration; external messages
go the other way. The proven head never goes back, and the newest proven key block is what the next proof starts from.
Implements :class:`~appliance.chain.types.ChainReader` over :mod:`~appliance.chain.servers` (fail-over) and
:mod:`~appliance.chain.proofs` (trust). Get-methods are not offered: a server runs them unproven.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from appliance.chain import lite_api
from appliance.chain.errors import (
    ChainError,
    ChainTimeoutError,
    LiteserverError,
    ProofError,
    SendRefusedError,
    TransportError,
)
from appliance.chain.messages import ContractError
from appliance.chain.proofs import (
    ValidatorConfig,
    prove_header,
    verify_account,
    verify_config,
    verify_links,
    verify_transactions,
)
from appliance.chain.servers import Server, ServerPool, ServerStatus
from appliance.chain.types import AccountState, BlockId, Head, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.transport import LiteserverAddress

_MAX_PROOF_ROUNDS = 1024
_MAX_BEHIND_BLOCKS = 16
_LONGEST_WAIT_S = 10.0
_CATCH_UP_MS = 3000
_TRANSACTIONS_A_QUERY = 16
_KNOWN_CONFIGS = 8
_TIMEOUT_CODE = 652
"""What a liteserver answers when ``waitMasterchainSeqno`` ran out."""
_EXIT_CODE = re.compile(r"exitcode=(-?\d{1,10})")


@dataclass(frozen=True, slots=True)
class TrustPoint:
    """Where trust starts: the network's zerostate and a masterchain key block (or the zerostate again).

    The newer the key block, the fewer answers a first proof takes, and the less the keys of validators that left long
    ago are worth to a forger.
    """

    zerostate: BlockId
    key_block: BlockId


class _BehindError(TransportError):
    """A server's newest block is older than one that is proven already, or than its age allows."""


class ChainClient:
    """Reads a chain through several liteservers, none of which is trusted.

    Args:
        trust: Zerostate and key block that the configuration names.
        servers: Liteservers, in order of preference.
        query_timeout: Seconds a server may take for one answer.
        connect_timeout: Seconds a server may take to accept a connection.
        max_head_age: Seconds by ``clock`` after which a server's newest block counts as old, so that the others are
            asked too. The newest proven head is given out all the same; who needs freshness checks its ``utime``.
        clock: Wall clock in Unix seconds.
    """

    def __init__(
        self,
        trust: TrustPoint,
        servers: Sequence[LiteserverAddress],
        *,
        query_timeout: float = 8.0,
        connect_timeout: float = 5.0,
        max_head_age: float = 120.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._servers = ServerPool(servers, connect_timeout=connect_timeout)
        self._query_timeout = query_timeout
        self._max_head_age = max_head_age
        self._clock = clock
        self._syncing = asyncio.Lock()
        self._head: Head | None = None
        self._key_block = trust.key_block
        self._configs: dict[bytes, ValidatorConfig] = {}
        self._sends = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    @property
    def key_block(self) -> BlockId:
        """The newest proven key block: a trust point for the next run, should its keeper be trusted."""
        return self._key_block

    def servers(self) -> list[ServerStatus]:
        """The state of each liteserver."""
        return self._servers.status()

    async def head(self) -> Head:
        """The newest masterchain block that a server has and a proof reaches.

        One server is asked; the others too when its block is older than ``max_head_age``.

        Raises:
            ProofError: Every server that answered lied.
            ChainTooOldError: The network writes a structure this build does not know.
            ChainUnavailableError: No server could be reached.
        """

        async def sync(server: Server) -> tuple[Server, Head]:
            return server, await self._advance(server, await self._ask_info(server))

        first, head = await self._servers.first("reading the newest block", sync)
        if self._is_old(head):
            for other in self._servers.besides(first):
                await self._look_elsewhere(other)
            head = self._head or head
            if not self._is_old(head):
                first.failed(_BehindError(f"liteserver {first.address} is behind the others"))
        return head

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - the protocol's
        """Wait for a masterchain block newer than ``after_seqno``.

        Raises:
            ChainTimeoutError: There was none within ``timeout`` seconds.
            ChainError: As :meth:`head`.
        """
        deadline = time.monotonic() + timeout
        while self._head is None or self._head.block.seqno <= after_seqno:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ChainTimeoutError(f"no masterchain block after {after_seqno} within {timeout:g} s")
            wait_s = min(remaining, _LONGEST_WAIT_S)

            async def sync(server: Server, wait_s: float = wait_s) -> Head | None:
                try:
                    info = await self._ask_info(server, wait_for=after_seqno + 1, wait_s=wait_s)
                except LiteserverError as error:
                    if error.code == _TIMEOUT_CODE:
                        return self._head
                    raise
                if info.last.seqno <= after_seqno:
                    raise _BehindError(f"liteserver {server.address} did not wait for block {after_seqno + 1}")
                return await self._advance(server, info)

            await self._servers.first(f"waiting for block {after_seqno + 1}", sync)
        return self._head

    async def account(self, address: Address) -> AccountState:
        """The account's state as of the newest proven head, or its proven absence; raises as :meth:`head`."""
        head = await self.head()

        async def read(server: Server) -> AccountState:
            answer = lite_api.read_account_state(
                await self._ask(server, lite_api.get_account_state(head.block, address), wait_for=head.block.seqno)
            )
            if answer.block != head.block:
                raise ProofError(f"the answer is about block {answer.block.seqno}, asked about {head.block.seqno}")
            proven = await asyncio.to_thread(
                verify_account,
                address,
                head.block,
                shard_block=answer.shard_block,
                shard_proof=answer.shard_proof,
                proof=answer.proof,
                account=answer.state,
            )
            return AccountState(
                address=address,
                status=proven.status,
                balance=proven.balance,
                code=proven.code,
                data=proven.data,
                last_lt=proven.last_lt,
                last_hash=proven.last_hash,
                head=head,
            )

        return await self._servers.first(f"reading account {address.friendly()}", read)

    async def transactions(self, address: Address, *, after_lt: int = 0, limit: int = 256) -> list[Transaction]:
        """Transactions with ``lt > after_lt``, oldest first, linked by hash to the proven account state.

        When there are more than ``limit`` of them the newest are returned: the first one's ``previous_lt`` is then
        above ``after_lt``. Raises as :meth:`head`.
        """
        state = await self.account(address)
        lt, wanted = state.last_lt, state.last_hash
        newest_first: list[Transaction] = []
        while lt > after_lt and len(newest_first) < limit:
            count = min(_TRANSACTIONS_A_QUERY, limit - len(newest_first))

            async def read(
                server: Server, lt: int = lt, wanted: bytes = wanted, count: int = count
            ) -> list[Transaction]:
                answer = await self._ask(server, lite_api.get_transactions(address, lt, wanted, count))
                proven = verify_transactions(address, lt, wanted, lite_api.read_transactions(answer))
                if not proven:
                    raise TransportError(f"liteserver {server.address} sent no transaction at lt {lt}")
                return proven[:count]

            part = await self._servers.first(f"reading transactions of {address.friendly()}", read)
            newest_first += part
            lt, wanted = part[-1].previous_lt, part[-1].previous_hash
        return [transaction for transaction in reversed(newest_first) if transaction.lt > after_lt]

    async def config_parameter(self, parameter: int) -> Cell | None:
        """A configuration parameter's cell in the newest proven state, or None when it is proven absent."""
        head = await self.head()

        async def read(server: Server) -> Cell | None:
            question = lite_api.get_config(head.block)
            block, header_proof, state_proof = lite_api.read_config(
                await self._ask(server, question, wait_for=head.block.seqno)
            )
            if block != head.block:
                raise ProofError(f"the answer is about block {block.seqno}, asked about {head.block.seqno}")
            return verify_config(head.block, header_proof, state_proof, parameter)

        return await self._servers.first(f"reading configuration parameter {parameter}", read)

    async def send(self, boc: bytes) -> None:
        """Hand an external message to the network; each call starts with another server.

        Raises:
            SendRefusedError: Servers say that the account does not accept the message, and no server took it.
            ChainUnavailableError: No server took it.
        """
        self._sends += 1

        async def hand_over(server: Server) -> None:
            try:
                lite_api.read_send_status(await self._ask(server, lite_api.send_message(boc)))
            except LiteserverError as error:
                if "cannot apply external message" not in error.text.lower():
                    raise
                raise _refusal(error.text) from error

        await self._servers.first("sending a message", hand_over, start=self._sends - 1)

    async def _ask(
        self, server: Server, method: bytes, *, wait_for: int | None = None, wait_s: float = _CATCH_UP_MS / 1000
    ) -> bytes:
        allowed = self._query_timeout + (wait_s if wait_for is not None else 0.0)
        payload = lite_api.query(method, wait_for=wait_for, wait_ms=int(wait_s * 1000))
        return await server.connection.query(payload, timeout=allowed)

    async def _ask_info(
        self, server: Server, *, wait_for: int | None = None, wait_s: float = 0.0
    ) -> lite_api.MasterchainInfo:
        answer = await self._ask(server, lite_api.get_masterchain_info(), wait_for=wait_for, wait_s=wait_s)
        info = lite_api.read_masterchain_info(answer)
        if info.zerostate != self._trust.zerostate:
            raise ProofError(
                f"liteserver {server.address} serves the network of zerostate {info.zerostate.root_hash.hex()}, "
                f"expected {self._trust.zerostate.root_hash.hex()}",
                hint="the configured liteserver belongs to another network",
            )
        return info

    async def _advance(self, server: Server, info: lite_api.MasterchainInfo) -> Head:
        """Prove the server's newest block and make it the head if it is newer."""
        async with self._syncing:
            known = self._head
            if known is None or info.last.seqno > known.block.seqno:
                known = self._head = await self._prove(server, info.last)
            elif info.last.seqno == known.block.seqno and info.last != known.block:
                raise ProofError(
                    f"liteserver {server.address} has block {info.last.root_hash.hex()} at height {info.last.seqno}, "
                    f"proven is {known.block.root_hash.hex()}"
                )
            elif info.last.seqno < known.block.seqno - _MAX_BEHIND_BLOCKS:
                raise _BehindError(
                    f"liteserver {server.address} is at block {info.last.seqno}, {known.block.seqno} is proven"
                )
        return known

    def _is_old(self, head: Head) -> bool:
        return self._clock() - head.utime > self._max_head_age

    async def _look_elsewhere(self, server: Server) -> None:
        """Let another server prove a newer head; its failure is its own."""
        try:
            await self._advance(server, await self._ask_info(server))
        except ChainError as error:
            server.failed(error)
        else:
            server.succeeded()

    async def _prove(self, server: Server, target: BlockId) -> Head:
        known = self._key_block
        for _ in range(_MAX_PROOF_ROUNDS):
            if known == target:
                return await self._prove_known(server, target)
            answer = lite_api.read_block_proof(await self._ask(server, lite_api.get_block_proof(known, target)))
            # A snapshot: the thread must not meet a dictionary that changes under it.
            configs = dict(self._configs)
            proven = await asyncio.to_thread(verify_links, known, answer.links, configs)
            if proven.header is None or proven.block == known:
                raise ProofError(f"the proof from block {known.seqno} to {target.seqno} makes no step")
            self._configs = dict(list(configs.items())[-_KNOWN_CONFIGS:])
            if proven.key_block is not None and proven.key_block.seqno > self._key_block.seqno:
                self._key_block = proven.key_block
            if proven.block == target:
                return Head(target, proven.header.utime)
            known = proven.block
        raise ProofError(f"block {target.seqno} is not proven after {_MAX_PROOF_ROUNDS} answers")

    async def _prove_known(self, server: Server, block: BlockId) -> Head:
        """The time of a block that is trusted already."""
        if block.seqno == 0:
            raise TransportError(f"liteserver {server.address} has no block after the zerostate yet")
        answered, proof = lite_api.read_block_header(await self._ask(server, lite_api.get_block_header(block)))
        if answered != block:
            raise ProofError(f"the header is of block {answered.seqno}, asked for {block.seqno}")
        header, _ = prove_header(proof, block, f"header of block {block.seqno}")
        return Head(block, header.utime)


def _refusal(text: str) -> SendRefusedError:
    found = _EXIT_CODE.search(text)
    if found is None:
        return SendRefusedError(text)
    exit_code = int(found[1])
    try:
        name = ContractError(exit_code).name.lower().replace("_", " ")
    except ValueError:
        name = ""
    return SendRefusedError(
        f"exit code {exit_code}{f' ({name})' if name else ''}", exit_code=exit_code, hint=text[:200]
    )
