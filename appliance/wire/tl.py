"""TL, the scheme language: text in, constructors with their ids out.

Only what the protocol uses is understood (specification, section 1.7): the built-in types, lower-case vectors, bare and
boxed references, and conditional fields over a preceding ``flags:#``. Anything else is a :class:`SchemaError`.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FUNCTIONS_MARK: Final = "---functions---"

BOOL_TRUE: Final = 0x997275B5  # section 1.7
BOOL_FALSE: Final = 0xBC799737

# Bytes of the built-in types of one size (section 1.7); "Bool" is a bare constructor id, "#" an i32.
FIXED_SIZES: Final[Mapping[str, int]] = {
    "#": 4, "int": 4, "long": 8, "double": 8, "int128": 16, "int256": 32, "Bool": 4,
}  # fmt: skip
_BLOBS: Final = frozenset({"string", "bytes"})

_COMBINATOR: Final = re.compile(
    r"(?P<name>[a-zA-Z][\w.]*)(?:#(?P<id>[0-9a-f]{1,8}))?(?P<fields>.*)=\s*(?P<result>[\w.]+)", re.DOTALL
)
_FIELD: Final = re.compile(
    r"(?P<name>\w+):(?:flags\.(?P<bit>\d+)\?)?(?P<type>\(vector [\w.]+\)|vector [\w.]+|#|[\w.]+)"
)


class SchemaError(ValueError):
    """The scheme's text is wrong: a mistake in this source tree, never something a peer can cause."""


@dataclass(frozen=True, slots=True)
class TLType:
    """The type of a field.

    Attributes:
        name: A built-in's name, a constructor's (bare) or a result type's (boxed), or ``vector``.
        item: What a vector holds; ``None`` for every other type.
    """

    name: str
    item: TLType | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether it is a built-in of one size."""
        return self.name in FIXED_SIZES

    @property
    def is_blob(self) -> bool:
        """Whether it is ``string`` or ``bytes``: a length, the data, padding."""
        return self.name in _BLOBS

    @property
    def is_vector(self) -> bool:
        """Whether it is a vector: a count, then the elements."""
        return self.item is not None

    @property
    def is_boxed(self) -> bool:
        """Whether a constructor id comes first: the name after the last dot starts with an upper-case letter."""
        return self.name != "Bool" and self.name.rpartition(".")[2][0].isupper()


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of a constructor; ``bit`` is the flag that says it is there, ``None`` if it always is."""

    name: str
    type: TLType
    bit: int | None


@dataclass(frozen=True, slots=True)
class Constructor:
    """One line of the scheme.

    Attributes:
        name: As in the scheme, with its namespace.
        id: The number that announces it (CRC-32 of ``text``, or the explicit one).
        explicit: Whether the scheme gives the id.
        text: The normalised combinator.
        fields: In wire order.
        result: The type it makes, or, of a function, the type of its answer.
        is_function: Whether it is a query or request.
    """

    name: str
    id: int
    explicit: bool
    text: str
    fields: tuple[Field, ...]
    result: str
    is_function: bool

    @property
    def class_name(self) -> str:
        """Name of its class: ``worker.connectToProxy`` gives ``WorkerConnectToProxy``."""
        return "".join(part[0].upper() + part[1:] for part in self.name.split("."))


@dataclass(frozen=True, slots=True)
class Schema:
    """All constructors, by name, and the lookups that readers and writers need."""

    constructors: Mapping[str, Constructor]

    def __iter__(self) -> Iterator[Constructor]:
        return iter(self.constructors.values())

    def __len__(self) -> int:
        return len(self.constructors)

    def __getitem__(self, name: str) -> Constructor:
        return self.constructors[name]

    def of_type(self, result: str) -> tuple[Constructor, ...]:
        """The constructors (not functions) that make a boxed type."""
        found = tuple(c for c in self if c.result == result and not c.is_function)
        if not found:
            raise SchemaError(f"no constructor makes {result}")
        return found

    def minimum_size(self, kind: TLType) -> int:
        """The fewest bytes a value of this type takes; what a vector's count is held against."""
        if kind.is_fixed:
            return FIXED_SIZES[kind.name]
        if kind.is_blob or kind.is_vector:
            return 4
        if kind.is_boxed:
            return 4 + min(self._minimum_body(c) for c in self.of_type(kind.name))
        return self._minimum_body(self[kind.name])

    def holds_vector(self, constructor: Constructor) -> bool:
        """Whether a vector is among its fields or theirs."""
        return any(
            field.type.is_vector or any(self.holds_vector(inner) for inner in self.inner(field.type))
            for field in constructor.fields
        )

    def inner(self, kind: TLType) -> tuple[Constructor, ...]:
        """The constructors a value of this type may be made of, one level down."""
        if kind.item is not None:
            return self.inner(kind.item)
        if kind.is_fixed or kind.is_blob:
            return ()
        return self.of_type(kind.name) if kind.is_boxed else (self[kind.name],)

    def _minimum_body(self, constructor: Constructor) -> int:
        return sum(self.minimum_size(field.type) for field in constructor.fields if field.bit is None)


def constructor_id(text: str) -> int:
    """The id of a normalised combinator: its CRC-32 (section 1.7)."""
    return zlib.crc32(text.encode("ascii"))


def parse_schema(source: str) -> Schema:
    """Read a scheme.

    Args:
        source: Combinators, each closed by ``;``; ``//`` comments; functions after ``---functions---``.

    Returns:
        The constructors in the order of the text.

    Raises:
        SchemaError: A line is not understood, a name, an id or a class name comes twice, a type does not exist, a
            type contains itself, or a vector's element could take no bytes.
    """
    types, mark, functions = re.sub(r"//.*", "", source).partition(FUNCTIONS_MARK)
    if FUNCTIONS_MARK in functions:
        raise SchemaError(f"{mark} comes twice")
    found = [
        _combinator(text.strip(), is_function=part is functions)
        for part in (types, functions)
        for text in part.split(";")
        if text.strip()
    ]
    for what in ("name", "id", "class_name"):
        seen = [getattr(constructor, what) for constructor in found]
        if len(seen) != len(set(seen)):
            raise SchemaError(f"a constructor's {what} comes twice")
    schema = Schema({constructor.name: constructor for constructor in found})
    for constructor in found:
        _check(schema, constructor, ())
    return schema


def _combinator(text: str, *, is_function: bool) -> Constructor:
    match = _COMBINATOR.fullmatch(text)
    if match is None:
        raise SchemaError(f"not a combinator: {text[:80]}")
    fields = re.sub(r"\s+", " ", match["fields"]).strip()
    arguments = tuple(_field(part) for part in _FIELD.finditer(fields))
    if _FIELD.sub("", fields).strip():
        raise SchemaError(f"fields of {match['name']} are not understood: {fields[:80]}")
    normal = " ".join(part for part in (match["name"], re.sub(r"[()]", "", fields), "=", match["result"]) if part)
    explicit = match["id"] is not None
    number = int(match["id"], 16) if explicit else constructor_id(normal)
    return Constructor(match["name"], number, explicit, normal, arguments, match["result"], is_function)


def _field(match: re.Match[str]) -> Field:
    text = match["type"].strip("()")
    vector, _, item = text.rpartition(" ")
    kind = TLType("vector", TLType(item)) if vector else TLType(text)
    return Field(match["name"], kind, int(match["bit"]) if match["bit"] is not None else None)


def _check(schema: Schema, constructor: Constructor, above: tuple[str, ...]) -> None:
    """No type may contain itself: that is what bounds how deep a reader goes."""
    if constructor.name in above:
        raise SchemaError(f"{constructor.name} contains itself")
    seen_flags = False
    optional = False
    for field in constructor.fields:
        seen_flags = seen_flags or (field.name == "flags" and field.type.name == "#")
        if (field.bit is not None and not seen_flags) or (field.type.name == "#" and field.name != "flags"):
            raise SchemaError(f"{constructor.name}.{field.name}: a condition needs a flags:# before it")
        if optional and field.bit is None:
            raise SchemaError(f"{constructor.name}.{field.name}: a field follows an optional one")
        optional = field.bit is not None
        if field.type.item is not None and (field.type.item.is_vector or schema.minimum_size(field.type.item) == 0):
            raise SchemaError(f"{constructor.name}.{field.name}: an element has to take at least one byte")
        try:
            inner = schema.inner(field.type)
        except KeyError:
            raise SchemaError(f"{constructor.name}.{field.name}: no such type") from None
        for below in inner:
            _check(schema, below, (*above, constructor.name))
