"""Everything for a stated set of machines in one file, for a verifier without a network.

Layout: a canonical CBOR map ``{entries, format, made}``; ``entries`` are maps as :mod:`attestation.collateral.entry`
has them, ordered by kind and identity, none twice. The file is signed by nobody and needs no signature: each piece in
it is signed by a maker of hardware and dated. It is therefore good until the first date in it, which the verdict says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from attestation import cbor
from attestation.collateral.entry import Entry
from attestation.errors import CollateralError, EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FORMAT: Final = "chrysalis collateral 1"
MAX_BUNDLE: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 200
"""Each entry is nineteen items of a map, and a map of all may hold :data:`attestation.cbor.MAX_ITEMS`."""
_FIELDS = frozenset({"entries", "format", "made"})


@dataclass(frozen=True, slots=True)
class OfflineBundle:
    """Pieces of collateral at a time.

    Attributes:
        made: Unix time at which they were put together.
        entries: Ordered by kind and identity.
    """

    made: float
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry], made: float | None = None) -> OfflineBundle:
        """Put pieces together; of one that comes twice, the one that holds longer is taken.

        Raises:
            CollateralError: Too many.
        """
        best: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            known = best.get((entry.kind, entry.identity))
            if known is None or known.expires < entry.expires:
                best[entry.kind, entry.identity] = entry
        if len(best) > MAX_ENTRIES:
            raise CollateralError(
                f"{len(best)} pieces of collateral, at most {MAX_ENTRIES} are bundled", hint="make several bundles"
            )
        return cls(time.time() if made is None else made, tuple(best[key] for key in sorted(best)))

    @property
    def expires(self) -> float:
        """Unix time at which the first piece ends."""
        return min((entry.expires for entry in self.entries), default=self.made)

    def encode(self) -> bytes:
        """The canonical encoding."""
        entries = [entry.to_value() for entry in self.entries]
        return cbor.encode({"entries": entries, "format": FORMAT, "made": int(self.made)})

    @classmethod
    def parse(cls, data: bytes) -> OfflineBundle:
        """Read an encoding back.

        Raises:
            CollateralError: It is no such bundle, or something in it is damaged.
        """
        try:
            return _read(cbor.decode(data, max_length=MAX_BUNDLE))
        except EvidenceError as error:
            raise CollateralError(
                f"bundle of collateral cannot be read: {error.message}",
                hint="make it again with `chrysalis collateral export`",
            ) from None


def _read(value: Any) -> OfflineBundle:
    if not isinstance(value, dict) or set(value) != _FIELDS or value["format"] != FORMAT:
        raise EvidenceError(f"not a map of exactly {sorted(_FIELDS)} of format {FORMAT!r}")
    if type(value["made"]) is not int or not isinstance(value["entries"], list):
        raise EvidenceError("its time is no number, or its entries are no list")
    if len(value["entries"]) > MAX_ENTRIES:
        raise EvidenceError(f"{len(value['entries'])} entries, at most {MAX_ENTRIES} are read")
    entries = tuple(Entry.from_value(item) for item in value["entries"])
    keys = [(entry.kind, entry.identity) for entry in entries]
    if keys != sorted(set(keys)):
        raise EvidenceError("its entries are out of order, or one is there twice")
    return OfflineBundle(float(value["made"]), entries)


class OfflineCollateral:
    """A bundle of collateral as a store.

    Args:
        path: The file; read at once.

    Raises:
        CollateralError: It cannot be read, or is no bundle.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BUNDLE + 1)
        except OSError as error:
            raise CollateralError(
                f"{path}: {error.strerror}", hint="name a file made by `chrysalis collateral export`"
            ) from None
        self.bundle = OfflineBundle.parse(data)
        self._entries = {(entry.kind, entry.identity): entry for entry in self.bundle.entries}

    def read(self, kind: str, identity: str) -> Entry | None:
        """The piece, None if it is not in the bundle."""
        return self._entries.get((kind, identity))

    def write(self, entry: Entry) -> None:
        """A bundle stays as it was made."""
