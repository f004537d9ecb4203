"""Payments signed by a proxy's key: made by the gateway, checked by everybody, executed by contracts.

In: an Ed25519 key and totals, or a bag of cells from a peer. Out: :class:`SignedPayment` or :class:`SignedClose`.
Layout: protocol specification, 6.6.

::

    inner cell   op:uint32 query_id:uint64 [tokens:uint64] my_address:MsgAddress
    outer body   op:uint32 query_id:uint64 send_excesses_to:MsgAddress signature:bits512 ^inner

The signature is over the hash of the inner cell. ``send_excesses_to`` is not signed: anyone may replace it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError, SignatureError
from appliance.chain.messages import Op

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

PAYMENT_OPS = frozenset({Op.WORKER_PAYOUT, Op.WORKER_LAST_PAYOUT, Op.CLIENT_CHARGE, Op.CLIENT_GRANT_REFUND})
CLOSE_OPS = frozenset({Op.PROXY_CLOSE, Op.PROXY_COMPLETE_CLOSE})
MAX_PAYMENT_BYTES = 2048
"""Far above the 190 bytes that a payment needs, with room for a writer that adds an index and a checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed(ABC):
    """What all signed messages share. ``signature`` has 64 bytes."""

    op: Op
    query_id: int
    my_address: Address
    send_excesses_to: Address
    signature: bytes = field(repr=False)

    @abstractmethod
    def inner(self) -> Cell:
        """The signed cell."""

    def to_cell(self) -> Cell:
        """The outer body."""
        body = Writer(type(self).__name__).uint(self.op, 32).uint(self.query_id, 64)
        return body.address(self.send_excesses_to).raw(self.signature, 64).ref(self.inner()).end()

    def to_boc(self) -> bytes:
        """The outer body as it goes over the wire (``proxy.signedPayment.data``)."""
        return encode_boc(self.to_cell())

    def with_excesses(self, address: Address) -> Self:
        """The same message with the rest of its value sent elsewhere; the signature stays valid."""
        return replace(self, send_excesses_to=address)

    def verify(self, public_key: bytes, contract: Address) -> None:
        """Check that ``contract`` would execute this message under ``public_key`` (32 bytes).

        Raises:
            SignatureError: Another contract is named, or the signature does not verify.
        """
        if self.my_address != contract:
            raise SignatureError(
                f"a signed message is for contract {self.my_address}, expected {contract}",
                hint="the peers may be on different parameter versions",
            )
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(self.signature, self.inner().hash)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"the signature of a message for contract {contract} does not verify with key {public_key.hex()}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayment(_Signed):
    """A worker payout, last payout, client charge or granted refund; ``tokens`` is the total so far, not a step."""

    tokens: int

    def inner(self) -> Cell:
        """The signed cell."""
        inner = Writer("signed payment").uint(self.op, 32).uint(self.query_id, 64)
        return inner.uint(self.tokens, 64).address(self.my_address).end()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedClose(_Signed):
    """The proxy's order to its own contract to start or to complete closing."""

    def inner(self) -> Cell:
        """The signed cell."""
        return Writer("signed close").uint(self.op, 32).uint(self.query_id, 64).address(self.my_address).end()


def sign_payment(  # noqa: PLR0917 - the order of the layout, after the key
    key: Ed25519PrivateKey, op: int, query_id: int, tokens: int, contract: Address, excesses: Address
) -> SignedPayment:
    """Sign a total for ``contract``; raises ``LayoutError`` when ``op`` is no payment or a number does not fit."""
    unsigned = SignedPayment(
        op=_one_of(op, PAYMENT_OPS),
        query_id=query_id,
        tokens=tokens,
        my_address=contract,
        send_excesses_to=excesses,
        signature=b"",
    )
    return replace(unsigned, signature=key.sign(unsigned.inner().hash))


def sign_close(key: Ed25519PrivateKey, op: int, query_id: int, contract: Address, excesses: Address) -> SignedClose:
    """Sign a close or complete close for the proxy contract; raises ``LayoutError`` as :func:`sign_payment`."""
    unsigned = SignedClose(
        op=_one_of(op, CLOSE_OPS), query_id=query_id, my_address=contract, send_excesses_to=excesses, signature=b""
    )
    return replace(unsigned, signature=key.sign(unsigned.inner().hash))


def parse_payment(boc: bytes, *, op: int) -> SignedPayment:
    """Read a signed payment from a peer.

    Args:
        boc: One bag of cells with one root.
        op: The operation that this receiver expects; workers ``Op.WORKER_PAYOUT``, clients ``Op.CLIENT_CHARGE``.

    Raises:
        LayoutError: The layout is not exactly that of 6.6, or outer and inner part differ.
    """
    return payment_from_cell(decode_boc(boc, max_bytes=MAX_PAYMENT_BYTES, max_cells=2), op=op)


def payment_from_cell(cell: Cell, *, op: int) -> SignedPayment:
    """Read a signed payment from a message body; see :func:`parse_payment`."""
    kind = _one_of(op, PAYMENT_OPS)
    query_id, excesses, signature, inner = _read_outer(Reader(cell, "signed payment, outer"), kind)
    tokens, address = inner.uint(64), inner.address()
    inner.end()
    return SignedPayment(
        op=kind,
        query_id=query_id,
        tokens=tokens,
        my_address=address,
        send_excesses_to=excesses,
        signature=signature,
    )


def close_from_cell(cell: Cell, *, op: int) -> SignedClose:
    """Read a signed close or complete close from a message body; raises ``LayoutError``."""
    kind = _one_of(op, CLOSE_OPS)
    query_id, excesses, signature, inner = _read_outer(Reader(cell, "signed close, outer"), kind)
    address = inner.address()
    inner.end()
    return SignedClose(op=kind, query_id=query_id, my_address=address, send_excesses_to=excesses, signature=signature)


def _read_outer(outer: Reader, op: Op) -> tuple[int, Address, bytes, Reader]:
    outer.constant(op, 32, "operation")
    query_id, excesses, signature = outer.uint(64), outer.address(), outer.raw(64)
    inner = Reader(outer.ref(), "signed message, inner")
    outer.end()
    inner.constant(op, 32, "operation")
    inner.constant(query_id, 64, "query_id")
    return query_id, excesses, signature, inner


def _one_of(op: int, allowed: frozenset[Op]) -> Op:
    if op not in allowed:
        names = ", ".join(f"0x{value:08x}" for value in sorted(allowed))
        raise LayoutError(f"operation 0x{op:08x} of a signed message, expected one of {names}")
    return Op(op)
