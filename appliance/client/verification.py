"""What has to be proven before a prompt leaves: the gateway's evidence, and through it that of the model's workers.

In: a ready link, a verifier, the root contract's state. Out: verdicts, kept until they expire or :data:`RECHECK_S` has
passed. A gateway chooses the worker after the prompt has left, so *every* worker that it offers for a model must be
verified (or the policy must say that unattested workers are acceptable).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.client.errors import GatewayRefusedError, WorkerRefusedError
from appliance.wire import messages as tl
from appliance.wire.errors import QueryError
from appliance.wire.extensions import Extension
from attestation.errors import AttestationError
from attestation.evidence import parse_bundle

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
    """What the client insists on. ``check_images`` and ``check_models`` compare with the root contract's lists."""

    check_images: bool
    check_models: bool
    root_contract: str


@dataclass(slots=True)
class Proofs:
    """The verdicts of one link: the gateway's, and the workers' by model with the time of the check."""

    gateway: Verdict | None = None
    workers: dict[str, tuple[float, tuple[Verdict, ...]]] = field(default_factory=dict)


class Prover:
    """Asks for evidence over one link and judges it.

    Args:
        verifier: The one verification library, with the configured policy.
        demand: What is compared with the root contract.
        root: The newest proven root state.
        block_known: Whether a block hash is one this client has proven (evidence was not made before it).
        clock: Unix time.
    """

    def __init__(
        self,
        verifier: Verifier,
        demand: Demand,
        root: Callable[[], RootState],
        block_known: Callable[[bytes], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._demand = demand
        self._root = root
        self._block_known = block_known
        self._clock = clock

    async def gateway(self, link: Link) -> Verdict:
        """Judge the gateway: its certificate was judged in the handshake; here its image and its fresh evidence.

        Raises:
            GatewayRefusedError: Its image is not listed.
            RefusedError: Its evidence fails a check; the verdict is inside.
        """
        peer = link.peer
        if peer is None:
            raise GatewayRefusedError("the link says nothing about its peer", hint="plain TCP is for tests only")
        if self._demand.check_images and peer.image_hash not in self._root().proxy_hashes:
            raise GatewayRefusedError(
                f"the gateway's image {peer.image_hash.hex()} is not listed in {self._demand.root_contract}",
                hint="only the root contract's owner lists images: chrysalis registry show",
            )
        if Extension.EVIDENCE not in link.extensions or peer.public_key is None:
            if peer.verdict is None:
                raise GatewayRefusedError(
                    "the gateway showed no evidence", hint="a router judged it; trust that router"
                )
            return peer.verdict.require()
        nonce = secrets.token_bytes(32)
        answer = await link.query(tl.ChrysalisGetEvidence(nonce), timeout=EVIDENCE_TIMEOUT_S)
        verdict = await self._verifier.verify_bundle(
            answer.bundle, nonce=nonce, public_key=peer.public_key, block_known=self._block_known
        )
        verdict.require()
        self._same_root(verdict, "gateway")
        return verdict

    async def workers(self, link: Link, proofs: Proofs, model: str) -> tuple[Verdict, ...]:
        """Judge every worker that the gateway offers for a model; a recent judgement is used again.

        Raises:
            WorkerRefusedError: There is none, or one of them fails a check: its verdict is told.
        """
        now = self._clock()
        known = proofs.workers.get(model)
        if known is not None and now - known[0] < RECHECK_S and all(verdict.expires_at > now for verdict in known[1]):
            return known[1]
        if Extension.EVIDENCE not in link.extensions:
            raise WorkerRefusedError(
                "the gateway cannot relay the evidence of its workers",
                hint="use a gateway that speaks our extensions, or set trust.check_images = false to do without",
            )
        nonce = secrets.token_bytes(32)
        try:
            answer = await link.query(tl.ChrysalisGetWorkerEvidence(nonce, model), timeout=EVIDENCE_TIMEOUT_S)
        except QueryError as error:
            raise WorkerRefusedError(
                f"no evidence of workers for {model!r}: {error.message}", hint=error.hint
            ) from None
        if not 0 < len(answer.items) <= MAX_WORKERS:
            raise WorkerRefusedError(f"{len(answer.items)} workers offer {model!r}, expected 1 to {MAX_WORKERS}")
        verdicts = tuple([await self._worker(item, nonce, model) for item in answer.items])
        proofs.workers[model] = (now, verdicts)
        return verdicts

    async def _worker(self, bundle: bytes, nonce: bytes, model: str) -> Verdict:
        try:
            # The client never meets the worker's key: the quote covers it, and the gateway has it at its other end.
            key = parse_bundle(bundle).keys["tls"]
            verdict = await self._verifier.verify_bundle(
                bundle, nonce=nonce, public_key=key, block_known=self._block_known
            )
            verdict.require()
        except AttestationError as error:
            raise WorkerRefusedError(f"a worker of {model!r} is refused: {error}") from None
        self._same_root(verdict, "worker")
        root, statement = self._root(), verdict.statement
        if self._demand.check_images and verdict.image_hash not in root.worker_hashes:
            raise WorkerRefusedError(
                f"a worker's image {verdict.image_hash.hex()} is not listed in {self._demand.root_contract}",
                hint="it was delisted, or never listed",
            )
        if statement is None or statement.model.partition("@")[0] != model:
            raise WorkerRefusedError(f"a worker offered for {model!r} states another model")
        if self._demand.check_models and hashlib.sha256(statement.model.encode()).digest() not in root.model_hashes:
            raise WorkerRefusedError(
                f"the model {statement.model!r} is not listed in {self._demand.root_contract}",
                hint="it was delisted, or never listed",
            )
        return verdict

    def _same_root(self, verdict: Verdict, who: str) -> None:
        stated = verdict.statement.root_contract if verdict.statement is not None else ""
        if stated and stated != self._demand.root_contract:
            raise GatewayRefusedError(
                f"the {who} obeys root contract {stated}, this client {self._demand.root_contract}",
                hint="it belongs to another network",
            )
