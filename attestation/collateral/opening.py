"""Sources made of what a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attestation.collateral.files import FileCollateral
from attestation.collateral.intel import PccsCollateral
from attestation.collateral.memory import CachedCollateral
from attestation.collateral.sources import FirstOf

if TYPE_CHECKING:
    from attestation.collateral.sources import CollateralSource


def open_source(text: str | None) -> CollateralSource:
    """Make a source from its configured text: a URL, a file or directory, or nothing (stapled collateral only)."""
    if text is None:
        return FirstOf(())
    if text.startswith(("http://", "https://")):
        return CachedCollateral(PccsCollateral(text))
    return FileCollateral(Path(text))
