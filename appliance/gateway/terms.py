"""What the gateway goes by at a moment: one state of the root contract, and the addresses that follow from it. Pure.

In: a proven root state and the gateway's own identity. Out: prices, lists, derived contract addresses
(protocol specification, sections 6.1 and 6.4). A new root state makes a new :class:`Terms`; nothing in it changes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.accounting.tokens import Multipliers
from appliance.chain.stateinit import client_address, proxy_address, worker_address

if TYPE_CHECKING:
    from appliance.chain.addresses import Address
    from appliance.chain.layouts import RootState

_DERIVED_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this gateway is on chain. ``owner`` is its operator's wallet, ``public_key`` the Ed25519 key (32 bytes)."""

    root_contract: Address
    owner: Address
    public_key: bytes
    is_test: bool
    testnet: bool

    def text(self, address: Address) -> str:
        """An address as the peers compare it: non-bounceable, with the network's bit (section 2.9)."""
        return address.friendly(bounceable=False, testnet=self.testnet)


@dataclass(frozen=True, slots=True)
class Terms:
    """One root state, seen from this gateway.

    Attributes:
        identity: This gateway.
        state: The root contract's contents.
        contract: The gateway's own contract under these parameters.
        multipliers: Price multipliers by kind of token.
    """

    identity: Identity
    state: RootState
    contract: Address
    multipliers: Multipliers
    _workers: dict[Address, Address] = field(default_factory=dict, repr=False, compare=False)
    _clients: dict[Address, Address] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, identity: Identity, state: RootState) -> Terms:
        """Derive everything; raises ``LayoutError`` when the parameters carry no contract code."""
        params = state.params
        multipliers = Multipliers(
            params.prompt_tokens_price_multiplier,
            params.cached_tokens_price_multiplier,
            params.completion_tokens_price_multiplier,
            params.reasoning_tokens_price_multiplier,
        )
        contract = proxy_address(identity.root_contract, params, identity.owner, identity.public_key)
        return cls(identity, state, contract, multipliers)

    @property
    def version(self) -> int:
        """The root contract's version, which clients name as ``min_config_version``."""
        return self.state.version

    @property
    def params_version(self) -> int:
        """Version of the parameters from which the contracts follow."""
        return self.state.params.params_version

    @property
    def price(self) -> int:
        """What a client pays for an adjusted token, in nanotons."""
        return self.state.params.price_per_token

    @property
    def worker_fee(self) -> int:
        """What a worker's owner gets for an adjusted token, in nanotons."""
        return self.state.params.worker_fee_per_token

    def worker_contract(self, owner: Address) -> Address:
        """The contract that pays the worker owner ``owner`` for work done at this gateway."""
        return self._derived(self._workers, owner, worker_address)

    def client_contract(self, owner: Address) -> Address:
        """The contract from which the client wallet ``owner`` pays this gateway."""
        return self._derived(self._clients, owner, client_address)

    def _derived(self, known: dict[Address, Address], owner: Address, derive: Derive) -> Address:
        found = known.get(owner)
        if found is None:
            if len(known) >= _DERIVED_LIMIT:
                known.clear()
            found = derive(self.state.params, owner, self.contract, self.identity.public_key)
            known[owner] = found
        return found

    def image_listed(self, image_hash: bytes) -> bool:
        """Whether a worker image is in the root contract."""
        return image_hash in self.state.worker_hashes

    def model_listed(self, model: str) -> bool:
        """Whether a full model name (``name@commit:hash``) is in the root contract."""
        return hashlib.sha256(model.encode()).digest() in self.state.model_hashes


if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.chain.layouts import Params

    Derive = Callable[[Params, Address, Address, bytes], Address]
