"""Hypothesis strategies for every constructor, derived from the table that the codec is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from appliance.wire.messages import CLASSES
from appliance.wire.schema import SCHEMA

if TYPE_CHECKING:
    from appliance.wire.base import TLObject
    from appliance.wire.tl import Constructor, TLType

INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)

# Lengths around the places where the form of a length or the padding changes.
BLOB = st.one_of(
    st.binary(max_size=12), st.sampled_from([252, 253, 254, 255, 256, 257, 1000]).map(lambda n: b"\xa5" * n)
)
TEXT = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
    st.sampled_from([253, 254, 300]).map(lambda n: "x" * n),
)

_BUILT_IN: dict[str, st.SearchStrategy[Any]] = {
    "int": INT,
    "long": LONG,
    "double": st.floats(width=64),
    "int128": st.binary(min_size=16, max_size=16),
    "int256": st.binary(min_size=32, max_size=32),
    "string": TEXT,
    "bytes": BLOB,
    "Bool": st.booleans(),
}


def of_type(kind: TLType) -> st.SearchStrategy[Any]:
    if kind.item is not None:
        return st.lists(of_type(kind.item), max_size=3).map(tuple)
    if kind.name in _BUILT_IN:
        return _BUILT_IN[kind.name]
    return st.one_of([objects(inner) for inner in SCHEMA.inner(kind)])


def objects(constructor: Constructor) -> st.SearchStrategy[TLObject]:
    """Objects of one constructor; ``flags`` may have any bits, and the optional fields agree with them."""
    cls = CLASSES[constructor.id]
    known = 0
    for field in constructor.fields:
        known |= 1 << field.bit if field.bit is not None else 0

    @st.composite
    def build(draw: st.DrawFn) -> TLObject:
        values: dict[str, Any] = {}
        for field in constructor.fields:
            if field.type.name == "#":
                chosen = draw(st.integers(0, 2**31 - 1))
                # Mostly small numbers, so that both states of every bit come up often.
                values[field.name] = draw(st.sampled_from([chosen, chosen & known, chosen & known, known]))
            elif field.bit is None or values["flags"] >> field.bit & 1:
                values[field.name] = draw(of_type(field.type))
            else:
                values[field.name] = None
        return cls(**values)

    return build()


ANY_OBJECT = st.sampled_from(list(SCHEMA)).flatmap(objects)
