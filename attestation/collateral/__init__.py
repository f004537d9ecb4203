"""Collateral: what a verifier needs besides evidence, by platform; sources are files and the vendors' services.

Nothing here is trusted: collateral is signed and dated, and the verifier checks both. Each name is loaded when it is
first asked for, so that a verifier with stapled collateral loads no HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attestation.collateral.files import FileCollateral, StaticCollateral
    from attestation.collateral.intel import PccsCollateral
    from attestation.collateral.memory import CachedCollateral
    from attestation.collateral.opening import open_source
    from attestation.collateral.sources import CollateralSource, FirstOf

__all__ = [
    "CachedCollateral",
    "CollateralSource",
    "FileCollateral",
    "FirstOf",
    "PccsCollateral",
    "StaticCollateral",
    "open_source",
]

_HOMES = {
    "CachedCollateral": "memory",
    "CollateralSource": "sources",
    "FileCollateral": "files",
    "FirstOf": "sources",
    "PccsCollateral": "intel",
    "StaticCollateral": "files",
    "open_source": "opening",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
