"""The account that holds all money at the start: an ordinary wallet (v3r2) whose key belongs to the lab.

In: grants and the wallet's own state. Out: its state at genesis, and signed external messages, up to four grants each.
The wallet is the standard one, so any client can use the seed for a wallet of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pytoniq.contract.wallets.wallet import WALLET_V3_R2_CODE

from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.layout import BASECHAIN
from appliance.lab.chain.messages import Message, external_message, read_account, read_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

SUPPLY = 5_000_000_000 * 10**9
"""Nanotons at genesis; fits a signed 64-bit number."""

MAX_GRANTS = 4
"""Messages that one order of a v3 wallet can carry."""

_WALLET_ID = 698983191
_VALID_S = 60
_PAY_FEES_SEPARATELY = 3  # mode 1 + 2: and ignore a failing message


@dataclass(frozen=True, slots=True)
class Grant:
    """Money for an account: ``amount`` in nanotons, and what else the message carries."""

    address: Address
    amount: int
    body: Cell | None = None
    state_init: Cell | None = None


@dataclass(frozen=True, slots=True)
class Faucet:
    """The wallet of the key."""

    key: Ed25519PrivateKey

    @property
    def state_init(self) -> Cell:
        """Code and data at genesis (sequence number 0)."""
        public_key = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        data = Writer("wallet data").uint(0, 32).uint(_WALLET_ID, 32).raw(public_key, 32).end()
        return Writer("state init").uint(0b00110, 5).ref(WALLET_V3_R2_CODE).ref(data).end()

    @property
    def address(self) -> Address:
        """Where it lives."""
        return Address(BASECHAIN, self.state_init.hash)

    def genesis_account(self, utime: int) -> Cell:
        """``ShardAccount`` of the active wallet with all the money."""
        account = Writer("account").uint(1, 1).address(self.address)
        # StorageInfo: an estimate of cells and bits (the TVM counts afresh), no extra, last paid, nothing due
        account.uint(1, 3).uint(4, 8).uint(2, 3).uint(1315, 16).uint(0, 3).uint(utime, 32).uint(0, 1)
        account.uint(0, 64).coins(SUPPLY).uint(0, 1).uint(1, 1).inline(self.state_init)
        return Writer("shard account").ref(account.end()).raw(bytes(32), 32).uint(0, 64).end()

    def order(self, shard_account: Cell, grants: Sequence[Grant], now: int) -> Message:
        """The signed external message that pays up to :data:`MAX_GRANTS` grants.

        Raises:
            DevNetError: The wallet is gone.
        """
        data = read_account(shard_account.refs[0]).data
        if data is None:
            raise DevNetError("the faucet's wallet is not active any more", hint="start a chain in a new directory")
        seqno = Reader(data, "wallet data").uint(32)
        body = Writer("wallet order").uint(_WALLET_ID, 32).uint(now + _VALID_S, 32).uint(seqno, 32)
        for grant in grants:
            body.uint(_PAY_FEES_SEPARATELY, 8).ref(_payment(grant))
        unsigned = body.end()
        signed = Writer("signed order").raw(self.key.sign(unsigned.hash), 64).inline(unsigned).end()
        return read_message(external_message(self.address, signed))


def _payment(grant: Grant) -> Cell:
    # int_msg_info$0, no bounce: a grant creates the account; source, fees and times are filled in by the TVM
    writer = Writer("payment").uint(0b0100, 4).uint(0, 2).address(grant.address).coins(grant.amount).uint(0, 1)
    writer.coins(0).coins(0).uint(0, 64).uint(0, 32)
    if grant.state_init is None:
        writer.uint(0, 1)
    else:
        writer.uint(0b11, 2).ref(grant.state_init)
    return writer.maybe_ref(grant.body).end()
