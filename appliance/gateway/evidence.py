"""Fresh evidence of workers: asked for over the link, verified, compared with what the worker said and what is listed.

In: a worker's link and its first message. Out: until when its evidence holds, or an :class:`AdmissionError` that says
exactly why not. Clients get the same evidence, made for their own nonce, relayed unread: see :func:`relay`.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from appliance.chain.addresses import Address
from appliance.chain.errors import AddressError
from appliance.errors import ErrorCode
from appliance.gateway.admission import Checks, check_image, check_model
from appliance.gateway.errors import AdmissionError
from appliance.wire.errors import WireError
from appliance.wire.extensions import Extension
from appliance.wire.messages import ChrysalisGetEvidence, ChrysalisWorkerEvidence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.gateway.admission import AdmittedWorker
    from appliance.gateway.terms import Terms
    from appliance.wire.link import Link
    from attestation.claims import WorkloadStatement
    from attestation.verdict import Verdict

NONCE_BYTES = 32
QUERY_TIMEOUT_S = 60.0
"""Quotes are slow and serial, and a worker may have many gateways."""
RELAYED_WORKERS = 4
RELAYED_BYTES = 8 << 20
"""Half a frame."""


class BundleVerifier(Protocol):
    """What is needed of :class:`attestation.verifier.Verifier`."""

    async def verify_bundle(self, bundle: bytes, *, nonce: bytes, public_key: bytes) -> Verdict:
        """Appraise a bundle made for ``nonce`` by the holder of ``public_key``."""
        ...


@dataclass(frozen=True, slots=True)
class Proof:
    """A worker's accepted evidence.

    Attributes:
        until: Unix time after which it has to be asked for again.
        generation: Of the workload that it speaks of; a later one voids it.
    """

    until: float
    generation: int


class EvidencePolicy:
    """Decides whether a worker has proven what it said.

    Args:
        verifier: Appraises bundles.
        checks: Which lists of the root contract are enforced.
        reference_workers: Take workers that know nothing of fresh evidence; their certificate alone speaks for them.
        zerostate: Root hash of the chain's zerostate, which a statement must name if it names one.
    """

    def __init__(
        self, verifier: BundleVerifier, checks: Checks, *, reference_workers: bool, zerostate: bytes = b""
    ) -> None:
        self._verifier = verifier
        self._checks = checks
        self._reference_workers = reference_workers
        self._zerostate = zerostate

    async def prove(self, link: Link, admitted: AdmittedWorker, terms: Terms) -> Proof | None:
        """Ask for evidence and judge it.

        Returns:
            What was proven; None for a reference worker that is taken without.

        Raises:
            AdmissionError: The reason, with what was seen and expected.
            WireError: The worker did not answer.
        """
        if Extension.EVIDENCE not in link.extensions:
            if self._reference_workers:
                return None
            raise _refused(
                "the worker offers no fresh evidence",
                "run a worker that knows the evidence extension, or let this gateway take reference workers",
            )
        public_key = link.peer.public_key if link.peer is not None else None
        if public_key is None:
            if self._reference_workers:
                return None
            raise _refused("the link carries no key to which evidence could be bound", "connect over RA-TLS")
        nonce = secrets.token_bytes(NONCE_BYTES)
        answer = await link.query(ChrysalisGetEvidence(nonce), timeout=QUERY_TIMEOUT_S)
        verdict = await self._verifier.verify_bundle(answer.bundle, nonce=nonce, public_key=public_key)
        if not verdict.accepted:
            reasons = "; ".join(str(check) for check in verdict.failed) or "no check passed"
            raise _refused(f"evidence refused by policy {verdict.policy!r}: {reasons}", "")
        if verdict.statement is None:
            raise _refused("the evidence has no workload statement", "")
        self._compare(verdict.statement, verdict.image_hash, admitted, terms)
        return Proof(verdict.expires_at, verdict.statement.generation)

    def _compare(self, statement: WorkloadStatement, image_hash: bytes, admitted: AdmittedWorker, terms: Terms) -> None:
        """Statement, connection and registry must tell the same story."""
        identity = terms.identity
        pairs = (
            ("role", statement.role, "worker"),
            ("image", statement.image.hex(), image_hash.hex()),
            ("image of the link", admitted.image_hash.hex(), image_hash.hex()),
            ("root contract", _raw(statement.root_contract), identity.root_contract.raw()),
            ("owner", _raw(statement.owner), admitted.owner.raw()),
            ("model", statement.model, admitted.model),
            ("model hash", statement.model_hash.hex(), admitted.model.rpartition(":")[2]),
            ("chain", statement.chain.hex(), self._zerostate.hex() if statement.chain else ""),
        )
        for name, seen, expected in pairs:
            if seen != expected:
                raise _refused(
                    f"the workload statement's {name} is {seen or 'empty'}, expected {expected or 'empty'}",
                    "what the worker says on the link must be what its evidence covers",
                )
        if self._checks.images:
            check_image(image_hash, terms)
        if self._checks.models:
            check_model(statement.model, terms)


def _refused(message: str, hint: str) -> AdmissionError:
    return AdmissionError(message, code=ErrorCode.PROTOCOL_VIOLATION, hint=hint)


def _raw(text: str) -> str:
    try:
        return Address.parse(text).raw()
    except AddressError:
        return text


async def relay(links: Iterable[Link], nonce: bytes) -> ChrysalisWorkerEvidence:
    """Ask some workers for evidence made for a client's nonce; whoever does not answer is left out."""
    chosen = list(links)[:RELAYED_WORKERS]
    answers = await asyncio.gather(*(_bundle(link, nonce) for link in chosen))
    items: list[bytes] = []
    size = 0
    for bundle in answers:
        size += len(bundle)
        if bundle and size <= RELAYED_BYTES:
            items.append(bundle)
    return ChrysalisWorkerEvidence(tuple(items))


async def _bundle(link: Link, nonce: bytes) -> bytes:
    try:
        return (await link.query(ChrysalisGetEvidence(nonce), timeout=QUERY_TIMEOUT_S)).bundle
    except WireError:
        return b""
