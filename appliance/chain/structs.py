"""Layouts declared as dataclasses.

A subclass of :class:`Struct` lists its fields in wire order, each annotated with one of the types below; ``to_cell``
and ``from_cell`` follow from that, so a layout is written once. Notation: protocol specification, head of section 6.

::

    @dataclass(frozen=True, slots=True)
    class WorkerRegister(Struct):
        TAG = (0x26ED7F65, 32)
        query_id: Uint64
        send_excesses_to: Account
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, Self, cast, get_args, get_type_hints

from pytoniq_core.boc.cell import Cell

from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer


class FieldCodec(Protocol):
    """How one field is read and written."""

    def read(self, reader: Reader) -> object:
        """Take the field's value off ``reader``."""
        ...

    def write(self, writer: Writer, value: Any) -> None:
        """Append the field's value."""
        ...


@dataclass(frozen=True, slots=True)
class UintCodec:
    """``uintN``; ``size`` in bits."""

    size: int

    def read(self, reader: Reader) -> int:
        """The number."""
        return reader.uint(self.size)

    def write(self, writer: Writer, value: int) -> None:
        """The number."""
        writer.uint(value, self.size)


@dataclass(frozen=True, slots=True)
class BytesCodec:
    """``bitsN`` as bytes; ``size`` in bytes."""

    size: int

    def read(self, reader: Reader) -> bytes:
        """The bytes."""
        return reader.raw(self.size)

    def write(self, writer: Writer, value: bytes) -> None:
        """The bytes."""
        writer.raw(value, self.size)


class BoolCodec:
    """``Bool``."""

    def read(self, reader: Reader) -> bool:
        """The bit."""
        return reader.flag()

    def write(self, writer: Writer, value: bool) -> None:
        """The bit."""
        writer.flag(value)


class CoinsCodec:
    """``Coins``, in nanotons."""

    def read(self, reader: Reader) -> int:
        """The amount."""
        return reader.coins()

    def write(self, writer: Writer, value: int) -> None:
        """The amount."""
        writer.coins(value)


class AddressCodec:
    """``MsgAddress`` that is an account."""

    def read(self, reader: Reader) -> Address:
        """The account."""
        return reader.address()

    def write(self, writer: Writer, value: Address) -> None:
        """The account."""
        writer.address(value)


class RefCodec:
    """``^Cell``."""

    def read(self, reader: Reader) -> Cell:
        """The reference."""
        return reader.ref()

    def write(self, writer: Writer, value: Cell) -> None:
        """The reference."""
        writer.ref(value)


class MaybeRefCodec:
    """``Maybe ^Cell``."""

    def read(self, reader: Reader) -> Cell | None:
        """The reference, if there is one."""
        return reader.maybe_ref()

    def write(self, writer: Writer, value: Cell | None) -> None:
        """The reference, if there is one."""
        writer.maybe_ref(value)


@dataclass(frozen=True, slots=True)
class NestedCodec:
    """Another structure, inline or (``^``) in a cell of its own."""

    kind: type[Struct]
    in_reference: bool

    def read(self, reader: Reader) -> Struct:
        """The structure."""
        return self.kind.from_cell(reader.ref()) if self.in_reference else self.kind.read(reader)

    def write(self, writer: Writer, value: Struct) -> None:
        """The structure."""
        if self.in_reference:
            writer.ref(value.to_cell())
        else:
            value.write(writer)


Uint2 = Annotated[int, UintCodec(2)]
Uint8 = Annotated[int, UintCodec(8)]
Uint32 = Annotated[int, UintCodec(32)]
Uint64 = Annotated[int, UintCodec(64)]
Bits256 = Annotated[bytes, BytesCodec(32)]
Flag = Annotated[bool, BoolCodec()]
Coins = Annotated[int, CoinsCodec()]
Account = Annotated[Address, AddressCodec()]
Reference = Annotated[Cell, RefCodec()]
MaybeReference = Annotated[Cell | None, MaybeRefCodec()]


@dataclass(frozen=True, slots=True)
class Struct:
    """Base of declared layouts. ``TAG`` is a constant in front of the fields: (value, bits)."""

    TAG: ClassVar[tuple[int, int] | None] = None

    @classmethod
    def from_cell(cls, cell: Cell) -> Self:
        """Read a cell that holds exactly this structure; raises ``LayoutError``."""
        reader = Reader(cell, cls.__name__)
        value = cls.read(reader)
        reader.end()
        return value

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take the structure off ``reader``; raises ``LayoutError``."""
        if cls.TAG is not None:
            reader.constant(*cls.TAG, "operation")
        return cls(**{name: codec.read(reader) for name, codec in _plan(cast("Any", cls))})

    def to_cell(self) -> Cell:
        """The structure as a cell; raises ``LayoutError`` when a value does not fit its field."""
        writer = Writer(type(self).__name__)
        self.write(writer)
        return writer.end()

    def write(self, writer: Writer) -> None:
        """Append the structure."""
        if self.TAG is not None:
            writer.uint(*self.TAG)
        for name, codec in _plan(cast("Any", type(self))):
            codec.write(writer, getattr(self, name))


@cache
def _plan(kind: type[Any]) -> tuple[tuple[str, FieldCodec], ...]:
    """The fields of a structure in wire order with their codecs."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, get_args(hints[field.name])[1]) for field in fields(kind))
