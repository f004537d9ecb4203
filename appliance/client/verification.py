"""What has to be proven before a prompt leaves: the gateway's evidence, and through it that of the model's workers.

In: a ready link, a verifier, the root contract's state. Out: verdicts, kept until they expire or :data:`RECHECK_S` has
passed; that their images and models are still listed is looked up for every request.

What a verdict on workers is worth: a gateway chooses the worker after the prompt has left, and it shows the evidence of
a few of them (:data:`~appliance.gateway.evidence.RELAYED_WORKERS`). That no other worker gets the prompt is the
gateway's program's doing, which its own evidence covers: it admits listed workers only. So the two proofs belong
together; with a reference gateway, whose evidence is its certificate alone, there is only the first.

Evidence is fresh because it answers our nonce. The block hash inside it is not compared with this client's own proven
heads: both sides look at the chain at times of their own, so the hashes are of different blocks, and proving a block
that is known by its hash alone takes a search no liteserver offers.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.errors import AddressError
from appliance.client.errors import ClientError, GatewayRefusedError, WorkerRefusedError
from appliance.client.texts import plain_text, split_retry
from appliance.errors import ErrorCode, RequestError
from appliance.wire import messages as tl
from appliance.wire.errors import QueryError
from appliance.wire.extensions import Extension
from attestation.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.chain.layouts import RootState
    from appliance.wire.link import Link
    from attestation.verdict import Verdict
    from attestation.verifier import Verifier

EVIDENCE_TIMEOUT_S = 60.0
RECHECK_S = 600.0
MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class Demand:
    """What the client insists on.

    Attributes:
        check_images: Images have to be in the root contract's lists.
        check_models: Models too.
        root_contract: The root contract that peers have to obey.
        zerostate: Root hash of the zerostate of its chain, 32 bytes.
        reference_gateways: Take gateways that know nothing of fresh evidence; their certificate alone speaks for them.
    """

    check_images: bool
    check_models: bool
    root_contract: Address
    zerostate: bytes
    reference_gateways: bool = False


@dataclass(slots=True)
class Shown:
    """Verdicts on the workers of one model, and when they were reached. ``turn`` lets one request at a time ask.

    ``ended`` counts how often they were voided: one that is voided while it is asked for is not kept.
    """

    at: float = 0.0
    ended: int = 0
    verdicts: tuple[Verdict, ...] = ()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Proofs:
    """The verdicts of one link: the gateway's with the time of the check, and the workers' by model."""

    gateway: Verdict | None = None
    gateway_at: float = 0.0
    workers: dict[str, Shown] = field(default_factory=dict)

    def forget_workers(self, model: str) -> None:
        """The workers of a model may be others now: the next request asks again."""
        if model in self.workers:
            self.workers[model].at = 0.0
            self.workers[model].ended += 1


class Prover:
    """Asks for evidence over one link and judges it.

    Args:
        verifier: The one verification library, with the configured policy.
        demand: What else is compared.
        root: The newest proven root state.
        clock: Unix time.
    """

    def __init__(
        self,
        verifier: Verifier,
        demand: Demand,
        root: Callable[[], RootState],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._demand = demand
        self._root = root
        self._clock = clock

    # The gateway ------------------------------------------------------------------------------------------------

    async def gateway(self, link: Link) -> Proofs:
        """Judge the gateway: its certificate was judged in the handshake; here its image and its fresh evidence.

        Raises:
            GatewayRefusedError: Its image is not listed, it has no fresh evidence, or its statement is of another kind.
            RefusedError: Its evidence fails a check; the verdict is inside.
        """
        peer = link.peer
        if peer is None:
            raise GatewayRefusedError("the link says nothing about its peer", hint="plain TCP is for tests only")
        self._listed_gateway(peer.image_hash)
        if Extension.EVIDENCE not in link.extensions or peer.public_key is None:
            if not self._demand.reference_gateways:
                raise GatewayRefusedError(
                    "the gateway offers no fresh evidence",
                    hint="this policy takes only gateways that speak our evidence extension",
                )
            return Proofs(peer.verdict.require() if peer.verdict is not None else None, self._clock())
        nonce = secrets.token_bytes(32)
        try:
            answer = await link.query(tl.ChrysalisGetEvidence(nonce), timeout=EVIDENCE_TIMEOUT_S)
        except QueryError as error:
            if self._demand.reference_gateways:
                return Proofs(peer.verdict.require() if peer.verdict is not None else None, self._clock())
            raise GatewayRefusedError(f"the gateway gives no evidence: {plain_text(error.message)}") from None
        verdict = await self._verifier.verify_bundle(answer.bundle, nonce=nonce, public_key=peer.public_key)
        verdict.require()
        if verdict.image_hash != peer.image_hash:
            raise GatewayRefusedError(
                f"the gateway's evidence is of image {verdict.image_hash.hex()}, "
                f"its certificate of {peer.image_hash.hex()}"
            )
        self._consistent(verdict, "gateway", GatewayRefusedError)
        return Proofs(verdict, self._clock())

    def require_gateway(self, link: Link, proofs: Proofs) -> None:
        """What is looked at for every request: listing and expiry. No I/O.

        Raises:
            GatewayRefusedError: The verdict is over, or the image was delisted.
        """
        if link.peer is not None:
            self._listed_gateway(link.peer.image_hash)
        if proofs.gateway is not None and proofs.gateway.expires_at <= self._clock():
            raise GatewayRefusedError(
                "the verdict on the gateway has expired with its collateral or certificate",
                hint="fresh evidence is asked for; try again in a few seconds",
            )

    def due(self, proofs: Proofs) -> bool:
        """Whether the gateway has to show evidence again."""
        now = self._clock()
        expired = proofs.gateway is not None and proofs.gateway.expires_at <= now
        return expired or now - proofs.gateway_at >= RECHECK_S

    def _listed_gateway(self, image: bytes) -> None:
        if self._demand.check_images and image not in self._root().proxy_hashes:
            raise GatewayRefusedError(
                f"the gateway's image {image.hex()} is not listed in {self._demand.root_contract}",
                hint="it was delisted or never listed; only the root contract's owner lists images: "
                "chrysalis registry show",
            )

    # The workers ------------------------------------------------------------------------------------------------

    async def workers(self, link: Link, proofs: Proofs, model: str) -> tuple[Verdict, ...]:
        """Judge the workers that the gateway shows for a model; a recent judgement is used again.

        One on a worker that is not listed any more is none: its gateway has dropped that worker, and has others now.

        Raises:
            WorkerRefusedError: There is none, or one of them fails a check: its verdict is told.
            RequestError: The gateway asks to come again later.
        """
        shown = proofs.workers.setdefault(model, Shown())
        if not self._recent(shown):
            async with shown.turn:
                if not self._recent(shown):
                    ended = shown.ended
                    shown.verdicts = await self._ask(link, model)
                    shown.at = self._clock() if shown.ended == ended else 0.0
        for verdict in shown.verdicts:
            self._listed_worker(verdict)
        return shown.verdicts

    def _recent(self, shown: Shown) -> bool:
        now = self._clock()
        current = shown.at and now - shown.at < RECHECK_S
        return bool(current) and all(
            verdict.expires_at > now and not self._unlisted(verdict) for verdict in shown.verdicts
        )

    async def _ask(self, link: Link, model: str) -> tuple[Verdict, ...]:
        if Extension.EVIDENCE not in link.extensions:
            raise WorkerRefusedError(
                "the gateway cannot relay the evidence of its workers",
                hint="use a gateway that speaks our extensions",
            )
        nonce = secrets.token_bytes(32)
        try:
            answer = await link.query(tl.ChrysalisGetWorkerEvidence(nonce, model), timeout=EVIDENCE_TIMEOUT_S)
        except QueryError as error:
            text, retry_after = split_retry(plain_text(error.message))
            if retry_after is not None or error.code == ErrorCode.NOT_READY:
                raise RequestError(text, code=ErrorCode.NOT_READY, retry_after=retry_after) from None
            raise WorkerRefusedError(f"the gateway gives no evidence of workers: {text}") from None
        if not 0 < len(answer.items) <= MAX_WORKERS:
            raise WorkerRefusedError(
                f"the gateway shows the evidence of {len(answer.items)} workers, expected 1 to {MAX_WORKERS}",
                hint="those it has did not answer; try again",
            )
        return tuple([await self._worker(item, nonce, model) for item in answer.items])

    async def _worker(self, bundle: bytes, nonce: bytes, model: str) -> Verdict:
        try:
            # The client never meets the worker's key: the quote covers it, and the gateway has it at its other end.
            verdict = await self._verifier.verify_bundle(bundle, nonce=nonce, public_key=None)
            verdict.require()
        except AttestationError as error:
            raise WorkerRefusedError(f"a worker is refused: {error}") from None
        self._consistent(verdict, "worker", WorkerRefusedError)
        statement = verdict.statement
        if statement is None or statement.model.partition("@")[0] != model:
            raise WorkerRefusedError("a worker offered for one model states that it serves another one")
        if statement.model_hash.hex() != statement.model.rpartition(":")[2]:
            raise WorkerRefusedError(
                f"a worker states model {plain_text(statement.model)} and model hash {statement.model_hash.hex()}",
                hint="the name has to end with the hash of the volume that is mounted",
            )
        self._listed_worker(verdict)
        return verdict

    def _listed_worker(self, verdict: Verdict) -> None:
        if what := self._unlisted(verdict):
            raise WorkerRefusedError(
                f"{what} is not listed in {self._demand.root_contract}", hint="it was delisted, or never listed"
            )

    def _unlisted(self, verdict: Verdict) -> str:
        """What of a worker the root contract does not list, empty if it lists all."""
        root, statement = self._root(), verdict.statement
        if self._demand.check_images and verdict.image_hash not in root.worker_hashes:
            return f"a worker's image {verdict.image_hash.hex()}"
        if not self._demand.check_models or statement is None:
            return ""
        listed = hashlib.sha256(statement.model.encode()).digest() in root.model_hashes
        return "" if listed else f"the model {statement.model}"

    def _consistent(self, verdict: Verdict, role: str, refused: type[ClientError]) -> None:
        """The statement has to be of this kind of machine, of this network, and of the image that was measured."""
        statement = verdict.statement
        if statement is None:
            raise refused(f"the {role}'s evidence has no workload statement")
        pairs = (
            ("role", statement.role, role),
            ("image", statement.image.hex(), verdict.image_hash.hex()),
            ("root contract", _raw(statement.root_contract), self._demand.root_contract.raw()),
            ("chain", statement.chain.hex(), self._demand.zerostate.hex()),
        )
        for name, seen, expected in pairs:
            if seen != expected:
                raise refused(
                    f"the {role}'s statement has {name} {plain_text(seen) or 'empty'}, expected {expected}",
                    hint="it belongs to another network, or is no such machine",
                )


def _raw(text: str) -> str:
    try:
        return Address.parse(text).raw()
    except AddressError:
        return text
