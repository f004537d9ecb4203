"""Writers made from the table: one function for each constructor, the mirror of ``appliance.wire.readers``.

Comes in: the schema and the classes. Goes out: functions that hand the bytes of an object, piece by piece, to a
collector. They refuse what a reader would refuse or change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

from appliance.wire import primitives
from appliance.wire.source import FORMATS, Run, Source, is_flat, table_name
from appliance.wire.tl import BOOL_FALSE, BOOL_TRUE, FIXED_SIZES, Constructor, Field, Schema, TLType

if TYPE_CHECKING:
    from appliance.wire.base import TLObject

Writer = Callable[["TLObject", Callable[[bytes], None]], None]

_RAW: Final = frozenset({"int128", "int256"})


def compile_writers(schema: Schema, classes: Mapping[int, type[TLObject]]) -> dict[type[TLObject], Writer]:
    """A writer of the boxed form for each class."""
    source = Source()
    for constructor in schema:
        _WriterOf(schema, constructor, source).write(boxed=True)
        _WriterOf(schema, constructor, source).write(boxed=False)
    made = source.execute("writer")
    for result in sorted({c.result for c in schema}):
        members = [c for c in schema if c.result == result and not c.is_function]
        made[table_name(result)] = {classes[c.id]: made[f"w_{c.class_name}"] for c in members}
    return {classes[c.id]: made[f"w_{c.class_name}"] for c in schema}


@dataclass(slots=True)
class _WriterOf:
    """Writes the text of one constructor's writer: ``w_…`` boxed, ``n_…`` bare."""

    schema: Schema
    constructor: Constructor
    source: Source
    run: Run = field(default_factory=Run)

    def write(self, *, boxed: bool) -> None:
        add, constructor = self.source.add, self.constructor
        add(f"def {'w' if boxed else 'n'}_{constructor.class_name}(o, out, room=None):")
        self.source.depth += 1
        if boxed:
            self.run.take("I", str(constructor.id))
        if self.schema.holds_vector(constructor):
            add("if room is None:", "    room = [MAX_ELEMENTS]")
        for bit, group in groupby(constructor.fields, key=lambda f: f.bit):
            self._group(bit, list(group))
        self._flush()
        add("return None")
        self.source.depth -= 1

    def _group(self, bit: int | None, fields: list[Field]) -> None:
        for f in fields if bit is not None else ():
            self.source.add(f"f_{f.name} = o.{f.name}")
        if bit is not None:
            self._flush()
            missing = " or ".join(f"f_{f.name} is None" for f in fields)
            where = f"{self.constructor.name}.{fields[0].name}"
            self.source.add(
                f"if o.flags & {1 << bit}:", f"    if {missing}:", f"        bad_optional({where!r}, {bit})"
            )
            self.source.depth += 1
        for f in fields:
            value = f"o.{f.name}" if bit is None else f"f_{f.name}"
            self._value(f.type, value, f"{self.constructor.name}.{f.name}")
        if bit is not None:
            self._flush()
            self.source.depth -= 1
            present = " or ".join(f"f_{f.name} is not None" for f in fields)
            self.source.add(f"elif {present}:", f"    bad_optional({where!r}, {bit})")

    def _flush(self) -> None:
        run, self.run = self.run, Run()
        if run.code:
            stem, _ = self.source.struct(run.code)
            self.source.add(*run.around, f"out(P_{stem}({', '.join(run.targets)}))")

    def _value(self, kind: TLType, value: str, where: str) -> None:
        if kind.is_fixed:
            self._fixed(kind, value, where)
        elif kind.is_blob:
            self._blob(kind, value, where)
        elif kind.item is not None:
            self._vector(kind.item, value, where)
        elif kind.is_boxed:
            self._flush()
            name = self.source.name()
            self.source.add(f"{name} = {value}", f"w = {table_name(kind.name)}.get(type({name}))", "if w is None:")
            self.source.add(f"    bad_variant({name}, {where!r})", f"w({name}, out, room)")
        else:
            self._bare(self.schema[kind.name], value)

    def _fixed(self, kind: TLType, value: str, where: str) -> None:
        name = self.source.name()
        if kind.name in _RAW:
            size = FIXED_SIZES[kind.name]
            self.run.take(FORMATS[kind.name], name, f"{name} = {value}", f"if len({name}) != {size}:")
            self.run.around.append(f"    bad_size(len({name}), {size}, {where!r})")
        elif kind.name == "Bool":
            self.run.take("I", f"{BOOL_TRUE} if {name} else {BOOL_FALSE}", f"{name} = {value}")
            self.run.around += [f"if {name} is not True and {name} is not False:", f"    not_a_bool({name}, {where!r})"]
        elif kind.name == "#":
            self.run.take("i", name, f"{name} = {value}", f"if {name} < 0:", f"    negative_flags({name}, {where!r})")
        else:
            self.run.take(FORMATS[kind.name], value)

    def _blob(self, kind: TLType, value: str, where: str) -> None:
        name = self.source.name()
        if kind.name == "bytes":
            self.source.add(f"{name} = {value}")
        else:
            self.source.add(f"{name} = {value}.encode()", f"if 0 in {name}:", f"    holds_nul({where!r})")
        run, self.run = self.run, Run()
        together, alone = "out(SHORT_LENGTHS[n])", None
        if run.code:
            stem, _ = self.source.struct(run.code + "B")
            together = f"out(P_{stem}({', '.join([*run.targets, 'n'])}))"
            stem, _ = self.source.struct(run.code)
            alone = f"out(P_{stem}({', '.join(run.targets)}))"
        self.source.add(
            *run.around,
            f"n = len({name})",
            f"if n < {primitives.SHORT_LIMIT}:",
            f"    {together}",
            "    k = ~n & 3",
            "else:",
            *([f"    {alone}"] if alone else []),
            "    out(long_length(n))",
            "    k = -n & 3",
            f"out({name})",
            "if k:",
            "    out(PADDING[k])",
        )

    def _vector(self, item: TLType, value: str, where: str) -> None:
        name, element = self.source.name(), self.source.name()
        self.source.add(f"{name} = {value}", f"room[0] -= len({name})", "if room[0] < 0:")
        self.source.add(f"    too_many({where!r})")
        self.run.take("I", f"len({name})")
        self._flush()
        self.source.add(f"for {element} in {name}:")
        self.source.depth += 1
        self._value(item, element, where)
        self._flush()
        self.source.depth -= 1

    def _bare(self, inner: Constructor, value: str) -> None:
        if not is_flat(inner):
            self._flush()
            self.source.add(f"n_{inner.class_name}({value}, out, room)")
            return
        name = self.source.name()
        self.run.around.append(f"{name} = {value}")
        for f in inner.fields:
            self._fixed(f.type, f"{name}.{f.name}", f"{inner.name}.{f.name}")
