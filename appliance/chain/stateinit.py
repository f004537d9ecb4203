"""Initial states of the contracts, and the addresses that follow from them.

In: owner, keys, parameters and codes. Out: :class:`StateInit`. Layouts: protocol specification, 6.3 and 6.4. Codes of
proxy, worker and client come from the root's parameters; the wallet's is the caller's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError
from appliance.chain.layouts import (
    ClientConstants,
    ClientData,
    ContractStatus,
    ProxyData,
    WalletData,
    WalletStatus,
    WorkerData,
)

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.layouts import Params

BASECHAIN = 0


@dataclass(frozen=True, slots=True)
class StateInit:
    """Code and data of an account that is not deployed yet: ``00 1 1 0`` and two references (6.4)."""

    code: Cell = field(repr=False)
    data: Cell = field(repr=False)

    def to_cell(self) -> Cell:
        """The cell whose hash is the account's."""
        return Writer("StateInit").uint(0b00110, 5).ref(self.code).ref(self.data).end()

    @classmethod
    def from_cell(cls, cell: Cell) -> StateInit:
        """Read a state of this form; raises ``LayoutError``."""
        reader = Reader(cell, "StateInit")
        reader.constant(0b00110, 5, "head")
        state = cls(reader.ref(), reader.ref())
        reader.end()
        return state

    def address(self, workchain: int = BASECHAIN) -> Address:
        """Where this state lives."""
        return Address(workchain, self.to_cell().hash)


def proxy_state(root: Address, params: Params, owner: Address, public_key: bytes) -> StateInit:
    """A fresh proxy contract; ``public_key`` is the proxy's Ed25519 key (32 bytes)."""
    data = ProxyData(
        owner=owner,
        public_key=public_key,
        root=root,
        state=ContractStatus.OPEN,
        balance=0,
        stake=0,
        unlock_ts=0,
        params=params.for_proxy().to_cell(),
    )
    return StateInit(_code(params.proxy_code, "proxy"), data.to_cell())


def worker_state(params: Params, owner: Address, proxy: Address, proxy_public_key: bytes) -> StateInit:
    """A fresh worker contract. ``owner`` is the worker's owner, ``proxy`` the proxy contract."""
    data = WorkerData(
        owner=owner,
        proxy=proxy,
        proxy_public_key=proxy_public_key,
        state=ContractStatus.OPEN,
        tokens=0,
        params=params.for_peer().to_cell(),
    )
    return StateInit(_code(params.worker_code, "worker"), data.to_cell())


def client_state(params: Params, owner: Address, proxy: Address, proxy_public_key: bytes) -> StateInit:
    """A fresh client contract. ``owner`` is the client's node wallet, ``proxy`` the proxy contract."""
    data = ClientData(
        state=ContractStatus.OPEN,
        balance=0,
        stake=params.min_client_stake,
        tokens_used=0,
        unlock_ts=0,
        secret_hash=bytes(32),
        constants=ClientConstants(owner, proxy, proxy_public_key),
        params=params.for_peer().to_cell(),
    )
    return StateInit(_code(params.client_code, "client"), data.to_cell())


def wallet_state(code: Cell, owner: Address, public_key: bytes, *, subwallet: int = 0) -> StateInit:
    """A fresh node wallet; ``public_key`` is the node's Ed25519 key (32 bytes)."""
    data = WalletData(seqno=0, subwallet=subwallet, public_key=public_key, status=WalletStatus.OPEN, owner=owner)
    return StateInit(code, data.to_cell())


def proxy_address(root: Address, params: Params, owner: Address, public_key: bytes) -> Address:
    """Address of :func:`proxy_state`."""
    return proxy_state(root, params, owner, public_key).address()


def worker_address(params: Params, owner: Address, proxy: Address, proxy_public_key: bytes) -> Address:
    """Address of :func:`worker_state`."""
    return worker_state(params, owner, proxy, proxy_public_key).address()


def client_address(params: Params, owner: Address, proxy: Address, proxy_public_key: bytes) -> Address:
    """Address of :func:`client_state`."""
    return client_state(params, owner, proxy, proxy_public_key).address()


def wallet_address(code: Cell, owner: Address, public_key: bytes, *, subwallet: int = 0) -> Address:
    """Address of :func:`wallet_state`."""
    return wallet_state(code, owner, public_key, subwallet=subwallet).address()


def _code(code: Cell | None, kind: str) -> Cell:
    if code is None:
        raise LayoutError(
            f"the parameters carry no {kind} code, expected one",
            hint="take the parameters from the root contract, not from another contract's data",
        )
    return code
