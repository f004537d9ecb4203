"""Writes ``messages.py`` from the table: ``python -m appliance.wire.generate [--check]``.

The classes are committed as source, so that editors and the type checker see them; a test makes the text again and
compares.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.wire.schema import SCHEMA

if TYPE_CHECKING:
    from appliance.wire.tl import Constructor, Field, Schema, TLType

TARGET: Final = Path(__file__).with_name("messages.py")

_PYTHON: Final = {
    "#": "int", "int": "int", "long": "int", "double": "float", "int128": "bytes", "int256": "bytes",
    "string": "str", "bytes": "bytes", "Bool": "bool",
}  # fmt: skip

_HEAD: Final = '''\
"""One frozen class for each constructor of the table.

Generated: edit ``schema.py``, then run ``python -m appliance.wire.generate``.
"""

# ruff: noqa: D205, D415 -- the docstrings are the scheme's own lines

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from appliance.wire.base import TLFunction, TLObject

if TYPE_CHECKING:
    from collections.abc import Mapping
'''


def python_type(schema: Schema, kind: TLType) -> str:
    """The annotation of a field's type."""
    if kind.item is not None:
        return f"tuple[{python_type(schema, kind.item)}, ...]"
    return _PYTHON.get(kind.name) or " | ".join(inner.class_name for inner in schema.inner(kind))


def render(schema: Schema) -> str:
    """The whole source of ``messages.py``."""
    types = [c for c in schema if not c.is_function]
    functions = [c for c in schema if c.is_function]
    blocks = [_HEAD, *(_render_class(schema, c) for c in (*types, *functions))]
    blocks.append(
        _render_map(
            "CLASSES",
            "Mapping[int, type[TLObject]]",
            "Every class by its constructor id.",
            [f"{c.class_name}.TL_ID: {c.class_name}," for c in schema],
        )
    )
    blocks.append(
        _render_map(
            "RESULT_OF",
            "Mapping[type[TLObject], tuple[type[TLObject], ...]]",
            "The classes a function's answer may have.",
            [_render_result(schema, c) for c in functions],
        )
    )
    return "\n\n".join(blocks)


def _render_class(schema: Schema, constructor: Constructor) -> str:
    base = "TLObject"
    if constructor.is_function:
        base = f"TLFunction[{' | '.join(c.class_name for c in schema.of_type(constructor.result))}]"
    head = f"class {constructor.class_name}({base}):"
    if len(head) > 110:
        head = f"class {constructor.class_name}(\n    {base}\n):"
    document = textwrap.wrap(
        f'"""``{constructor.text}``',
        width=104,
        subsequent_indent="",
        break_long_words=False,
        break_on_hyphens=False,
    )
    document = [document[0] + '"""'] if len(document) == 1 and len(document[0]) < 104 else [*document, '"""']
    lines = [
        "@dataclass(frozen=True, slots=True, repr=False)",
        head,
        *("    " + line for line in document),
        "",
        f"    TL_ID: ClassVar[int] = 0x{constructor.id:08X}",
        f'    TL_NAME: ClassVar[str] = "{constructor.name}"',
    ]
    if constructor.fields:
        lines += ["", *(_render_field(schema, field) for field in constructor.fields)]
    return "\n".join(lines) + "\n"


def _render_field(schema: Schema, field: Field) -> str:
    annotation = python_type(schema, field.type)
    line = f"    {field.name}: {annotation}" if field.bit is None else f"    {field.name}: {annotation} | None = None"
    if len(line) > 110:
        message = f"{field.name}: the annotation does not fit on a line"
        raise ValueError(message)
    return line


def _render_result(schema: Schema, constructor: Constructor) -> str:
    names = ", ".join(c.class_name for c in schema.of_type(constructor.result))
    comma = "," if "," not in names else ""
    line = f"{constructor.class_name}: ({names}{comma}),"
    if len(line) <= 98:
        return line
    inner = "\n            ".join(name + "," for name in names.split(", "))
    return f"{constructor.class_name}: (\n            {inner}\n        ),"


def _render_map(name: str, annotation: str, text: str, lines: list[str]) -> str:
    body = "\n".join(f"        {line}" for line in lines)
    return f"# {text}\n{name}: Final[{annotation}] = MappingProxyType(\n    {{\n{body}\n    }}\n)\n"


def main() -> int:
    """Write the file, or with ``--check`` say whether it is what the table gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    source = render(SCHEMA)
    if parser.parse_args().check:
        return 0 if TARGET.read_text(encoding="utf-8") == source else 1
    TARGET.write_text(source, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
