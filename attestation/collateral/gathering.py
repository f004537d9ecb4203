"""Everything that a verifier will need for given evidence: to staple it, to bundle it, or to have it in the cache.

In: what the platform shows and what its devices show. Out: a :class:`attestation.staple.Staple` and what is missing
from it, each with its reason. Nothing is verified here, and nothing missing is an error: a verifier may have its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.errors import AttestationError, EvidenceError
from attestation.readers import form_of
from attestation.staple import Staple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from attestation.collateral.sources import Sources


@dataclass(frozen=True, slots=True)
class Missing:
    """A piece that could not be had.

    Attributes:
        what: Its name, for a person.
        reason: Why.
        hint: What helps.
    """

    what: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found for some evidence.

    Attributes:
        staple: All that was found.
        missing: All that was not.
    """

    staple: Staple
    missing: tuple[Missing, ...]


@dataclass(slots=True)
class Gathering:
    """One search: where collateral comes from, and what was not found so far."""

    sources: Sources
    missing: list[Missing] = field(default_factory=list)

    async def find(self, what: str, question: Awaitable[bytes | None]) -> bytes | None:
        """The answer; None where there is none, which is noted."""
        try:
            return await question
        except AttestationError as error:
            self.note(what, error)
            return None

    def note(self, what: str, error: AttestationError) -> None:
        """Something is missing for this reason."""
        self.missing.append(Missing(what, error.message, error.hint))


async def gather(quote: bytes | None, devices: Sequence[bytes], sources: Sources) -> Gathered:
    """Find the collateral of evidence.

    Args:
        quote: What the platform shows; None for devices alone.
        devices: What each device shows (:mod:`attestation.gpu.evidence`).
        sources: Where collateral comes from.
    """
    search = Gathering(sources)
    (tdx, snp), (rims, responses) = await asyncio.gather(_platform(quote, search), _devices(devices, search))
    missing = tuple(sorted(search.missing, key=lambda item: item.what))
    return Gathered(Staple(tdx=tdx, snp=snp, rims=rims, ocsp=responses), missing)


async def _platform(quote: bytes | None, search: Gathering) -> tuple[bytes | None, bytes | None]:
    if quote is None:
        return None, None
    try:
        form = form_of(quote)
    except EvidenceError as error:
        search.note("platform collateral", error)
        return None, None
    if form == "tpm":
        return None, None
    from attestation.collateral import machines  # noqa: PLC0415 - loads readers of every machine's evidence

    if form in {"snp", "azure"}:
        return None, await search.find("SEV-SNP collateral", machines.snp_collateral(quote, search.sources))
    own = machines.gcp_collateral if form == "gcp" else machines.tdx_collateral
    return await search.find("TDX collateral", own(quote, search.sources)), None


async def _devices(devices: Sequence[bytes], search: Gathering) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    if not devices:
        return {}, {}
    from attestation.collateral.devices import gather_devices  # noqa: PLC0415 - loads XML; most machines have no GPU

    return await gather_devices(devices, search)
