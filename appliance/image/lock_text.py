"""What every lock's text has in common: bounded, strict, written in one way only, naming no host.

In: bytes of a committed lock. Out: what its own module makes of it, or :class:`LockFormatError` with the place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from appliance.image.errors import LockFormatError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping
    from pathlib import Path

FORMAT = 1
MAX_LOCK_BYTES = 16 << 20


class Lock(Protocol):
    """A lock."""

    @property
    def name(self) -> str:
        """Its name."""

    def to_bytes(self) -> bytes:
        """Its text."""


L = TypeVar("L", bound=Lock)


def require_fields(kind: str, label: str, item: object, patterns: Mapping[str, re.Pattern[str]]) -> None:
    """Refuse an entry of a lock that no archive or index would name.

    Args:
        kind: What it is, for the message.
        label: Which one.
        item: It, with a ``size`` in bytes.
        patterns: For each other field what it has to match.

    Raises:
        LockFormatError: A field is not of its form.
    """
    for name, pattern in patterns.items():
        value = getattr(item, name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise LockFormatError(f"{kind} {label!r}: {name} is {value!r}, which is no such thing")
    size = getattr(item, "size", None)
    if type(size) is not int or size <= 0:
        raise LockFormatError(f"{kind} {label!r}: size is {size!r}, expected a number of bytes")


def parse_exactly(data: bytes, source: str, kind: str, make: Callable[[Any], L]) -> L:
    """Read a lock's text, which must be the one that the lock itself writes.

    Args:
        data: The text.
        source: The file's name, for messages.
        kind: ``package`` or ``wheel``.
        make: The lock of the decoded JSON; may raise :class:`ValueError`, :class:`TypeError`, :class:`KeyError`.

    Raises:
        LockFormatError: It is not a lock of this format.
    """
    if len(data) > MAX_LOCK_BYTES:
        raise LockFormatError(f"{source}: {len(data)} bytes, at most {MAX_LOCK_BYTES} are read")
    try:
        content: Any = json.loads(data)
        if content["format"] != FORMAT:
            raise LockFormatError(f"{source}: format {content['format']!r}, this program reads {FORMAT}")
        lock = make(content)
    except (ValueError, TypeError, KeyError) as error:
        raise LockFormatError(f"{source}: not a {kind} lock: {error!r}", hint="make it again: just lock") from None
    if lock.to_bytes() != data:
        raise LockFormatError(
            f"{source}: the text is not the one that its {kind}s have: sorted, one a line, nothing else",
            hint="locks are not edited by hand; make them again: just lock",
        )
    return lock


def read_file(path: Path, name: str, parse: Callable[[bytes, str], L]) -> L:
    """The lock in a file, which must be the one of that name.

    Raises:
        LockFormatError: It is missing or not that lock.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LockFormatError(f"{path}: {error.strerror}", hint="make the locks: just lock") from None
    lock = parse(data, path.name)
    if lock.name != name:
        raise LockFormatError(f"{path.name} is the lock {lock.name!r}, expected {name!r}")
    return lock
