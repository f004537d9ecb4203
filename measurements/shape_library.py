"""The usual machines, as this package carries them: a shape each, and the ACPI tables that were captured for it.

In: package data (``shapes/*.toml``, ``shapes/*.acpi``), nothing else. Out: :class:`~measurements.shape.Shape` and
:class:`~measurements.acpi.AcpiTables`. The tables of two shapes that only boot in different ways are the same file,
``<name without the way>.acpi``. How captures are made: ``scripts/capture_shapes.py``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from measurements import acpi_file
from measurements.shape import ShapeError, parse_shape

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from measurements.acpi import AcpiTables
    from measurements.acpi_file import Captured
    from measurements.shape import Shape

_BOOTS = ("-disk", "-direct")


def names() -> tuple[str, ...]:
    """Names of all shapes, sorted."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def shape(name: str) -> Shape:
    """One shape.

    Raises:
        ShapeError: There is none of this name; the hint names those that are alike.
    """
    if name not in names():
        alike = [known for known in names() if known.split("-")[0] == name.split("-", maxsplit=1)[0]] or names()
        raise ShapeError(f"no shape {name[:64]!r} in the library", hint=f"there are {', '.join(alike)}")
    return parse_shape((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def captured(name: str) -> Captured | None:
    """The capture that belongs to a shape, with how it was made; None where there is none (a cloud's machine).

    Raises:
        ShapeError: There is no such shape, or its capture is of a machine that it no longer describes.
        AcpiFileError: The capture is damaged.
    """
    known = shape(name)
    file = _folder() / f"{capture_name(name)}.acpi"
    if not file.is_file():
        return None
    found = acpi_file.parse(file.read_bytes())
    if found.inputs != acpi_file.table_inputs(known):
        raise ShapeError(
            f"the captured tables of shape {name} are of another machine",
            hint="the shape was changed after the capture: scripts/capture_shapes.py makes it anew",
        )
    return found


def acpi(name: str) -> AcpiTables | None:
    """The ACPI tables of a shape; None where none were captured. Errors as :func:`captured`."""
    found = captured(name)
    return None if found is None else found.tables


def capture_name(name: str) -> str:
    """What a shape's capture is called: the shape's name without the way it boots, which moves no table."""
    for boot in _BOOTS:
        name = name.removesuffix(boot)
    return name


def _folder() -> Traversable:
    return files("measurements") / "shapes"
