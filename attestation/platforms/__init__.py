"""Platforms: one file each, one protocol; what makes quotes on this machine."""

from __future__ import annotations

from pathlib import Path

from attestation.errors import CollectionError
from attestation.platforms.base import Platform
from attestation.platforms.fake_tdx import FakeTdx
from attestation.platforms.simulated import SimulatedTdx
from attestation.platforms.tdx import REPORTS, ConfigfsTdx

__all__ = ["ConfigfsTdx", "FakeTdx", "Platform", "SimulatedTdx", "open_platform"]


def open_platform(policy: str, quote_source: str | None = None) -> Platform | None:
    """The platform that fits a policy.

    Args:
        policy: ``tdx``, ``simulated``, ``fake_tdx`` or ``any``.
        quote_source: For ``simulated`` the quoting service's socket, for ``tdx`` another configfs directory.

    Returns:
        ``None`` for ``any``: such a peer shows no evidence.

    Raises:
        CollectionError: A source is missing or the policy unknown.
    """
    if policy == "any":
        return None
    if policy == "fake_tdx":
        return FakeTdx()
    if policy == "simulated":
        if not quote_source:
            raise CollectionError("policy 'simulated' without a quote source", hint="name the quoting service's socket")
        return SimulatedTdx(Path(quote_source))
    if policy == "tdx":
        return ConfigfsTdx(Path(quote_source) if quote_source else REPORTS)
    raise CollectionError(f"policy {policy!r} has no platform", hint="tdx, simulated, fake_tdx or any")
