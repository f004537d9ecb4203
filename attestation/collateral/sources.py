"""What answers for collateral: the protocol of a source of TDX material, and the order in which sources are asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Sequence

_FMSPC = re.compile(r"[0-9A-F]{12}")
_AUTHORITIES = ("platform", "processor")


class CollateralSource(Protocol):
    """Where collateral comes from."""

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Collateral for a platform.

        Args:
            fmspc: 12 upper-case hex digits.
            ca: ``platform`` or ``processor``.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class FirstOf:
    """Asks one source after the other."""

    def __init__(self, sources: Sequence[CollateralSource]) -> None:
        self._sources = tuple(sources)

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return the first answer.

        Raises:
            CollateralError: None of them has it; the message holds every reason.
        """
        reasons = []
        for source in self._sources:
            try:
                return await source.get(fmspc, ca)
            except CollateralError as error:
                reasons.append(error.message)
        raise CollateralError(f"no source has collateral for {fmspc}: {'; '.join(reasons) or 'none is configured'}")


def check_platform(fmspc: str, ca: str) -> None:
    """Refuse what cannot name a platform, before it becomes part of a path or an address.

    Raises:
        CollateralError: Another form.
    """
    if not _FMSPC.fullmatch(fmspc) or ca not in _AUTHORITIES:
        raise CollateralError(
            f"platform {fmspc!r} of authority {ca!r}, expected 12 hex digits and one of {_AUTHORITIES}"
        )
