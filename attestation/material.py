"""What evidence is judged by: the verifier's own collateral first, what the peer stapled else.

Our own first, because a peer could staple collateral from before a TCB recovery. For a time in the past it is the other
way round: our sources have today's. AMD's revocation list is taken from either, where the other lacks it. Everything
here is signed by the makers of the hardware and dated; the readers and the judge of devices check both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from attestation import dcap
from attestation.collateral.gathering import Gathered, Missing, gather
from attestation.devices import References
from attestation.errors import CollateralError, EvidenceError
from attestation.lru import BoundedCache
from attestation.readers import form_of
from attestation.staple import Staple
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.collateral.sources import Sources
    from attestation.evidence import Stapling
    from attestation.readers import Form

_log = structlog.get_logger(__name__)
PARSED_LIMIT = 4096
"""Quotes whose platform is remembered: 18 characters each."""

_GROUP = "collateral"
_PLATFORM_WHY = "the processor's maker says there which keys are genuine and which patch level is current"
_DEVICES_WHY = "NVIDIA says there what genuine software of a GPU measures, and which devices it no longer stands by"


@dataclass(frozen=True, slots=True)
class Material:
    """What was found for one piece of evidence.

    Attributes:
        platform: What its reader takes, ``None`` if it takes nothing or there is none.
        references: What its devices are compared with.
        notes: Checks that say whose all of it is, and what is missing for which reason.
    """

    platform: bytes | None = None
    references: References = field(default_factory=References)
    notes: tuple[Check, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there is all that cannot be done without."""
        return all(note.passed for note in self.notes)


class MaterialFinder:
    """Finds it.

    Args:
        sources: The verifier's own.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._platforms: BoundedCache[tuple[str, str]] = BoundedCache(PARSED_LIMIT)

    async def find(
        self,
        evidence: bytes | None,
        forms: frozenset[Form],
        *,
        devices: Sequence[bytes] = (),
        staple: Staple | None = None,
        stapled_first: bool = False,
    ) -> Material:
        """Find what evidence is judged by.

        Args:
            evidence: What the platform shows.
            forms: Those that a policy reads; for others nobody is asked.
            devices: Evidence of devices that the policy judges.
            staple: What came with it.
            stapled_first: Whether that goes before our own.
        """
        form = self._form(evidence, forms)
        if evidence is None or (form is None and not devices):
            return Material()
        staple = staple or Staple()
        own = await self._own(evidence if form else None, form, devices)
        first, second = (staple, own.staple) if stapled_first else (own.staple, staple)
        rims, ocsp = {**second.rims, **first.rims}, {**second.ocsp, **first.ocsp}
        platform: bytes | None = None
        notes: tuple[Check, ...] = ()
        if form in {"tdx", "gcp"}:
            platform = first.tdx or second.tdx
            notes = (_platform(platform, own.staple.tdx, own.missing, needed=form == "tdx"),)
        elif form in {"snp", "azure"}:
            chosen = first.snp or second.snp
            notes = (_platform(chosen, own.staple.snp, own.missing, needed=False),)
            platform = _with_revocation_list(chosen, second.snp)
        if devices:
            notes = (*notes, _devices(own, staple))
        return Material(platform, References(rims, ocsp), notes)

    async def _own(self, evidence: bytes | None, form: Form | None, devices: Sequence[bytes]) -> Gathered:
        if evidence is None or form != "tdx" or devices:
            return await gather(evidence, devices, self._sources)
        try:  # the way of every handshake: the platform of a quote that was seen before is known
            return Gathered(Staple(tdx=await self._sources.tdx.get(*self._platform_of(evidence))), ())
        except CollateralError as error:
            return Gathered(Staple(), (Missing("TDX collateral", error.message, error.hint),))

    def _form(self, evidence: bytes | None, forms: frozenset[Form]) -> Form | None:
        """The form of evidence if a policy reads it and it needs collateral; what is malformed needs none."""
        if evidence is None or not forms:
            return None
        try:
            form = form_of(evidence)
            if form == "tdx" and form in forms:
                self._platform_of(evidence)
        except EvidenceError:
            return None  # its reader says what is wrong
        return form if form in forms and form != "tpm" else None

    def _platform_of(self, quote: bytes) -> tuple[str, str]:
        key = hashlib.sha256(quote).digest()
        found = self._platforms.get(key)
        if found is None:
            found = dcap.platform_of(quote)
            self._platforms.put(key, found)
        return found


def stapling(sources: Sources) -> Stapling:
    """What finds all that sources have for our own evidence, to travel with it.

    What cannot be had is left out and told in the log: a verifier may have sources of its own.
    """

    async def staple(quote: bytes, devices: Sequence[bytes]) -> Staple:
        found = await gather(quote, devices, sources)
        for missing in found.missing:
            _log.warning("no collateral to staple", kind=missing.what, reason=missing.reason, hint=missing.hint)
        return found.staple

    return staple


def _with_revocation_list(chosen: bytes | None, other: bytes | None) -> bytes | None:
    """Collateral of an SEV-SNP machine, with the revocation list of another piece where it lacks one."""
    if chosen is None or other is None or chosen is other:
        return chosen
    from attestation.snp.collateral import SnpCollateral  # noqa: PLC0415 - verifiers of other machines load none of it

    try:
        mine = SnpCollateral.parse(chosen)
        whole = mine.with_revocation_list_of(SnpCollateral.parse(other))
    except EvidenceError:
        return chosen  # its reader says what is wrong with the chosen one; the other one is not needed
    return chosen if whole is mine else whole.encode()


def _platform(found: bytes | None, own: bytes | None, missing: Sequence[Missing], *, needed: bool) -> Check:
    """Whose the platform's collateral is; without any, the reader fails if it cannot do without."""
    reasons = "; ".join(item.reason for item in missing) or "none is needed"
    seen = f"none ({reasons})" if found is None else "own" if found is own else "stapled"
    hint = next((item.hint for item in missing if item.hint), "configure a source, or let peers staple")
    return Check(
        "collateral",
        found is not None or not needed,
        seen,
        "collateral for the machine's platform",
        hint,
        checked=found is not None,
        why=_PLATFORM_WHY,
        group=_GROUP,
    )


def _devices(own: Gathered, staple: Staple) -> Check:
    """Whose the references of devices are; the judge says which are missing."""
    stapled = len(staple.rims.keys() - own.staple.rims.keys()) + len(staple.ocsp.keys() - own.staple.ocsp.keys())
    counts = [f"{len(own.staple.rims)} manifests and {len(own.staple.ocsp)} revocation answers of our own"]
    counts += [f"{stapled} more stapled"] if stapled else []
    seen = ", ".join(counts)
    return Check("collateral of devices", True, seen, "any", checked=False, why=_DEVICES_WHY, group=_GROUP)
