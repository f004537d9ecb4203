"""Readers made from the table: one function for each constructor, as straight-line Python.

Comes in: the schema and the classes. Goes out: functions from bytes to objects. This path carries every token of every
answer, so the functions are made once, at import, the way a person would write them for speed: neighbouring fields of
fixed size become one precompiled ``struct`` (bare inner objects of fixed fields are part of it, and so is the length
byte of a string that follows), strings are cut in line, and objects are filled as plain slots and then given their
frozen class, which costs a third of ``object.__setattr__`` for every field.

No reader recurses without bound: the schema has no type that contains itself (``appliance.wire.tl`` checks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from appliance.wire import primitives
from appliance.wire.source import FORMATS, Run, Source, is_flat, table_name
from appliance.wire.tl import BOOL_FALSE, BOOL_TRUE, Constructor, Field, Schema, TLType

if TYPE_CHECKING:
    from appliance.wire.base import TLObject

Reader = Callable[[bytes, int], tuple["TLObject", int]]


def compile_readers(schema: Schema, classes: Mapping[int, type[TLObject]]) -> dict[int, Reader]:
    """A reader of the body (after the id) for each constructor, by id."""
    source = Source()
    for constructor in schema:
        cls = classes[constructor.id]
        source.names[f"C_{constructor.class_name}"] = cls
        source.names[f"D_{constructor.class_name}"] = _draft(cls, constructor)
        _ReaderOf(schema, constructor, source).write()
    made = source.execute("reader")
    for result in sorted({c.result for c in schema}):
        members = [c for c in schema if c.result == result and not c.is_function]
        made[table_name(result)] = {c.id: made[f"r_{c.class_name}"] for c in members}
    return {c.id: made[f"r_{c.class_name}"] for c in schema}


def _draft(cls: type[TLObject], constructor: Constructor) -> type:
    """A mutable twin with the same slots; an instance becomes the frozen class by assigning ``__class__``."""
    names = tuple(f.name for f in constructor.fields)
    body = "".join(f"\n    self.{name} = {name}" for name in names) or "\n    pass"
    space: dict[str, Any] = {}
    exec(f"def __init__({', '.join(('self', *names))}):{body}", space)  # noqa: S102 -- field names of the table only
    return type(f"Draft{cls.__name__}", cls.__bases__, {"__slots__": names, "__init__": space["__init__"]})


@dataclass(slots=True)
class _ReaderOf:
    """Writes the text of one constructor's reader."""

    schema: Schema
    constructor: Constructor
    source: Source
    run: Run = field(default_factory=Run)

    def write(self) -> None:
        add, name = self.source.add, self.constructor.class_name
        add(f"def r_{name}(b, p, room=None):")
        self.source.depth += 1
        if self.schema.holds_vector(self.constructor):
            add("if room is None:", "    room = [MAX_ELEMENTS]")
        for bit, group in groupby(self.constructor.fields, key=lambda f: f.bit):
            self._group(bit, list(group))
        self._flush()
        add(f"o = D_{name}({', '.join('f_' + f.name for f in self.constructor.fields)})")
        add(f"o.__class__ = C_{name}", "return o, p")
        self.source.depth -= 1

    def _group(self, bit: int | None, fields: list[Field]) -> None:
        if bit is not None:
            self._flush()
            self.source.add(f"if f_flags & {1 << bit}:")
            self.source.depth += 1
        for f in fields:
            self._value(f.type, f"f_{f.name}", f"{self.constructor.name}.{f.name}")
        if bit is not None:
            self._flush()
            self.source.depth -= 1
            self.source.add("else:", f"    {' = '.join('f_' + f.name for f in fields)} = None")

    def _flush(self, *, keep_last: bool = False) -> None:
        """Emit the run; with ``keep_last`` the position stays at its last field, a string's length byte."""
        run, self.run = self.run, Run()
        if not run.code:
            return
        if run.code == "B":
            self.source.add(f"{run.targets[0]} = b[p]")
            return
        stem, size = self.source.struct(run.code)
        self.source.add(f"{', '.join(run.targets)}, = U_{stem}(b, p)", f"p += {size - keep_last}", *run.around)

    def _value(self, kind: TLType, target: str, where: str) -> None:
        if kind.is_fixed:
            self._fixed(kind, target, where)
        elif kind.is_blob:
            self._blob(kind, target, where)
        elif kind.item is not None:
            self._vector(kind.item, target, where)
        elif kind.is_boxed:
            number = self.source.name()
            self.run.take("I", number)
            self._flush()
            self.source.add(f"r = {table_name(kind.name)}.get({number})", "if r is None:")
            self.source.add(f"    bad_box({number}, {where!r})", f"{target}, p = r(b, p, room)")
        else:
            self._bare(self.schema[kind.name], target)

    def _fixed(self, kind: TLType, target: str, where: str) -> None:
        if kind.name == "Bool":
            number = self.source.name()
            self.run.take("I", number, f"if {number} == {BOOL_TRUE}:", f"    {target} = True")
            self.run.around += [f"elif {number} == {BOOL_FALSE}:", f"    {target} = False"]
            self.run.around += ["else:", f"    bad_bool({number}, {where!r})"]
        else:
            self.run.take(FORMATS[kind.name], target)
            if kind.name == "#":
                self.run.around += [f"if {target} < 0:", f"    bad_flags({target}, {where!r})"]

    def _blob(self, kind: TLType, target: str, where: str) -> None:
        self.run.take("B", "n")
        self._flush(keep_last=True)
        self.source.add(
            f"if n < {primitives.SHORT_LIMIT}:",
            "    s = p + 1",
            "    e = s + n",
            "    p += (n + 4) & -4",
            "else:",
            "    s, e, p = long_span(b, p)",
            "if e != p and b[e:p] != PADDING[p - e]:",
            f"    bad_padding(b, p, {where!r})",
        )
        if kind.name == "bytes":
            self.source.add(f"{target} = b[s:e]")
        else:
            self.source.add(f"{target} = b[s:e].decode('utf-8', 'replace')", f"if '\\0' in {target}:")
            self.source.add(f"    {target} = {target}.replace('\\0', ' ')")

    def _vector(self, item: TLType, target: str, where: str) -> None:
        count, items, element = self.source.name(), self.source.name(), self.source.name()
        self.run.take("I", count)
        self._flush()
        least = self.schema.minimum_size(item)
        self.source.add(
            f"room[0] -= {count}",
            f"if room[0] < 0 or {count} * {least} > len(b) - p:",
            f"    bad_count({count}, len(b) - p, {where!r})",
            f"{items} = []",
            f"for _ in range({count}):",
        )
        self.source.depth += 1
        self._value(item, element, where)
        self._flush()
        self.source.add(f"{items}.append({element})")
        self.source.depth -= 1
        self.source.add(f"{target} = tuple({items})")

    def _bare(self, inner: Constructor, target: str) -> None:
        if not is_flat(inner):
            self._flush()
            self.source.add(f"{target}, p = r_{inner.class_name}(b, p, room)")
            return
        names = [self.source.name() for _ in inner.fields]
        for f, name in zip(inner.fields, names, strict=True):
            self._fixed(f.type, name, f"{inner.name}.{f.name}")
        self.run.around.append(f"{target} = D_{inner.class_name}({', '.join(names)})")
        self.run.around.append(f"{target}.__class__ = C_{inner.class_name}")
