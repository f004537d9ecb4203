"""A person's own wallet (version 4 revision 2), for the command line and for a relay on the owner's machine.

In: a chain and the owner's key. Out: the same transfers as any :class:`~appliance.chain.wallet.Wallet`. It is the
standard contract that wallet applications use, so the account is the one they show for the same key. Layout: the
contract's data ``seqno:uint32 subwallet_id:uint32 public_key:bits256 plugins:(HashmapE 264)`` and body ``signature
subwallet_id valid_until:uint32 seqno:uint32 op:uint8 {mode:uint8 ^Message}*``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytoniq.contract.wallets.wallet import WALLET_V4_R2_CODE
from pytoniq_core.crypto.keys import mnemonic_is_valid, mnemonic_to_private_key

from appliance.chain.cells import Reader, Writer
from appliance.chain.envelopes import MODE_PAY_FEES_APART
from appliance.chain.errors import WalletError
from appliance.chain.stateinit import StateInit
from appliance.chain.wallet import Wallet

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.envelopes import OutgoingMessage
    from appliance.chain.types import ChainReader

SUBWALLET = 698983191
"""The subwallet that wallet applications use in workchain 0."""
_SIMPLE_SEND = 0


def owner_wallet_state(public_key: bytes) -> StateInit:
    """A fresh wallet of the key (32 bytes)."""
    data = Writer("wallet v4r2").uint(0, 32).uint(SUBWALLET, 32).raw(public_key, 32).uint(0, 1).end()
    return StateInit(WALLET_V4_R2_CODE, data)


def seed_of_mnemonic(words: list[str]) -> bytes:
    """The 32-byte Ed25519 seed of a wallet's 24 words; raises :class:`WalletError` when they are not a wallet's."""
    if not mnemonic_is_valid(words):
        raise WalletError(
            f"{len(words)} words that are not a wallet's secret words", hint="check their order and spelling"
        )
    _, private_key = mnemonic_to_private_key(words)
    return bytes(private_key[:32])


class OwnerWallet(Wallet):
    """The owner's wallet.

    Args:
        chain: Where to read and send.
        key: The owner's Ed25519 key.
        clock: As :class:`~appliance.chain.wallet.Wallet`.
        resend: As there.
    """

    def __init__(
        self,
        chain: ChainReader,
        key: Ed25519PrivateKey,
        *,
        clock: Callable[[], float] = time.time,
        resend: float = 30.0,
    ) -> None:
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()
        super().__init__(chain, owner_wallet_state(self._public_key), minimum=0, clock=clock, resend=resend)

    def _seqno(self, data: Cell) -> int:
        reader = Reader(data, "wallet v4r2")
        seqno = reader.uint(32)
        reader.constant(SUBWALLET, 32, "subwallet")
        if reader.raw(32) != self._public_key:
            raise WalletError(f"wallet {self.address.friendly()} belongs to another key")
        return seqno

    def _body(self, seqno: int, valid_until: int, messages: tuple[OutgoingMessage, ...]) -> Cell:
        signature = self._key.sign(_unsigned(Writer("wallet v4r2 request"), seqno, valid_until, messages).end().hash)
        return _unsigned(Writer("wallet v4r2 request").raw(signature, 64), seqno, valid_until, messages).end()


def _unsigned(writer: Writer, seqno: int, valid_until: int, messages: tuple[OutgoingMessage, ...]) -> Writer:
    writer.uint(SUBWALLET, 32).uint(valid_until, 32).uint(seqno, 32).uint(_SIMPLE_SEND, 8)
    for message in messages:
        writer.uint(MODE_PAY_FEES_APART, 8).ref(message.to_cell())
    return writer
