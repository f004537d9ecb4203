"""Putting contracts on chain: worker, client, proxy and root.

In: the network's parameters, owners and keys. Out: messages that deploy (with the initial state) and register, and
:func:`deploy_worker`, which looks first and sends only what is missing. Values: protocol specification, 6.5 to 6.7.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainTimeoutError, WalletError
from appliance.chain.layouts import RootState, WorkerData, build_root
from appliance.chain.messages import ClientChangeSecretAndTopUp, ProxyIncreaseStake, WorkerRegister
from appliance.chain.payouts import CLIENT_MESSAGE_VALUE
from appliance.chain.stateinit import StateInit, client_state, proxy_state, worker_state

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.layouts import Params
    from appliance.chain.types import AccountState, ChainReader
    from appliance.chain.wallet import Wallet

WORKER_DEPLOY_VALUE = 300_000_000
"""Nanotons a fresh worker contract gets for its storage."""
REGISTER_VALUE = 500_000_000
"""Nanotons attached to a registration; what is not used comes back (6.5)."""
PROXY_DEPLOY_VALUE = 1_000_000_000
ROOT_DEPLOY_VALUE = 1_000_000_000
_APPEAR_S = 180.0


@dataclass(frozen=True, slots=True)
class WorkerContract:
    """Which worker contract a worker and a gateway agree on. ``owner`` is paid; ``proxy`` is the gateway's contract."""

    params: Params
    owner: Address
    proxy: Address
    proxy_public_key: bytes

    @property
    def state(self) -> StateInit:
        """Its initial state."""
        return worker_state(self.params, self.owner, self.proxy, self.proxy_public_key)

    @property
    def address(self) -> Address:
        """Where it lives."""
        return self.state.address()

    def deploy_message(self) -> OutgoingMessage:
        """Anyone → the contract: deploy it."""
        return OutgoingMessage(self.address, WORKER_DEPLOY_VALUE, None, self.state)

    def register_message(self) -> OutgoingMessage:
        """Owner → the contract: announce it to the proxy contract. The sender must be the owner."""
        body = WorkerRegister(secrets.randbits(64), self.owner)
        return OutgoingMessage(self.address, REGISTER_VALUE, body.to_cell())


async def deploy_worker(chain: ChainReader, wallet: Wallet, contract: WorkerContract) -> WorkerData:
    """Deploy a worker contract from ``wallet`` unless it is there; what it stores.

    Raises:
        FundsError: The wallet holds too little.
        WalletError: The contract is there but stores another owner or proxy, or does not appear.
        ChainError: The chain cannot be read.
    """
    found = _stored(await chain.account(contract.address))
    if found is None:
        await wallet.require_funds(WORKER_DEPLOY_VALUE)
        await wallet.transfer([contract.deploy_message()])
        found = await _appeared(chain, contract.address)
    expected = contract.owner, contract.proxy, contract.proxy_public_key
    if (found.owner, found.proxy, found.proxy_public_key) != expected:
        raise WalletError(f"worker contract {contract.address.friendly()} stores another owner or proxy than agreed")
    return found


def client_deploy_message(
    params: Params, owner: Address, proxy: Address, proxy_public_key: bytes, *, amount: int, secret_hash: bytes
) -> OutgoingMessage:
    """Client's node wallet (``owner``) → its contract: deploy it with ``amount`` nanotons and a secret hash."""
    state = client_state(params, owner, proxy, proxy_public_key)
    body = ClientChangeSecretAndTopUp(secrets.randbits(64), amount, secret_hash, owner)
    return OutgoingMessage(state.address(), amount + CLIENT_MESSAGE_VALUE, body.to_cell(), state)


def proxy_deploy_message(
    root: Address, params: Params, owner: Address, public_key: bytes, *, stake: int, excesses: Address
) -> OutgoingMessage:
    """Anyone → a gateway's contract: deploy it with ``stake`` nanotons of stake."""
    state = proxy_state(root, params, owner, public_key)
    body = ProxyIncreaseStake(secrets.randbits(64), stake, excesses)
    return OutgoingMessage(state.address(), stake + PROXY_DEPLOY_VALUE, body.to_cell(), state)


def root_deploy_message(code: Cell, state: RootState) -> OutgoingMessage:
    """Anyone → a new root contract: deploy it with this content."""
    initial = StateInit(code, build_root(state))
    return OutgoingMessage(initial.address(), ROOT_DEPLOY_VALUE, None, initial)


async def _appeared(chain: ChainReader, address: Address) -> WorkerData:
    deadline = time.monotonic() + _APPEAR_S
    while True:
        account = await chain.account(address)
        found = _stored(account)
        if found is not None:
            return found
        try:
            await chain.wait_head(account.head.block.seqno, timeout=max(0.0, deadline - time.monotonic()))
        except ChainTimeoutError as error:
            raise WalletError(
                f"worker contract {address.friendly()} did not appear within {_APPEAR_S:g} s of its deployment",
                hint="look at its address; the deployment can be tried again",
            ) from error


def _stored(account: AccountState) -> WorkerData | None:
    return WorkerData.from_cell(account.data) if account.status == "active" and account.data is not None else None
