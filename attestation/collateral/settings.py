"""Which services are asked, through what, and where their answers are kept.

The defaults of the services are the vendors' public addresses, which the field's tools use as well; each can be an own
cache, or left out. None of them is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the type of a field, read by those who build settings from tables
from typing import Final

from attestation.collateral.proxy import ENVIRONMENT
from attestation.collateral.vendors import AMD_KDS, INTEL_PCS, NVIDIA_OCSP, NVIDIA_RIM

MAX_CACHE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralSettings:
    """Where collateral comes from.

    Attributes:
        tdx: Intel's service or a cache of it, or a file or directory of collateral; None asks nobody.
        kds: AMD's key distribution service; None asks nobody.
        rim: NVIDIA's service of reference manifests; None asks nobody.
        ocsp: NVIDIA's service of revocation status; None asks nobody.
        root_crl: Address of the revocation list of Intel's root; None is Intel's own, or the cache's.
        proxy: ``environment``, ``off``, or ``http://[user:password@]host:port``.
        cache: Directory for what was fetched; None keeps it in memory alone.
        cache_bytes: The most that directory may hold.
        offline: A bundle of collateral (:mod:`attestation.collateral.offline`), asked before the services.
        silence_s: Seconds without a byte after which a connection is given up.
        deadline_s: Seconds for one question with all its attempts.
        attempts: How often a busy service is asked.
    """

    tdx: str | None = INTEL_PCS
    kds: str | None = AMD_KDS
    rim: str | None = NVIDIA_RIM
    ocsp: str | None = NVIDIA_OCSP
    root_crl: str | None = None
    proxy: str = ENVIRONMENT
    cache: Path | None = None
    cache_bytes: int = MAX_CACHE_BYTES
    offline: Path | None = None
    silence_s: float = 10.0
    deadline_s: float = 45.0
    attempts: int = 4

    @classmethod
    def none(cls) -> CollateralSettings:
        """Nobody is asked."""
        return cls(tdx=None, kds=None, rim=None, ocsp=None)
