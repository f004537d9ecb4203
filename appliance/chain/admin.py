"""What the owner of a root contract sends to it, ready for the command line or for a person's wallet.

In: what is to change. Out: an :class:`~appliance.chain.envelopes.OutgoingMessage` to the root contract, and its
explanation in words. The contract takes these messages from its owner only (6.1).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain import messages
from appliance.chain.boc import encode_boc
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.wallet import tons

if TYPE_CHECKING:
    from appliance.chain.addresses import Address
    from appliance.chain.structs import Struct

OWNER_MESSAGE_VALUE = 100_000_000
"""Nanotons that cover the root contract's gas with a wide margin; what is left comes back."""


@dataclass(frozen=True, slots=True)
class OwnerOrder:
    """One message of the root's owner. ``value`` in nanotons."""

    root: Address
    body: Struct
    summary: str
    value: int = OWNER_MESSAGE_VALUE

    def message(self) -> OutgoingMessage:
        """For a wallet of this project."""
        return OutgoingMessage(self.root, self.value, self.body.to_cell())

    def body_base64(self) -> str:
        """The body as a bag of cells in base64, which wallet applications and links take."""
        return base64.b64encode(encode_boc(self.body.to_cell())).decode()

    def explain(self, owner: Address | None = None) -> str:
        """Who has to send what to whom."""
        who = f"the owner {owner.friendly()}" if owner is not None else "the owner of the root contract"
        tag = self.body.TAG
        operation = f"0x{tag[0]:08x}" if tag is not None else "none"
        return (
            f"{who} has to send {tons(self.value)} to {self.root.friendly(bounceable=True)} with operation {operation} "
            f"({self.summary}), body {self.body_base64()}"
        )


def model_hash(model: str) -> bytes:
    """What the registry lists for a model: SHA-256 of its full name ``name@commit:hash`` (6.1)."""
    return hashlib.sha256(model.encode()).digest()


def add_image(root: Address, image: bytes) -> OwnerOrder:
    """List a worker image by its 32-byte image hash."""
    return OwnerOrder(root, messages.RootAddWorkerHash(_query_id(), image), f"add worker image {image.hex()}")


def remove_image(root: Address, image: bytes) -> OwnerOrder:
    """Drop a worker image."""
    return OwnerOrder(root, messages.RootDeleteWorkerHash(_query_id(), image), f"remove worker image {image.hex()}")


def add_proxy_image(root: Address, image: bytes) -> OwnerOrder:
    """List a gateway (proxy) image."""
    return OwnerOrder(root, messages.RootAddProxyHash(_query_id(), image), f"add gateway image {image.hex()}")


def remove_proxy_image(root: Address, image: bytes) -> OwnerOrder:
    """Drop a gateway (proxy) image."""
    return OwnerOrder(root, messages.RootDeleteProxyHash(_query_id(), image), f"remove gateway image {image.hex()}")


def add_model(root: Address, model: str) -> OwnerOrder:
    """List a model by its full name."""
    return OwnerOrder(root, messages.RootAddModelHash(_query_id(), model_hash(model)), f"add model {model}")


def remove_model(root: Address, model: str) -> OwnerOrder:
    """Drop a model."""
    return OwnerOrder(root, messages.RootDeleteModelHash(_query_id(), model_hash(model)), f"remove model {model}")


def register_proxy(root: Address, text: str) -> OwnerOrder:
    """Register a gateway: ``ip:port`` for all, or ``ip:port ip:port`` for workers and clients."""
    return OwnerOrder(root, messages.RootRegisterProxy(_query_id(), text), f"register gateway {text}")


def update_proxy(root: Address, seqno: int, text: str) -> OwnerOrder:
    """Change a registered gateway's addresses."""
    return OwnerOrder(root, messages.RootUpdateProxy(_query_id(), seqno, text), f"gateway {seqno} is at {text}")


def unregister_proxy(root: Address, seqno: int) -> OwnerOrder:
    """Drop a registered gateway."""
    return OwnerOrder(root, messages.RootUnregisterProxy(_query_id(), seqno), f"unregister gateway {seqno}")


def change_prices(root: Address, price_per_token: int, worker_fee_per_token: int) -> OwnerOrder:
    """Set both prices, in nanotons a token; every gateway then retires its contract (2.7)."""
    body = messages.RootChangePrices(_query_id(), price_per_token, worker_fee_per_token)
    return OwnerOrder(root, body, f"price {price_per_token}, worker's part {worker_fee_per_token} nanotons a token")


def _query_id() -> int:
    return secrets.randbits(64)
