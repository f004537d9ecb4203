"""Collateral that travels with this worker's evidence, so that a verifier without a source of its own can judge it.

In: our certificate and where collateral comes from. Out: the collateral for this machine's platform, or None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from attestation.certificate import parse_certificate
from attestation.dcap import platform_of
from attestation.errors import AttestationError
from attestation.tpm.evidence import is_tpm_evidence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from attestation.collateral import CollateralSource

log = structlog.get_logger(__name__)


def staple(certificate: Callable[[], bytes], source: CollateralSource | None) -> Callable[[], Awaitable[bytes | None]]:
    """What fetches the collateral to staple.

    Args:
        certificate: Our certificate as of now (DER); its quote names the platform.
        source: Where collateral comes from; None staples nothing.
    """

    async def collateral() -> bytes | None:
        if source is None:
            return None
        try:
            quote = parse_certificate(certificate()).quote
            return None if quote is None or is_tpm_evidence(quote) else await source.get(*platform_of(quote))
        except AttestationError as error:
            # A verifier with a source of its own needs none from us.
            log.warning("no collateral to staple", error=type(error).__name__, reason=error.message)
            return None

    return collateral
