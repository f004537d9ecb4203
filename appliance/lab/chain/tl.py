"""A small TL codec driven by schema text: enough for the liteserver's messages, strict on what it reads.

In: a text in TL, values as mappings from field names. Out: bytes, and back. Bytes from outside are bounded by the
caller's frame; every length is checked against what is left, and an object must use up its bytes. Layout:
https://core.telegram.org/mtproto/TL, with TON's ``mode.N?`` optional fields.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.lab.chain.errors import TlError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Value = Any
"""What a field holds: int, bool, bytes, str, list, or a mapping for an object (with ``@type`` where it is boxed)."""

_NUMBERS = {"int": "<i", "#": "<I", "long": "<q"}
_FIXED = {"int128": 16, "int256": 32}
_BOOL = {True: 0x997275B5, False: 0xBC799737}
_LINE = re.compile(
    r"^(?P<name>[\w.]+)(?:#(?P<id>[0-9a-f]{1,8}))?(?P<fields>(?: [^=]*)?) = (?P<result>[\w.]+)$", re.ASCII
)
_FIELD = re.compile(r"(\w+):(\([^)]*\)|\S+)")
_OPTIONAL = re.compile(r"^(\w+)\.(\d+)\?(.+)$")


@dataclass(frozen=True, slots=True)
class Field:
    """One field; ``flag`` names the field and the bit on which its presence depends."""

    name: str
    type: str
    flag: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Constructor:
    """One constructor or function of the schema."""

    name: str
    id: int
    fields: tuple[Field, ...]
    result: str


class Schema:
    """The constructors of a schema text: each ends with a semicolon, line breaks mean nothing."""

    def __init__(self, text: str) -> None:
        found = [_constructor(" ".join(part.split())) for part in text.split(";") if part.strip()]
        self.by_name = {constructor.name: constructor for constructor in found}
        self._by_id = {constructor.id: constructor for constructor in found}
        self._boxed = {constructor.result for constructor in found}

    def encode(self, name: str, **values: Value) -> bytes:
        """The boxed object ``name``; absent optional fields are left out."""
        return self._boxed_bytes({"@type": name, **values})

    def decode(self, data: bytes) -> dict[str, Value]:
        """A boxed object that uses up ``data``; its constructor is under ``@type``. Raises :class:`TlError`."""
        value, rest = self.decode_prefix(data)
        if rest:
            raise TlError(f"{value['@type']}: {len(rest)} bytes after the end, expected none")
        return value

    def decode_prefix(self, data: bytes) -> tuple[dict[str, Value], bytes]:
        """A boxed object at the start of ``data``, and the bytes after it. Raises :class:`TlError`."""
        cursor = _Cursor(data)
        value = self._read_boxed(cursor)
        return value, cursor.rest()

    def _boxed_bytes(self, value: Mapping[str, Value]) -> bytes:
        constructor = self.by_name[value["@type"]]
        return struct.pack("<I", constructor.id) + self._bare_bytes(constructor, value)

    def _bare_bytes(self, constructor: Constructor, value: Mapping[str, Value]) -> bytes:
        parts = []
        for field in constructor.fields:
            present = field.flag is None or value[field.flag[0]] >> field.flag[1] & 1
            if present and field.type != "true":
                parts.append(self._write(field.type, value[field.name]))
        return b"".join(parts)

    def _write(self, kind: str, value: Value) -> bytes:  # noqa: PLR0911 - one return a kind of field
        if kind in _NUMBERS:
            return struct.pack(_NUMBERS[kind], value)
        if kind in _FIXED:
            if len(value) != _FIXED[kind]:
                raise TlError(f"{len(value)} bytes for {kind}, expected {_FIXED[kind]}")
            return bytes(value)
        if kind == "Bool":
            return struct.pack("<I", _BOOL[bool(value)])
        if kind in {"bytes", "string"}:
            return _write_bytes(value.encode() if isinstance(value, str) else value)
        if kind.startswith("vector "):
            items = [self._write(kind.removeprefix("vector "), item) for item in value]
            return struct.pack("<I", len(items)) + b"".join(items)
        if kind in self.by_name:
            return self._bare_bytes(self.by_name[kind], value)
        return self._boxed_bytes(value)

    def _read_boxed(self, cursor: _Cursor) -> dict[str, Value]:
        identifier = cursor.number("<I")
        constructor = self._by_id.get(identifier)
        if constructor is None:
            raise TlError(f"unknown constructor 0x{identifier:08x}")
        return self._read_bare(constructor, cursor)

    def _read_bare(self, constructor: Constructor, cursor: _Cursor) -> dict[str, Value]:
        value: dict[str, Value] = {"@type": constructor.name}
        for field in constructor.fields:
            present = field.flag is None or value[field.flag[0]] >> field.flag[1] & 1
            if field.type == "true":
                value[field.name] = bool(present)
            elif present:
                value[field.name] = self._read(field.type, cursor)
        return value

    def _read(self, kind: str, cursor: _Cursor) -> Value:  # noqa: PLR0911 - one return a kind of field
        if kind in _NUMBERS:
            return cursor.number(_NUMBERS[kind])
        if kind in _FIXED:
            return cursor.take(_FIXED[kind])
        if kind == "Bool":
            return cursor.boolean()
        if kind == "bytes":
            return cursor.string()
        if kind == "string":
            return cursor.string().decode(errors="replace")
        if kind.startswith("vector "):
            item = kind.removeprefix("vector ")
            count = cursor.number("<I")
            if count > cursor.left // 4:  # no item is smaller than four bytes
                raise TlError(f"a vector of {count} items in {cursor.left} bytes")
            return [self._read(item, cursor) for _ in range(count)]
        if kind in self.by_name:
            return self._read_bare(self.by_name[kind], cursor)
        if kind not in self._boxed:
            raise TlError(f"no reader for {kind}")
        return self._read_boxed(cursor)


class _Cursor:
    """Reads bytes and never runs over their end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise TlError(f"{self.left} bytes left, expected {count}")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def boolean(self) -> bool:
        identifier = self.number("<I")
        if identifier not in _BOOL.values():
            raise TlError(f"constructor 0x{identifier:08x}, expected a Bool")
        return identifier == _BOOL[True]

    def string(self) -> bytes:
        count, head = self.take(1)[0], 1
        if count == 254:
            count, head = int.from_bytes(self.take(3), "little"), 4
        elif count == 255:
            raise TlError("a string with a 7-byte length, expected at most 3")
        value = self.take(count)
        self.take(-(count + head) % 4)
        return value

    def rest(self) -> bytes:
        return self._data[self._at :]


def _write_bytes(value: bytes) -> bytes:
    head = bytes([len(value)]) if len(value) < 254 else b"\xfe" + len(value).to_bytes(3, "little")
    return head + value + bytes(-(len(head) + len(value)) % 4)


def _constructor(line: str) -> Constructor:
    match = _LINE.match(line)
    if match is None:
        raise TlError(f"not a constructor in TL: {line}")
    plain = line.replace("(", "").replace(")", "")
    identifier = int(match["id"], 16) if match["id"] else zlib.crc32(plain.encode())
    return Constructor(match["name"], identifier, tuple(_fields(match["fields"])), match["result"])


def _fields(text: str) -> Iterable[Field]:
    for name, kind in _FIELD.findall(text):
        optional = _OPTIONAL.match(kind)
        flag = (optional[1], int(optional[2])) if optional else None
        yield Field(name, (optional[3] if optional else kind).strip("()"), flag)
