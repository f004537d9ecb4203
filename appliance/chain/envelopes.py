"""Envelopes around bodies: internal messages as a contract sends them, external ones, and the wallet's own body.

In: destinations, values, bodies, a node key. Out: cells ready for a wallet or for ``sendMessage``. Layouts: protocol
specification, 6.3, and TON's ``block.tlb`` (``MessageRelaxed``, ``Message``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError
from appliance.chain.stateinit import StateInit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

MAX_WALLET_MESSAGES = 4
MODE_PAY_FEES_APART = 1
MODE_IGNORE_ERRORS = 2


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """An internal message that a contract is asked to send. ``value`` in nanotons.

    It bounces unless it deploys; :attr:`bounce` overrides that. ``body`` None writes no body at all.
    """

    destination: Address
    value: int
    body: Cell | None = field(default=None, repr=False)
    init: StateInit | None = field(default=None, repr=False)
    bounce: bool | None = None

    def to_cell(self) -> Cell:
        """The message with source, fees and times left to the executor."""
        return internal_message(
            source=None,
            destination=self.destination,
            value=self.value,
            body=self.body,
            init=self.init,
            bounce=self.bounce,
        )

    @classmethod
    def from_cell(cls, cell: Cell) -> OutgoingMessage:
        """Read a message that :meth:`to_cell` could have written; raises ``LayoutError``."""
        reader = Reader(cell, "outgoing message")
        reader.constant(0, 1, "kind of message")
        reader.constant(1, 1, "ihr_disabled")
        bounce = reader.flag()
        reader.constant(0, 3, "bounced and source")
        destination, value = reader.address(), reader.coins()
        reader.constant(0, 1 + 4 + 4 + 64 + 32, "extra currencies, fees, lt and at")
        init = None
        if reader.flag():
            reader.constant(1, 1, "form of the initial state")
            init = StateInit.from_cell(reader.ref())
        body = reader.maybe_ref()
        reader.end()
        return cls(destination, value, body, init, bounce)


def internal_message(
    *,
    source: Address | None,
    destination: Address,
    value: int,
    body: Cell | None = None,
    init: StateInit | None = None,
    bounce: bool | None = None,
    created_lt: int = 0,
    created_at: int = 0,
) -> Cell:
    """An internal message: ``value`` in nanotons, ``created_at`` in Unix seconds; raises ``LayoutError``."""
    writer = (
        Writer("internal message").uint(0, 1).uint(1, 1).flag(init is None if bounce is None else bounce).uint(0, 1)
    )
    writer.address(source).address(destination).coins(value)
    writer.uint(0, 1).coins(0).coins(0).uint(created_lt, 64).uint(created_at, 32)
    return _finish(writer, init, body)


def external_message(destination: Address, body: Cell, init: StateInit | None = None) -> Cell:
    """An external message to an account, with the state to deploy it if it is not there yet (6.3)."""
    writer = Writer("external message").uint(0b10, 2).address(None).address(destination).coins(0)
    return _finish(writer, init, body)


def _finish(writer: Writer, init: StateInit | None, body: Cell | None) -> Cell:
    if init is None:
        writer.uint(0, 1)
    else:
        writer.uint(0b11, 2).ref(init.to_cell())
    return writer.maybe_ref(body).end()


@dataclass(frozen=True, slots=True)
class WalletRequest:
    """Body of an external message to a node wallet (6.3): up to four messages, each with its mode.

    ``valid_until`` in Unix seconds. ``signature`` (64 bytes) is over the hash of the same cell without it.
    """

    seqno: int
    valid_until: int
    messages: tuple[tuple[int, Cell], ...] = field(repr=False)
    subwallet: int = 0
    signature: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.messages) <= MAX_WALLET_MESSAGES:
            raise LayoutError(f"a wallet request has {len(self.messages)} messages, expected 1 to 4")

    @classmethod
    def of(cls, seqno: int, valid_until: int, messages: tuple[OutgoingMessage, ...]) -> WalletRequest:
        """A request as the reference runner makes it: mode 0, or 1 for a message of at most one nanoton."""
        modes = tuple((MODE_PAY_FEES_APART if message.value <= 1 else 0, message.to_cell()) for message in messages)
        return cls(seqno, valid_until, modes)

    def unsigned(self) -> Cell:
        """The cell that is signed."""
        return self._write(Writer("wallet request"))

    def sign(self, key: Ed25519PrivateKey) -> WalletRequest:
        """The same request with the node key's signature."""
        return replace(self, signature=key.sign(self.unsigned().hash))

    def to_cell(self) -> Cell:
        """The body; raises ``LayoutError`` when it is not signed."""
        return self._write(Writer("wallet request").raw(self.signature, 64))

    def _write(self, writer: Writer) -> Cell:
        writer.uint(self.subwallet, 32).uint(self.valid_until, 32).uint(self.seqno, 32)
        for mode, message in self.messages:
            writer.uint(mode, 8).ref(message)
        return writer.end()

    @classmethod
    def from_cell(cls, cell: Cell) -> WalletRequest:
        """Read a signed body; raises ``LayoutError``."""
        reader = Reader(cell, "wallet request")
        signature = reader.raw(64)
        subwallet, valid_until, seqno = reader.uint(32), reader.uint(32), reader.uint(32)
        messages = []
        while reader.references_left:
            messages.append((reader.uint(8), reader.ref()))
        reader.end()
        return cls(seqno, valid_until, tuple(messages), subwallet, signature)
