"""Products, and the patch levels of their trusted computing base.

A TCB version is eight bytes, one patch level each. Which byte is which depends on the product: Turin put the FMC in
front (SEV-SNP firmware ABI 56860, revision 1.58, "TCB_VERSION"; VCEK and KDS interface 57230, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

TCB_SIZE = 8


class Product(StrEnum):
    """A product line, as AMD's key distribution service calls it; Genoa includes Bergamo and Siena."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_UNTIL_GENOA = ("bootloader", "tee", "spl4", "spl5", "spl6", "spl7", "snp", "microcode")
_TURIN = ("fmc", "bootloader", "tee", "snp", "spl5", "spl6", "spl7", "microcode")
LAYOUTS: Mapping[Product, tuple[str, ...]] = {
    Product.MILAN: _UNTIL_GENOA,
    Product.GENOA: _UNTIL_GENOA,
    Product.TURIN: _TURIN,
}
"""Names of the eight bytes, lowest address first; ``spl4`` to ``spl7`` are reserved."""

LEVELS = frozenset({"fmc", "bootloader", "tee", "snp", "microcode"})
_MODELS = (
    (0x19, range(0x10), Product.MILAN),
    (0x19, range(0x10, 0x20), Product.GENOA),
    (0x19, range(0xA0, 0xB0), Product.GENOA),
    (0x1A, range(0x12), Product.TURIN),
)
"""CPUID family (with its extension), models and product."""


@dataclass(frozen=True, slots=True)
class Tcb:
    """The patch levels of one machine.

    Attributes:
        product: Says which byte is which.
        raw: Eight bytes.
    """

    product: Product
    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != TCB_SIZE:
            raise EvidenceError(f"TCB version of {len(self.raw)} bytes, expected {TCB_SIZE}")

    @classmethod
    def of(cls, product: Product, **levels: int) -> Tcb:
        """Patch levels by name; those left out are 0.

        Raises:
            EvidenceError: The product has no such level, or it is not a byte.
        """
        layout = LAYOUTS[product]
        if unknown := sorted(set(levels) - set(layout)):
            raise EvidenceError(f"{product} has no patch levels {unknown}", hint=f"it has {sorted(set(layout))}")
        if any(not 0 <= level < 256 for level in levels.values()):
            raise EvidenceError(f"patch levels {levels} are not bytes")
        return cls(product, bytes(levels.get(name, 0) for name in layout))

    @property
    def levels(self) -> dict[str, int]:
        """Patch levels by name, without the reserved ones."""
        return {name: self.raw[i] for i, name in enumerate(LAYOUTS[self.product]) if name in LEVELS}

    def below(self, minimum: Mapping[str, int]) -> dict[str, int]:
        """The levels that are lower than a minimum; one that the product lacks counts as 0."""
        levels = self.levels
        return {name: levels.get(name, 0) for name, wanted in minimum.items() if levels.get(name, 0) < wanted}

    def __str__(self) -> str:
        return ", ".join(f"{name} {level}" for name, level in self.levels.items())


def product_of_cpu(family: int, model: int) -> Product | None:
    """The product with this CPUID family and model, ``None`` for one that is not known here."""
    return next((product for known, models, product in _MODELS if family == known and model in models), None)


def product_of_name(name: str) -> Product | None:
    """The product in a name such as ``Milan-B0`` or ``Turin``, ``None`` for one that is not known here."""
    line = name.partition("-")[0]
    return Product(line) if line in set(Product) else None
