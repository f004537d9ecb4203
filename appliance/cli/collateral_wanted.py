"""What a command line names, and everything that is fetched for it."""

from __future__ import annotations

import asyncio
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.errors import ConfigError
from attestation.certificate import parse_certificate
from attestation.collateral.gathering import Missing, gather
from attestation.collateral.machines import report_collateral
from attestation.collateral.opening import open_sources
from attestation.errors import AttestationError, EvidenceError
from attestation.evidence import MAX_BUNDLE, parse_bundle
from attestation.gpu.evidence import DeviceEvidence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

    from attestation.collateral.disk import DiskCache
    from attestation.collateral.entry import Entry
    from attestation.collateral.keeper import Observer
    from attestation.collateral.settings import CollateralSettings
    from attestation.collateral.sources import Sources

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_DER_SEQUENCE = 0x30


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence in a file.

    Attributes:
        name: The file.
        quote: What the platform shows; None for a device's evidence alone.
        devices: What each device shows.
    """

    name: str
    quote: bytes | None
    devices: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What to fetch collateral for.

    Attributes:
        evidence: Of machines.
        platforms: FMSPC and authority of TDX platforms.
        reports: SEV-SNP reports, each with its file's name.
        product: Product of reports that do not say theirs.
        rims: Names of reference manifests.
    """

    evidence: tuple[Shown, ...]
    platforms: tuple[tuple[str, str], ...]
    reports: tuple[tuple[str, bytes], ...]
    product: str | None
    rims: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return bool(self.evidence or self.platforms or self.reports or self.rims)

    @classmethod
    def read(
        cls,
        evidence: Sequence[Path],
        fmspcs: Sequence[str],
        authority: str,
        reports: Sequence[Path],
        product: str | None,
        rims: Sequence[str],
    ) -> Selection:
        """Read what the command line names.

        Raises:
            ConfigError: A file cannot be read, or is no evidence.
        """
        return cls(
            tuple(_shown(path) for path in evidence),
            tuple((fmspc.upper(), authority) for fmspc in fmspcs),
            tuple((path.name, _binary(_read(path))) for path in reports),
            product,
            tuple(rims),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a selection led to.

    Attributes:
        entries: All pieces, ordered by kind and identity.
        missing: What could not be had.
    """

    entries: tuple[Entry, ...]
    missing: tuple[Missing, ...]


class Touched:
    """The cache, remembering which pieces were used.

    Args:
        disk: The cache.
        again: Whether what is kept is not looked at, so that services are asked.
    """

    def __init__(self, disk: DiskCache, *, again: bool) -> None:
        self._disk = disk
        self._again = again
        self.entries: dict[tuple[str, str], Entry] = {}

    def read(self, kind: str, identity: str) -> Entry | None:
        """The piece."""
        entry = None if self._again else self._disk.read(kind, identity)
        if entry is not None:
            self.entries[kind, identity] = entry
        return entry

    def write(self, entry: Entry) -> None:
        """Keep a piece."""
        self.entries[entry.kind, entry.identity] = entry
        self._disk.write(entry)


async def fetch_selection(
    selection: Selection, settings: CollateralSettings, disk: DiskCache, observer: Observer, *, again: bool
) -> Outcome:
    """Fetch everything for a selection.

    Args:
        selection: What is named.
        settings: Which services are asked, and how.
        disk: Where pieces are kept.
        observer: Told of each question.
        again: Whether services are asked for what is kept and still holds.

    Raises:
        CollateralError: An address in the settings is none.
    """
    touched = Touched(disk, again=again)
    sources = open_sources(settings, observer=observer, stores=(touched,))
    found = await asyncio.gather(
        *(_gathered(shown, sources) for shown in selection.evidence),
        *(_asked(f"platform {fmspc}", sources.tdx.get(fmspc, ca)) for fmspc, ca in selection.platforms),
        *(_asked(name, report_collateral(report, sources, product=selection.product))
          for name, report in selection.reports),
        *(_asked(f"manifest {name}", sources.rim.get(name)) for name in selection.rims),
    )  # fmt: skip
    entries = tuple(touched.entries[key] for key in sorted(touched.entries))
    return Outcome(entries, tuple(item for missing in found for item in missing))


async def _gathered(shown: Shown, sources: Sources) -> tuple[Missing, ...]:
    found = await gather(shown.quote, shown.devices, sources)
    return tuple(Missing(f"{shown.name}: {item.what}", item.reason, item.hint) for item in found.missing)


async def _asked(what: str, question: Awaitable[bytes]) -> tuple[Missing, ...]:
    try:
        await question
    except AttestationError as error:
        return (Missing(what, error.message, error.hint),)
    return ()


def _shown(path: Path) -> Shown:
    data = _read(path)
    name = path.name
    for reader in (_bundle, _device, _certificate):
        found = reader(data)
        if found is not None:
            return Shown(name, *found)
    return Shown(name, data, ())  # a quote, or another platform's evidence: its reader says what is wrong with it


_Parts = tuple[bytes | None, tuple[bytes, ...]]


def _bundle(data: bytes) -> _Parts | None:
    try:
        parsed = parse_bundle(data)
    except EvidenceError:
        return None
    return parsed.quote, parsed.devices


def _device(data: bytes) -> _Parts | None:
    try:
        DeviceEvidence.parse(data)
    except EvidenceError:
        return None
    return None, (data,)


def _certificate(data: bytes) -> _Parts | None:
    try:
        if data.startswith(_CERTIFICATE):
            data = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        elif data[:1] != bytes((_DER_SEQUENCE,)):
            return None
        return parse_certificate(data).quote, ()
    except (ValueError, AttestationError):
        return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BUNDLE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a file of evidence") from None
    if not 0 < len(data) <= MAX_BUNDLE:
        raise ConfigError(f"{path} has {len(data)} bytes, expected 1 to {MAX_BUNDLE}", hint="this is no evidence")
    return data


def _binary(data: bytes) -> bytes:
    """Bytes, which some tools write as hex text."""
    try:
        return binascii.unhexlify(b"".join(data.split()))
    except (binascii.Error, ValueError):
        return data
