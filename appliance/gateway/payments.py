"""Signed payments of the gateway (protocol specification, section 6.6): never for more than is committed to the chain.

In: accounts. Out: the newest signed payment for each, made once and kept. Pure but for the key.

A payment's query id follows from what it says, so the same total is always the same message: after a restart the
gateway signs nothing that differs from what its peers already hold.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from appliance.chain.errors import LayoutError, SignatureError
from appliance.chain.messages import Op
from appliance.chain.signed import SignedPayment, parse_payment, sign_payment
from appliance.wire.messages import ProxySignedPayment, ProxySignedPaymentEmpty

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from appliance.chain.addresses import Address
    from appliance.gateway.book import Account, ClientAccount, WorkerAccount

_DOMAIN = b"chrysalis payment query id v1\0"


class Payments:
    """Signs totals for the gateway's peers.

    Args:
        key: The gateway's Ed25519 key, whose public half is in every contract of its peers.
        excesses: Where a payment's unused gas goes; whoever sends it replaces this.
    """

    def __init__(self, key: Ed25519PrivateKey, excesses: Address) -> None:
        self._key = key
        self._excesses = excesses
        self._public_key = key.public_key().public_bytes_raw()
        self._kept: dict[Address, tuple[int, ProxySignedPayment]] = {}

    def worker(self, account: WorkerAccount) -> ProxySignedPayment:
        """The newest payment for a worker's committed total, 0 included."""
        return self._newest(Op.WORKER_PAYOUT, account)

    def client(self, account: ClientAccount) -> ProxySignedPayment:
        """The newest charge for a client's committed total, 0 included."""
        return self._newest(Op.CLIENT_CHARGE, account)

    def client_if_any(self, account: ClientAccount | None) -> ProxySignedPayment | ProxySignedPaymentEmpty:
        """The newest charge where something was ever committed, else empty (section 4.3)."""
        if account is None or account.committed == 0:
            return ProxySignedPaymentEmpty()
        return self.client(account)

    def _newest(self, op: Op, account: Account) -> ProxySignedPayment:
        kept = self._kept.get(account.contract)
        if kept is not None and kept[0] >= account.committed:
            return kept[1]
        signed = self.sign(op, account.committed, account.contract)
        payment = ProxySignedPayment(signed.to_boc())
        self._kept[account.contract] = (account.committed, payment)
        return payment

    def sign(self, op: Op, tokens: int, contract: Address) -> SignedPayment:
        """Sign a total for a contract."""
        return sign_payment(self._key, op, query_id_of(op, tokens, contract), tokens, contract, self._excesses)

    def proven_by(self, boc: bytes, contract: Address) -> int | None:
        """The total of a worker payment that this gateway signed for ``contract`` itself; None when it is none.

        A peer may show what it holds: that is proof enough for a gateway whose database was restored from a backup.
        """
        try:
            payment = parse_payment(boc, op=Op.WORKER_PAYOUT)
            payment.verify(self._public_key, contract)
        except (LayoutError, SignatureError):
            return None
        return payment.tokens


def query_id_of(op: Op, tokens: int, contract: Address) -> int:
    """The query id of a signed message: 64 bits of SHA-256 over operation, contract and total."""
    parts = (op.to_bytes(4, "big"), contract.raw().encode(), tokens.to_bytes(8, "big"))
    return int.from_bytes(hashlib.sha256(_DOMAIN + b"".join(parts)).digest()[:8], "big")
