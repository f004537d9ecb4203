"""Sources made of what a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attestation.collateral.amd import KdsCollateral
from attestation.collateral.disk import DiskCache
from attestation.collateral.files import FileCollateral
from attestation.collateral.intel import PccsCollateral
from attestation.collateral.keeper import Keeper, Wanted
from attestation.collateral.memory import CachedCollateral
from attestation.collateral.nvidia import RimService
from attestation.collateral.offline import OfflineCollateral
from attestation.collateral.proxy import Proxies
from attestation.collateral.revocation import OcspService
from attestation.collateral.sources import FirstOf, Sources, check_platform
from attestation.collateral.web import Patience, WebClient
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.collateral.entry import Store
    from attestation.collateral.keeper import Observer
    from attestation.collateral.settings import CollateralSettings
    from attestation.collateral.sources import CollateralSource

_SERVICE = ("http://", "https://")


def open_source(text: str | None) -> CollateralSource:
    """Make a source from its configured text: a URL, a file or directory, or nothing (stapled collateral only)."""
    if text is None:
        return FirstOf(())
    if text.startswith(_SERVICE):
        return CachedCollateral(PccsCollateral(text))
    return FileCollateral(Path(text))


def open_sources(
    settings: CollateralSettings, *, observer: Observer | None = None, stores: Sequence[Store] | None = None
) -> Sources:
    """Make a source of each kind.

    Args:
        settings: Which services, through what, kept where.
        observer: Told of every question and answer.
        stores: Where pieces are kept instead of where the settings say.

    Raises:
        CollateralError: An address is none, or the offline bundle cannot be read.
    """
    patience = Patience(silence=settings.silence_s, deadline=settings.deadline_s, attempts=settings.attempts)
    client = WebClient(Proxies(settings.proxy), patience)
    keeper = Keeper(open_stores(settings) if stores is None else stores, observer=observer)
    return Sources(
        tdx=_tdx(settings, client, keeper),
        snp=KdsCollateral(settings.kds, client, keeper),
        rim=RimService(settings.rim, client, keeper),
        ocsp=OcspService(settings.ocsp, client, keeper),
    )


def open_stores(settings: CollateralSettings) -> tuple[Store, ...]:
    """Where settings keep collateral: the disk, then the offline bundle."""
    stores: list[Store] = []
    if settings.cache is not None:
        stores.append(DiskCache(settings.cache, max_bytes=settings.cache_bytes))
    if settings.offline is not None:
        stores.append(OfflineCollateral(settings.offline))
    return tuple(stores)


class KeptCollateral:
    """Collateral of TDX machines from a service, kept.

    Args:
        service: None uses what is kept alone.
        keeper: Keeps what was fetched.
    """

    def __init__(self, service: PccsCollateral | None, keeper: Keeper) -> None:
        self._service = service
        self._keeper = keeper

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return what is kept, or ask the service; raises ``CollateralError``."""
        check_platform(fmspc, ca)
        service = self._service
        host = service.host if service else ""
        fetch = (lambda: service.get(fmspc, ca)) if service else None
        return await self._keeper.get(Wanted("tdx", f"{fmspc}-{ca}", host, fetch))


def _tdx(settings: CollateralSettings, client: WebClient, keeper: Keeper) -> CollateralSource:
    text = settings.tdx
    if text is None or text.startswith(_SERVICE):
        service = PccsCollateral(text, client=client, root_crl=settings.root_crl) if text else None
        return KeptCollateral(service, keeper)
    if not text:
        raise CollateralError("collateral service '', expected an address, a file or a directory")
    kept = KeptCollateral(None, keeper)
    return FirstOf((FileCollateral(Path(text)), kept)) if settings.offline else FileCollateral(Path(text))
