"""Bytes to messages and back.

Strict on reading: the object has to be complete, its last byte the last of the data, its constructor known and of the
expected type; lengths are in their shortest form, padding is zero, a Bool is one of its two ids, ``flags`` are not
negative, and a vector announces no more elements than the bytes that are left could hold (nor more than
``primitives.MAX_ELEMENTS`` in all). Unknown flag bits are kept: they are part of ``flags`` and go out as they came.

Lenient in one thing, because one odd character in an error text must not cost a link that carries hundreds of requests:
invalid UTF-8 in a ``string`` becomes U+FFFD (the reference cuts it) and NUL a blank (as the reference does). Nothing is
trusted because of such a string, and on writing both are refused. So: whatever ``decode`` accepts, ``encode`` writes
again, byte for byte unless a string was repaired.
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar, overload

from appliance.wire.base import TLObject
from appliance.wire.errors import CodecError, EncodeError, UnknownConstructorError
from appliance.wire.messages import CLASSES
from appliance.wire.readers import compile_readers
from appliance.wire.schema import SCHEMA
from appliance.wire.writers import compile_writers

ObjectT = TypeVar("ObjectT", bound=TLObject)

_READERS: Final = compile_readers(SCHEMA, CLASSES)
_WRITERS: Final = compile_writers(SCHEMA, CLASSES)
_read_id: Final = struct.Struct("<I").unpack_from


def encode(obj: TLObject) -> bytes:
    """Write an object in its boxed form.

    Args:
        obj: The object; it is not changed.

    Returns:
        The constructor id and the fields; a multiple of four bytes.

    Raises:
        EncodeError: A field holds what its type cannot say: a number out of range, raw bytes of the wrong size, a
            string with NUL or a lone surrogate, optional fields that do not agree with ``flags``.
    """
    parts: list[bytes] = []
    try:
        _WRITERS[type(obj)](obj, parts.append)
        return b"".join(parts)
    except (KeyError, TypeError, AttributeError, OverflowError, UnicodeError, struct.error) as error:
        # Not chained: a UnicodeError carries the text it failed on, and texts are not ours to log.
        reason = type(error).__name__ if isinstance(error, UnicodeError) else f"{type(error).__name__}: {error}"
        message = f"{type(obj).__name__} cannot be written ({reason})"
        raise EncodeError(message, hint="look at the types and ranges in appliance.wire.schema") from None


@overload
def decode(data: bytes | bytearray | memoryview, expected: None = None) -> TLObject: ...


@overload
def decode(data: bytes | bytearray | memoryview, expected: type[ObjectT] | tuple[type[ObjectT], ...]) -> ObjectT: ...


def decode(
    data: bytes | bytearray | memoryview,
    expected: type[TLObject] | tuple[type[TLObject], ...] | None = None,
) -> TLObject:
    """Read a boxed object that fills the data.

    Args:
        data: From anyone.
        expected: The class, or the classes, it has to be of; any by default.

    Returns:
        The object; it shares no memory with ``data`` unless that is ``bytes``.

    Raises:
        UnknownConstructorError: The id is not in the table.
        CodecError: Anything else is wrong; nothing else is ever raised for bytes.
    """
    buffer = data if type(data) is bytes else bytes(data)
    try:
        (constructor,) = _read_id(buffer)
        reader = _READERS.get(constructor)
        if reader is None:
            raise UnknownConstructorError(constructor)
        made, end = reader(buffer, 4)
    except (struct.error, IndexError):
        raise CodecError(f"the bytes end inside an object ({len(buffer)} seen)") from None
    if end != len(buffer):
        what = "trailing" if end < len(buffer) else "missing"
        raise CodecError(f"{abs(len(buffer) - end)} bytes are {what} after {type(made).__name__} ({len(buffer)} seen)")
    if expected is not None and not isinstance(made, expected):
        raise CodecError(f"a {type(made).__name__} was sent, expected {_names(expected)}")
    return made


def _names(expected: type[TLObject] | tuple[type[TLObject], ...]) -> str:
    return " or ".join(cls.__name__ for cls in (expected if isinstance(expected, tuple) else (expected,)))
