"""What the makers of readers and writers share: Python text that grows, and runs of fields of fixed size.

In the made text ``b`` is the buffer, ``p`` the position, ``o`` the object, ``out`` collects bytes and ``room`` counts
down the elements that vectors may still have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from appliance.wire import primitives

if TYPE_CHECKING:
    from appliance.wire.tl import Constructor

FORMATS: Final = {"#": "i", "int": "i", "long": "q", "double": "d", "int128": "16s", "int256": "32s", "Bool": "I"}
"""The struct letter of each built-in of one size."""


def table_name(result: str) -> str:
    """The name, in the made text, of the functions of a boxed type."""
    return "T_" + result.replace(".", "_")


def is_flat(constructor: Constructor) -> bool:
    """Whether all its fields are of fixed size and always there, so that it can be part of a run."""
    return bool(constructor.fields) and all(f.type.is_fixed and f.bit is None for f in constructor.fields)


@dataclass(slots=True)
class Source:
    """Python text that grows, and the names it may use.

    Attributes:
        lines: The text.
        names: What it may refer to; the primitives are always there.
        depth: How far the next line is indented.
        fresh: How many names were given out.
    """

    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=lambda: dict(vars(primitives)))
    depth: int = 0
    fresh: int = 0

    def add(self, *lines: str) -> None:
        """Append lines at the present depth."""
        self.lines.extend("    " * self.depth + line for line in lines)

    def name(self) -> str:
        """A name that is not in use."""
        self.fresh += 1
        return f"v{self.fresh}"

    def struct(self, code: str) -> tuple[str, int]:
        """The name stem of a compiled struct (``P_…`` packs, ``U_…`` unpacks at an offset), and its size."""
        compiled = struct.Struct("<" + code)
        self.names[f"P_{code}"] = compiled.pack
        self.names[f"U_{code}"] = compiled.unpack_from
        return code, compiled.size

    def execute(self, what: str) -> dict[str, Any]:
        """Compile the text and give the names it defines, with those it uses."""
        made = compile("\n".join(self.lines), f"<{what}s of appliance.wire.schema>", "exec")
        exec(made, self.names)  # noqa: S102 -- made from the committed table alone; nothing from outside reaches it
        return self.names


@dataclass(slots=True)
class Run:
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
        """Append a field."""
        self.code += code
        self.targets.append(target)
        self.around.extend(around)
