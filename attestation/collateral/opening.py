"""Sources made of what a configuration says."""

from __future__ import annotations

from dataclasses import replace
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
from attestation.collateral.settings import CollateralSettings
from attestation.collateral.sources import FirstOf, Sources, check_platform
from attestation.collateral.web import Patience, WebClient
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.collateral.entry import Store
    from attestation.collateral.keeper import Observer
    from attestation.collateral.sources import CollateralSource

_SERVICE = ("http://", "https://")


VENDORS = "vendors"
"""The word for the public services of all makers."""
_MAP = 5
"""CBOR's major type of an offline bundle; collateral of one platform is JSON."""


def open_source(text: str | None) -> CollateralSource:
    """Make a source of TDX collateral from its configured text; see :func:`open_collateral`."""
    return open_collateral(text).tdx


def open_collateral(text: str | None) -> Sources:
    """Make sources from one text.

    Args:
        text: The address of Intel's service or a cache of it; a file or a directory of collateral of TDX platforms; an
            offline bundle, which may hold every kind; ``vendors`` for the makers' public services; or nothing, which
            leaves what is stapled.

    Raises:
        CollateralError: The address is none, or the offline bundle is damaged.
    """
    if text is None:
        return Sources()
    if text == VENDORS:
        return open_sources(CollateralSettings())
    if text.startswith(_SERVICE):
        return Sources(tdx=CachedCollateral(PccsCollateral(text)))
    path = Path(text)
    if _is_bundle(path):
        return open_sources(replace(CollateralSettings.none(), offline=path))
    return Sources(tdx=FileCollateral(path))


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


def _is_bundle(path: Path) -> bool:
    """Whether a file is an offline bundle rather than one platform's collateral."""
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError:
        return False  # its reader says what is wrong with it, whenever it is asked
    return bool(first) and first[0] >> 5 == _MAP
