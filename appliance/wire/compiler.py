"""Turns the table into functions: one reader and one writer for each constructor, as straight-line Python.

Comes in: the schema and the classes. Goes out: two dictionaries of functions. This path carries every token of every
answer, so the functions are made once, at import, the way a person would write them for speed: neighbouring fields of
fixed size become one precompiled ``struct`` (bare inner objects of fixed fields are part of it, and so is the length
byte of a string that follows), strings are cut in line, and objects are filled as plain slots and then given their
frozen class, which costs a third of ``object.__setattr__`` for every field.

In the made text ``b`` is the buffer, ``p`` the position, ``o`` the object, ``out`` collects bytes and ``room`` counts
down the elements that vectors may still have. No reader recurses without bound: the schema has no type that contains
itself (``appliance.wire.tl`` checks).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from appliance.wire import primitives
from appliance.wire.tl import BOOL_FALSE, BOOL_TRUE, FIXED_SIZES, Constructor, Field, Schema, TLType

if TYPE_CHECKING:
    from appliance.wire.base import TLObject

Reader = Callable[[bytes, int], tuple["TLObject", int]]
Writer = Callable[["TLObject", Callable[[bytes], None]], None]

_FORMATS: Final = {"#": "i", "int": "i", "long": "q", "double": "d", "int128": "16s", "int256": "32s", "Bool": "I"}
_RAW: Final = frozenset({"int128", "int256"})


def compile_readers(schema: Schema, classes: Mapping[int, type[TLObject]]) -> dict[int, Reader]:
    """A reader of the body (after the id) for each constructor, by id."""
    source = _Source()
    for constructor in schema:
        cls = classes[constructor.id]
        source.names[f"C_{constructor.class_name}"] = cls
        source.names[f"D_{constructor.class_name}"] = _draft(cls, constructor)
        _ReaderOf(schema, constructor, source).write()
    made = source.execute("reader")
    for result in sorted({c.result for c in schema}):
        members = [c for c in schema if c.result == result and not c.is_function]
        made[_table(result)] = {c.id: made[f"r_{c.class_name}"] for c in members}
    return {c.id: made[f"r_{c.class_name}"] for c in schema}


def compile_writers(schema: Schema, classes: Mapping[int, type[TLObject]]) -> dict[type[TLObject], Writer]:
    """A writer of the boxed form for each class."""
    source = _Source()
    for constructor in schema:
        _WriterOf(schema, constructor, source).write(boxed=True)
        _WriterOf(schema, constructor, source).write(boxed=False)
    made = source.execute("writer")
    for result in sorted({c.result for c in schema}):
        members = [c for c in schema if c.result == result and not c.is_function]
        made[_table(result)] = {classes[c.id]: made[f"w_{c.class_name}"] for c in members}
    return {classes[c.id]: made[f"w_{c.class_name}"] for c in schema}


def _table(result: str) -> str:
    return "T_" + result.replace(".", "_")


def _draft(cls: type[TLObject], constructor: Constructor) -> type:
    """A mutable twin with the same slots; an instance becomes the frozen class by assigning ``__class__``."""
    names = tuple(f.name for f in constructor.fields)
    body = "".join(f"\n    self.{name} = {name}" for name in names) or "\n    pass"
    space: dict[str, Any] = {}
    exec(f"def __init__({', '.join(('self', *names))}):{body}", space)  # noqa: S102 -- field names of the table only
    return type(f"Draft{cls.__name__}", cls.__bases__, {"__slots__": names, "__init__": space["__init__"]})


def _is_flat(constructor: Constructor) -> bool:
    """Whether all its fields are of fixed size and always there, so that it can be part of a run."""
    return bool(constructor.fields) and all(f.type.is_fixed and f.bit is None for f in constructor.fields)


@dataclass(slots=True)
class _Source:
    """Python text that grows, and the names it may use."""

    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=lambda: dict(vars(primitives)))
    depth: int = 0
    fresh: int = 0

    def add(self, *lines: str) -> None:
        self.lines.extend("    " * self.depth + line for line in lines)

    def name(self) -> str:
        self.fresh += 1
        return f"v{self.fresh}"

    def struct(self, code: str) -> tuple[str, int]:
        """The name stem of a compiled struct (``P_…`` packs, ``U_…`` unpacks at an offset), and its size."""
        compiled = struct.Struct("<" + code)
        self.names[f"P_{code}"] = compiled.pack
        self.names[f"U_{code}"] = compiled.unpack_from
        return code, compiled.size

    def execute(self, what: str) -> dict[str, Any]:
        made = compile("\n".join(self.lines), f"<{what}s of appliance.wire.schema>", "exec")
        exec(made, self.names)  # noqa: S102 -- made from the committed table alone; nothing from outside reaches it
        return self.names


@dataclass(slots=True)
class _Run:
    """Neighbouring fields of fixed size, to be one struct.

    Attributes:
        code: The struct's letters.
        targets: The names that unpacking fills, or the expressions that packing takes.
        around: Statements to follow the unpacking, or to precede the packing: checks and conversions.
    """

    code: str = ""
    targets: list[str] = field(default_factory=list)
    around: list[str] = field(default_factory=list)

    def take(self, code: str, target: str, *around: str) -> None:
        self.code += code
        self.targets.append(target)
        self.around.extend(around)


@dataclass(slots=True)
class _ReaderOf:
    """Writes the text of one constructor's reader."""

    schema: Schema
    constructor: Constructor
    source: _Source
    run: _Run = field(default_factory=_Run)

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
        run, self.run = self.run, _Run()
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
            self.source.add(f"r = {_table(kind.name)}.get({number})", "if r is None:")
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
            self.run.take(_FORMATS[kind.name], target)
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
        if not _is_flat(inner):
            self._flush()
            self.source.add(f"{target}, p = r_{inner.class_name}(b, p, room)")
            return
        names = [self.source.name() for _ in inner.fields]
        for f, name in zip(inner.fields, names, strict=True):
            self._fixed(f.type, name, f"{inner.name}.{f.name}")
        self.run.around.append(f"{target} = D_{inner.class_name}({', '.join(names)})")
        self.run.around.append(f"{target}.__class__ = C_{inner.class_name}")


@dataclass(slots=True)
class _WriterOf:
    """Writes the text of one constructor's writer: ``w_…`` boxed, ``n_…`` bare."""

    schema: Schema
    constructor: Constructor
    source: _Source
    run: _Run = field(default_factory=_Run)

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
        run, self.run = self.run, _Run()
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
            self.source.add(f"{name} = {value}", f"w = {_table(kind.name)}.get(type({name}))", "if w is None:")
            self.source.add(f"    bad_variant({name}, {where!r})", f"w({name}, out, room)")
        else:
            self._bare(self.schema[kind.name], value)

    def _fixed(self, kind: TLType, value: str, where: str) -> None:
        name = self.source.name()
        if kind.name in _RAW:
            size = FIXED_SIZES[kind.name]
            self.run.take(_FORMATS[kind.name], name, f"{name} = {value}", f"if len({name}) != {size}:")
            self.run.around.append(f"    bad_size(len({name}), {size}, {where!r})")
        elif kind.name == "Bool":
            self.run.take("I", f"{BOOL_TRUE} if {name} else {BOOL_FALSE}", f"{name} = {value}")
            self.run.around += [f"if {name} is not True and {name} is not False:", f"    not_a_bool({name}, {where!r})"]
        elif kind.name == "#":
            self.run.take("i", name, f"{name} = {value}", f"if {name} < 0:", f"    negative_flags({name}, {where!r})")
        else:
            self.run.take(_FORMATS[kind.name], value)

    def _blob(self, kind: TLType, value: str, where: str) -> None:
        name = self.source.name()
        if kind.name == "bytes":
            self.source.add(f"{name} = {value}")
        else:
            self.source.add(f"{name} = {value}.encode()", f"if 0 in {name}:", f"    holds_nul({where!r})")
        run, self.run = self.run, _Run()
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
        if not _is_flat(inner):
            self._flush()
            self.source.add(f"n_{inner.class_name}({value}, out, room)")
            return
        name = self.source.name()
        self.run.around.append(f"{name} = {value}")
        for f in inner.fields:
            self._fixed(f.type, f"{name}.{f.name}", f"{inner.name}.{f.name}")
