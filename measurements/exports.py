"""Public names of a package, loaded when they are first asked for (PEP 562).

In: a package's name and the modules of its names. Out: its ``__getattr__`` and ``__dir__``. A program that needs one
name of a room loads that name's module and no other room; ``import appliance.wire`` alone loads no codec.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a package's ``__init__``.

    A name that was found is kept in the package, so that it is looked up once.

    Args:
        package: The package's ``__name__``.
        homes: For each public name the module that has it, relative to the package.
    """

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(importlib.import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
