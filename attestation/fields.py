"""Typed, bounded access to the fields of a decoded map: what has another type or size is an error that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Fields:
    """A map of exactly the given fields.

    Args:
        value: What was decoded.
        names: The fields that it has to have, no fewer and no more.
        what: What it is, for errors.

    Raises:
        EvidenceError: Not a map, or one of other fields.
    """

    def __init__(self, value: object, names: Collection[str], what: str) -> None:
        if not isinstance(value, dict) or set(value) != set(names):
            raise EvidenceError(f"{what} is not a map of exactly {sorted(names)}")
        self._value: Mapping[str, Any] = value
        self._what = what

    def __getitem__(self, name: str) -> Any:
        """A field as it was decoded."""
        return self._value[name]

    def data(self, name: str, limit: int, *, exactly: bool = False) -> bytes:
        """Bytes, at most (or exactly) ``limit`` of them; raises ``EvidenceError``."""
        found = self._value[name]
        if not isinstance(found, bytes) or len(found) > limit or (exactly and len(found) != limit):
            raise EvidenceError(f"{self._what} field {name} is not {'' if exactly else 'at most '}{limit} bytes")
        return found

    def optional(self, name: str, limit: int) -> bytes | None:
        """Bytes as :meth:`data`, or nothing; raises ``EvidenceError``."""
        return None if self._value[name] is None else self.data(name, limit)

    def text(self, name: str, limit: int) -> str:
        """Text of at most ``limit`` characters; raises ``EvidenceError``."""
        found = self._value[name]
        if not isinstance(found, str) or len(found) > limit:
            raise EvidenceError(f"{self._what} field {name} is not text of at most {limit} characters")
        return found

    def number(self, name: str, limit: int) -> int:
        """A number from 0 to ``limit - 1``; raises ``EvidenceError``."""
        found = self._value[name]
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < limit:
            raise EvidenceError(f"{self._what} field {name} is not a number from 0 to {limit - 1}")
        return found

    def items(self, name: str, limit: int) -> list[Any]:
        """A list of at most ``limit`` items; raises ``EvidenceError``."""
        found = self._value[name]
        if not isinstance(found, list) or len(found) > limit:
            raise EvidenceError(f"{self._what} field {name} is not a list of at most {limit}")
        return found
