"""Anchors: the digest of a piece of evidence on chain, which proves that it was not made later.

A wallet sends itself one nanoton with the text comment ``chrysalis sha256 <64 hex digits>``; any explorer shows it, and
any wallet can send it by hand. Whose wallet it is does not matter: a proven transaction with these words has a time,
and what has that SHA-256 existed then. What is looked up is linked by hash to the proven state of the account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.chain.cells import Reader, Writer
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import ChainReader, Message, Transaction

DIGEST_BYTES: Final = 32
NANOTONS: Final = 1
_TEXT_COMMENT: Final = 0
_PREFIX: Final = b"chrysalis sha256 "
_TEXT_BYTES: Final = len(_PREFIX) + 2 * DIGEST_BYTES
_LIMIT: Final = 4096
"""Transactions of an account that are looked through, the newest ones."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A digest that was found on chain. ``utime`` in Unix seconds; ``transaction`` is its hash, 32 bytes."""

    address: Address
    lt: int
    utime: int
    transaction: bytes


def anchor_text(digest: bytes) -> str:
    """The comment that anchors a digest.

    Raises:
        LayoutError: The digest is not 32 bytes.
    """
    if len(digest) != DIGEST_BYTES:
        raise LayoutError(f"a digest of {len(digest)} bytes, expected {DIGEST_BYTES}")
    return _PREFIX.decode() + digest.hex()


def anchor_body(digest: bytes) -> Cell:
    """The message body with that comment (a text comment: 32 zero bits, then UTF-8)."""
    return Writer("anchor").uint(_TEXT_COMMENT, 32).raw(anchor_text(digest).encode(), _TEXT_BYTES).end()


def anchor_message(wallet: Address, digest: bytes) -> OutgoingMessage:
    """What a wallet sends itself."""
    return OutgoingMessage(wallet, NANOTONS, anchor_body(digest), bounce=False)


async def find_anchor(chain: ChainReader, address: Address, digest: bytes) -> Anchor | None:
    """The oldest anchor of a digest among an account's last transactions.

    Args:
        chain: Proven reads.
        address: The account that sent or got the comment.
        digest: 32 bytes.

    Returns:
        ``None`` if none of the transactions carries it.

    Raises:
        ChainError: The chain cannot be read.
    """
    wanted = anchor_body(digest).hash
    for transaction in await chain.transactions(address, limit=_LIMIT):
        if any(message.body.hash == wanted for message in _messages(transaction)):
            return Anchor(address, transaction.lt, transaction.utime, transaction.hash)
    return None


def read_anchor(body: Cell) -> bytes | None:
    """The digest in a body, ``None`` if it is no anchor."""
    try:
        reader = Reader(body, "anchor")
        reader.constant(_TEXT_COMMENT, 32, "text comment")
        text = reader.raw(_TEXT_BYTES)
        reader.end()
        return bytes.fromhex(text.removeprefix(_PREFIX).decode("ascii")) if text.startswith(_PREFIX) else None
    except (LayoutError, ValueError):
        return None


def _messages(transaction: Transaction) -> Iterable[Message]:
    """Messages of a transaction that was carried out; one that was aborted sent nothing and still has a time."""
    if transaction.inbound is not None:
        yield transaction.inbound
    yield from transaction.outbound
