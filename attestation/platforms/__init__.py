"""Platforms: one file each, one protocol; what makes quotes on this machine."""

from __future__ import annotations

from pathlib import Path

from attestation.errors import CollectionError
from attestation.platforms.azure import Azure
from attestation.platforms.base import Platform
from attestation.platforms.detect import Detection, detect
from attestation.platforms.fake_tdx import FakeTdx
from attestation.platforms.gcp import Gcp
from attestation.platforms.simulated import SimulatedTdx
from attestation.platforms.snp import Snp
from attestation.platforms.tdx import ConfigfsTdx, open_tdx
from attestation.platforms.tpm import Tpm

__all__ = [
    "Azure",
    "ConfigfsTdx",
    "Detection",
    "FakeTdx",
    "Gcp",
    "Platform",
    "SimulatedTdx",
    "Snp",
    "Tpm",
    "detect",
    "open_platform",
    "open_tdx",
]


def open_platform(
    name: str,
    quote_source: str | None = None,
    *,
    directory: Path | None = None,
    attestation_ca: str | None = None,
    tcti: str | None = None,
) -> Platform | None:
    """A platform by its name.

    Args:
        name: ``tdx``, ``snp``, ``azure``, ``gcp``, ``simulated``, ``fake_tdx``, ``tpm``; ``none`` or the policy ``any``
            for no evidence at all.
        quote_source: For ``simulated`` the quoting service's socket, for ``tdx`` and ``snp`` another configfs
            directory, for ``tpm``, ``azure`` and ``gcp`` another directory for key and certificates.
        directory: For ``tpm``, ``azure`` and ``gcp`` where key and certificates are kept.
        attestation_ca: For ``tpm`` the authority's address.
        tcti: For these three another TPM than the kernel's resource manager, as tpm2-tools name it.

    Returns:
        ``None`` for a peer that shows no evidence.

    Raises:
        CollectionError: A source is missing or the name unknown.
    """
    if name in {"any", "none"}:
        return None
    if name == "fake_tdx":
        return FakeTdx()
    if name == "simulated":
        if not quote_source:
            raise CollectionError("policy 'simulated' without a quote source", hint="name the quoting service's socket")
        return SimulatedTdx(Path(quote_source))
    if name == "tdx":
        return open_tdx(Path(quote_source)) if quote_source else open_tdx()
    if name == "snp":
        return Snp(Path(quote_source)) if quote_source else Snp()
    if name in {"tpm", "azure", "gcp"}:
        kept = Path(quote_source) if quote_source else directory
        if kept is None:
            raise CollectionError(f"platform {name!r} without a directory for its key and certificates")
        return _by_tpm(name, kept, attestation_ca, tcti)
    known = "tdx, snp, azure, gcp, simulated, fake_tdx, tpm or none"
    raise CollectionError(f"no platform is called {name!r}", hint=known)


def _by_tpm(name: str, directory: Path, attestation_ca: str | None, tcti: str | None) -> Platform:
    if name == "azure":
        return Azure(tcti, directory)
    if name == "gcp":
        confidential = any(item.platform == "tdx" and item.usable for item in detect().findings)
        return Gcp(tcti, directory, tdx=open_tdx() if confidential else None)
    return Tpm(tcti, directory, attestation_ca)
