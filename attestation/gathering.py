"""Finding what evidence is judged by: the verifier's own sources first, what the peer stapled else.

Our own first, because a peer could staple collateral from before a TCB recovery. For a time in the past it is the other
way round: our sources have today's. What evidence needs is read off it, unverified: a lie there finds collateral that
does not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import structlog

from attestation import dcap
from attestation.devices import References
from attestation.errors import CollateralError, EvidenceError
from attestation.lru import BoundedCache
from attestation.readers import form_of
from attestation.staple import MAX_RESPONSES, MAX_RIMS, Staple
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from attestation.collateral.sources import Sources
    from attestation.gpu.ocsp import OcspRequest
    from attestation.readers import Form

_log = structlog.get_logger(__name__)
_WITH_COLLATERAL: frozenset[Form] = frozenset({"tdx", "snp", "gcp", "azure"})
PARSED_LIMIT = 512
"""Pieces of evidence whose needs are remembered; what is kept of one is a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What one piece of platform evidence is judged by.

    Attributes:
        kind: ``tdx`` or ``snp``, as in a staple.
        name: For a person.
        own: Asks our source.
    """

    kind: str
    name: str
    own: Callable[[], Awaitable[bytes]]


class Gatherer:
    """Finds collateral.

    Args:
        sources: Our own.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._needs: BoundedCache[_Need | None] = BoundedCache(PARSED_LIMIT)

    async def platform(
        self, evidence: bytes, forms: frozenset[Form], staple: Staple, *, stapled_first: bool = False
    ) -> tuple[bytes | None, tuple[Check, ...]]:
        """Collateral of platform evidence.

        Args:
            evidence: As in a bundle.
            forms: Those that a policy reads; for others nobody is asked.
            staple: What came with it.
            stapled_first: Whether what came with it goes before our own.

        Returns:
            Collateral and a check that says whose it is or why there is none; neither if the evidence needs none.
        """
        need = self._need(evidence, forms)
        if need is None:
            return None, ()
        stapled = staple.tdx if need.kind == "tdx" else staple.snp
        found, seen = await _first(need.own, stapled, stapled_first=stapled_first)
        expected = "collateral for the machine's platform"
        return found, (
            Check(
                "collateral",
                found is not None or need.kind == "snp",  # an SNP machine's host may have given it the certificates
                f"{seen}, for {need.name}",
                expected,
                "configure a source, or let peers staple",
                checked=found is not None,
                why="the processor's maker says there which keys are genuine and which patch level is current",
                group="collateral",
            ),
        )

    async def devices(
        self, devices: Sequence[bytes], staple: Staple, *, stapled_first: bool = False
    ) -> tuple[References, tuple[Check, ...]]:
        """What the evidence of devices is compared with; arguments as :meth:`platform`."""
        if not devices:
            return References(), ()
        rims, whose_rims = await self._rims(devices, staple, stapled_first=stapled_first)
        questions = _questions(devices, rims.values())
        ocsp, whose_ocsp = await self._responses(questions, staple, stapled_first=stapled_first)
        checks = tuple(
            Check(
                name,
                True,
                ", ".join(whose) or "none is needed",
                "from a source of ours or stapled",
                checked=False,
                why=why,
                group="collateral",
            )
            for name, whose, why in (
                ("reference manifests", whose_rims, "NVIDIA says there what a genuine driver and VBIOS measure"),
                ("revocation", whose_ocsp, "NVIDIA says there which devices and versions it no longer stands by"),
            )
        )
        return References(rims, ocsp), checks

    async def staple(self, evidence: bytes, devices: Sequence[bytes]) -> Staple:
        """All that our sources have for our own evidence, to travel with it (an :data:`attestation.evidence.Stapling`).

        What cannot be had is left out: a verifier may have sources of its own, and says what it lacks.
        """
        found: dict[str, bytes] = {}
        need = self._need(evidence, _WITH_COLLATERAL)
        if need is not None:
            content, seen = await _first(need.own, None)
            if content is not None:
                found[need.kind] = content
            else:
                _log.warning("no collateral to staple", kind=need.kind, reason=seen)
        references, notes = await self.devices(devices, Staple())
        for note in notes:
            _log.debug("collateral of devices", kind=note.name, reason=note.seen)
        return Staple(tdx=found.get("tdx"), snp=found.get("snp"), rims=references.rims, ocsp=references.ocsp)

    def _need(self, evidence: bytes, forms: frozenset[Form]) -> _Need | None:
        if not forms:
            return None
        key = hashlib.sha256(evidence).digest()
        need = self._needs.get(key)
        if need is None:
            try:
                form = form_of(evidence)
                need = self._read(form, evidence) if form in forms else None
            except EvidenceError:
                return None  # its reader says what is wrong with it
            if need is not None:
                self._needs.put(key, need)
        return need

    def _read(self, form: Form, evidence: bytes) -> _Need | None:
        match form:
            case "tdx":
                return self._of_tdx(evidence)
            case "snp":
                return self._of_snp(evidence)
            case "gcp":
                from attestation.gcp.evidence import parse_gcp  # noqa: PLC0415 - most verifiers meet no such machine

                quote = parse_gcp(evidence).tdx
                return self._of_tdx(quote) if quote is not None else None
            case _:
                return None

    def _of_tdx(self, quote: bytes) -> _Need:
        fmspc, authority = dcap.platform_of(quote)
        return _Need("tdx", fmspc, functools.partial(self._sources.tdx.get, fmspc, authority))

    def _of_snp(self, evidence: bytes) -> _Need:
        from attestation.snp.evidence import SnpEvidence  # noqa: PLC0415 - most verifiers meet no such machine
        from attestation.snp.report import SigningKey, parse_report  # noqa: PLC0415 - likewise

        shown = SnpEvidence.parse(evidence)
        report = parse_report(shown.report)
        own = functools.partial(
            self._sources.snp.get,
            str(report.product),
            report.chip_id,
            report.reported_tcb,
            vlek=report.signing_key is SigningKey.VLEK,
            leaf=shown.certificates.get("vlek"),
        )
        return _Need("snp", f"{report.product or 'a chip'} {report.chip_id.hex()[:16]}", own)

    async def _rims(
        self, devices: Sequence[bytes], staple: Staple, *, stapled_first: bool
    ) -> tuple[Mapping[str, bytes], tuple[str, ...]]:
        ids = _rim_ids(devices)
        asked = [(functools.partial(self._sources.rim.get, name), staple.rims.get(name)) for name in ids]
        found = await asyncio.gather(*(_first(*pair, stapled_first=stapled_first) for pair in asked))
        return _kept(ids, found), _whose(ids, found)

    async def _responses(
        self, questions: Sequence[OcspRequest], staple: Staple, *, stapled_first: bool
    ) -> tuple[Mapping[bytes, bytes], tuple[str, ...]]:
        names = [item.fingerprint for item in questions]
        source = self._sources.ocsp
        asked = [
            (functools.partial(source.get, item.certificate, item.issuer), staple.ocsp.get(item.fingerprint))
            for item in questions
        ]
        found = await asyncio.gather(*(_first(*pair, stapled_first=stapled_first) for pair in asked))
        return _kept(names, found), _whose([name.hex()[:16] for name in names], found)


_Name = TypeVar("_Name")
_Found: TypeAlias = tuple[bytes | None, str]


async def _first(own: Callable[[], Awaitable[bytes]], stapled: bytes | None, *, stapled_first: bool = False) -> _Found:
    """What is there, and whose it is or why there is none."""
    if stapled_first and stapled is not None:
        return stapled, "stapled"
    try:
        return await own(), "own"
    except CollateralError as error:
        return (stapled, "stapled") if stapled is not None else (None, f"none ({error.message})")


def _kept(names: Sequence[_Name], found: Sequence[_Found]) -> dict[_Name, bytes]:
    return {name: content for name, (content, _) in zip(names, found, strict=True) if content is not None}


def _whose(names: Sequence[str], found: Sequence[_Found]) -> tuple[str, ...]:
    """In words: how many are ours and stapled, and each that is missing."""
    counts = Counter(seen for content, seen in found if content is not None)
    missing = [f"{name}: {seen}" for name, (content, seen) in zip(names, found, strict=True) if content is None]
    return (*(f"{count} {whose}" for whose, count in counts.items()), *missing)


def _rim_ids(devices: Sequence[bytes]) -> list[str]:
    """Names of the manifests of all devices, each once; a device that cannot be read needs none."""
    from attestation.gpu.evidence import DeviceEvidence  # noqa: PLC0415 - most machines have no GPU
    from attestation.gpu.rim import rim_ids  # noqa: PLC0415 - likewise, and it loads XML signatures

    names: dict[str, None] = {}
    for evidence in devices:
        with contextlib.suppress(EvidenceError):  # the judge says what is wrong with it
            names |= dict.fromkeys(rim_ids(DeviceEvidence.parse(evidence).report))
    return list(names)[:MAX_RIMS]


def _questions(devices: Sequence[bytes], rims: Iterable[bytes]) -> list[OcspRequest]:
    """What responders are asked about the chains of devices and manifests, each certificate once."""
    from attestation.gpu import ocsp, rim_xml  # noqa: PLC0415 - likewise
    from attestation.gpu.evidence import DeviceEvidence  # noqa: PLC0415 - likewise

    found: dict[bytes, OcspRequest] = {}
    for evidence in devices:
        with contextlib.suppress(EvidenceError):
            found |= {item.fingerprint: item for item in ocsp.requests(DeviceEvidence.parse(evidence).chain)}
    for manifest in rims:
        with contextlib.suppress(EvidenceError):
            chain = rim_xml.certificates_of(rim_xml.parse_tag(manifest))
            found |= {item.fingerprint: item for item in ocsp.requests_for(chain, device=False)}
    return list(found.values())[:MAX_RESPONSES]
