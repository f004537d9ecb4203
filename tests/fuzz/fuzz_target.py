"""What a fuzz target is: bytes into the project's code, and the only errors that may come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class PropertyError(AssertionError):
    """A parser took bytes that it would not write: a second way of saying the same."""


@dataclass(frozen=True)
class Target:
    """One way in for bytes from outside.

    Attributes:
        name: Also the folder of its corpus.
        run: Takes the bytes.
        errors: The declared errors; anything else that is raised is a finding. Empty: nothing may be raised.
        seeds: Well-formed inputs, made afresh.
        encode: Writes what ``run`` returned; it has to be the very bytes that were read.
        max_length: Longest input that is tried, in bytes; a little over the parser's own bound where that is small.
    """

    name: str
    run: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    encode: Callable[[Any], bytes] | None = None

    max_length: int = 16384

    def try_one(self, data: bytes) -> bool:
        """Run it; whether the input was taken.

        Raises:
            PropertyError: It was taken and is not what would be written.
        """
        try:
            found = self.run(data)
        except self.errors:
            return False
        if self.encode is not None and (written := self.encode(found)) != data:
            message = f"{self.name}: read {data[:64].hex()}…, would write {written[:64].hex()}…"
            raise PropertyError(message)
        return True
