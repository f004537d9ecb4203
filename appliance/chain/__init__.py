"""The chain: contracts, proofs, wallets, registry, rewards. What is read is proven; what is sent is confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.chain.addresses import Address
    from appliance.chain.client import ChainClient, TrustPoint
    from appliance.chain.envelopes import OutgoingMessage
    from appliance.chain.errors import (
        ChainError,
        ChainUnavailableError,
        FundsError,
        LayoutError,
        NotConfirmedError,
        NotListedError,
        ProofError,
        SignatureError,
        StaleError,
        WalletError,
    )
    from appliance.chain.layouts import Params, RootState
    from appliance.chain.owner_wallet import OwnerWallet
    from appliance.chain.registry import Registry
    from appliance.chain.relay import FileRelay, HttpRelay, PayoutOrder, run_relay
    from appliance.chain.rewards import Statement, explain
    from appliance.chain.signed import SignedPayment, parse_payment, sign_payment
    from appliance.chain.transport import LiteserverAddress
    from appliance.chain.types import AccountState, BlockId, ChainReader, Head, Transaction
    from appliance.chain.wallet import NodeWallet, Wallet, tons
    from appliance.chain.watch import AccountWatcher

__all__ = [
    "AccountState",
    "AccountWatcher",
    "Address",
    "BlockId",
    "ChainClient",
    "ChainError",
    "ChainReader",
    "ChainUnavailableError",
    "FileRelay",
    "FundsError",
    "Head",
    "HttpRelay",
    "LayoutError",
    "LiteserverAddress",
    "NodeWallet",
    "NotConfirmedError",
    "NotListedError",
    "OutgoingMessage",
    "OwnerWallet",
    "Params",
    "PayoutOrder",
    "ProofError",
    "Registry",
    "RootState",
    "SignatureError",
    "SignedPayment",
    "StaleError",
    "Statement",
    "Transaction",
    "TrustPoint",
    "Wallet",
    "WalletError",
    "explain",
    "parse_payment",
    "run_relay",
    "sign_payment",
    "tons",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "AccountState": "types",
            "AccountWatcher": "watch",
            "Address": "addresses",
            "BlockId": "types",
            "ChainClient": "client",
            "ChainError": "errors",
            "ChainReader": "types",
            "ChainUnavailableError": "errors",
            "FileRelay": "relay",
            "FundsError": "errors",
            "Head": "types",
            "HttpRelay": "relay",
            "LayoutError": "errors",
            "LiteserverAddress": "transport",
            "NodeWallet": "wallet",
            "NotConfirmedError": "errors",
            "NotListedError": "errors",
            "OutgoingMessage": "envelopes",
            "OwnerWallet": "owner_wallet",
            "Params": "layouts",
            "PayoutOrder": "relay",
            "ProofError": "errors",
            "Registry": "registry",
            "RootState": "layouts",
            "SignatureError": "errors",
            "SignedPayment": "signed",
            "StaleError": "errors",
            "Statement": "rewards",
            "Transaction": "types",
            "TrustPoint": "client",
            "Wallet": "wallet",
            "WalletError": "errors",
            "explain": "rewards",
            "parse_payment": "signed",
            "run_relay": "relay",
            "sign_payment": "signed",
            "tons": "wallet",
        },
    )
