"""Collateral: what a verifier needs besides evidence, by platform; sources are files and the vendors' services.

Nothing here is trusted: collateral is signed and dated, and the verifier checks both. Each name is loaded when it is
first asked for, so that a verifier with stapled collateral loads no HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attestation.collateral.amd import KdsCollateral
    from attestation.collateral.disk import DiskCache
    from attestation.collateral.entry import Entry
    from attestation.collateral.errors import (
        MalformedAnswerError,
        NotServedError,
        ServiceRefusedError,
        ServiceUnreachableError,
    )
    from attestation.collateral.files import FileCollateral, StaticCollateral
    from attestation.collateral.gathering import Gathered, Missing, gather
    from attestation.collateral.intel import PccsCollateral
    from attestation.collateral.keeper import Keeper
    from attestation.collateral.memory import CachedCollateral
    from attestation.collateral.nvidia import RimService
    from attestation.collateral.offline import OfflineBundle, OfflineCollateral
    from attestation.collateral.opening import open_collateral, open_source, open_sources
    from attestation.collateral.revocation import OcspService
    from attestation.collateral.settings import CollateralSettings
    from attestation.collateral.sources import (
        CollateralSource,
        FirstOf,
        OcspSource,
        RimSource,
        SnpCollateralSource,
        Sources,
    )

__all__ = [
    "CachedCollateral",
    "CollateralSettings",
    "CollateralSource",
    "DiskCache",
    "Entry",
    "FileCollateral",
    "FirstOf",
    "Gathered",
    "KdsCollateral",
    "Keeper",
    "MalformedAnswerError",
    "Missing",
    "NotServedError",
    "OcspService",
    "OcspSource",
    "OfflineBundle",
    "OfflineCollateral",
    "PccsCollateral",
    "RimService",
    "RimSource",
    "ServiceRefusedError",
    "ServiceUnreachableError",
    "SnpCollateralSource",
    "Sources",
    "StaticCollateral",
    "gather",
    "open_collateral",
    "open_source",
    "open_sources",
]

_HOMES = {
    "CachedCollateral": "memory",
    "CollateralSettings": "settings",
    "CollateralSource": "sources",
    "DiskCache": "disk",
    "Entry": "entry",
    "FileCollateral": "files",
    "FirstOf": "sources",
    "Gathered": "gathering",
    "KdsCollateral": "amd",
    "Keeper": "keeper",
    "MalformedAnswerError": "errors",
    "Missing": "gathering",
    "NotServedError": "errors",
    "OcspService": "revocation",
    "OcspSource": "sources",
    "OfflineBundle": "offline",
    "OfflineCollateral": "offline",
    "PccsCollateral": "intel",
    "RimService": "nvidia",
    "RimSource": "sources",
    "ServiceRefusedError": "errors",
    "ServiceUnreachableError": "errors",
    "SnpCollateralSource": "sources",
    "Sources": "sources",
    "StaticCollateral": "files",
    "gather": "gathering",
    "open_collateral": "opening",
    "open_source": "opening",
    "open_sources": "opening",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
