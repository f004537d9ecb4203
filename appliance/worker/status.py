"""What a worker's operator looks at, and the few things the operator may change.

In: a snapshot of the worker. Out: ``GET /health``, ``/status``, ``/engine``, ``/metrics``; ``POST /enable``,
``/disable``, ``/coefficient`` and ``/payout``, which need the control key as a bearer token. Only the fields listed
here leave the process: the worker's own states, numbers and addresses; nothing of a request, an answer or a client.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict

from appliance.engine.errors import EngineError
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from appliance.engine.counters import EngineCounters
    from appliance.worker.service import Worker
    from appliance.worker.stages import Stages

_NAMESPACE = "chrysalis_worker"
MAX_CONTROL_BYTES = 1024


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ReasonView(_View):
    """Why no work is taken."""

    name: str
    text: str
    hint: str


class StageView(_View):
    """A stage of the start."""

    name: str
    state: str
    seconds: float
    reason: str


class LinkView(_View):
    """A gateway."""

    address: str
    ready: bool
    protocol: int | None
    violations: int


class AccountView(_View):
    """An account with a gateway, in adjusted tokens; ``due`` in nanotons."""

    contract: str
    worker_contract: str
    committed: int
    db: int
    max: int
    requested: int
    lost: int
    due: int
    payout: str


class RequestsView(_View):
    """Requests since start; tokens are adjusted tokens of successful answers."""

    running: int
    started: int
    succeeded: int
    failed: int
    refused: int
    cancelled: int
    bytes_out: int
    seconds: float
    prompt: int
    cached: int
    completion: int
    reasoning: int


class WorkerStatus(_View):
    """The whole page."""

    working: bool
    reasons: tuple[ReasonView, ...]
    stages: tuple[StageView, ...]
    image: str
    model: str
    owner: str
    coefficient: int
    gateways: tuple[LinkView, ...]
    troubles: dict[str, str]
    accounts: tuple[AccountView, ...]
    requests: RequestsView


def view(worker: Worker | None, stages: Stages, image: bytes) -> dict[str, Any]:
    """The status as JSON values; before the worker exists, the stages alone."""
    shown = tuple(StageView(name=s.name, state=s.state, seconds=round(s.seconds, 3), reason=s.reason) for s in stages)
    if worker is None:
        return {"working": False, "reasons": [], "stages": [stage.model_dump() for stage in shown]}
    reasons = worker.look()
    tally, offer = worker.requests.tally, worker.offer
    decisions = worker.collector.decisions
    accounts = []
    for contract, record in worker.book.durable.items():
        decision = decisions.get(contract)
        accounts.append(
            AccountView(
                contract=contract.friendly(testnet=offer.testnet),
                worker_contract=record.worker_contract.friendly(testnet=offer.testnet),
                committed=record.counters.committed,
                db=record.counters.db,
                max=record.counters.max,
                requested=record.requested,
                lost=record.lost,
                due=decision.due if decision else 0,
                payout=decision.reason if decision else "not looked at yet",
            )
        )
    status = WorkerStatus(
        working=not reasons,
        reasons=tuple(ReasonView(name=r.name, text=r.text, hint=r.hint) for r in reasons),
        stages=shown,
        image=image.hex(),
        model=offer.model,
        owner=offer.owner.friendly(testnet=offer.testnet),
        coefficient=offer.coefficient,
        gateways=tuple(
            LinkView(
                address=link.address,
                ready=link.ready,
                protocol=link.session.protocol if link.session else None,
                violations=link.violations,
            )
            for link in worker.links
        ),
        troubles=dict(worker.troubles),
        accounts=tuple(accounts),
        requests=RequestsView(
            running=worker.requests.active,
            started=tally.started,
            succeeded=tally.succeeded,
            failed=tally.failed,
            refused=tally.refused,
            cancelled=tally.cancelled,
            bytes_out=tally.bytes_out,
            seconds=round(tally.seconds, 3),
            prompt=tally.prompt,
            cached=tally.cached,
            completion=tally.completion,
            reasoning=tally.reasoning,
        ),
    )
    return status.model_dump(mode="json")


class _Collector:
    """Prometheus numbers, read from the worker when they are asked for."""

    def __init__(self, worker: Callable[[], Worker | None]) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        worker = self._worker()
        up = GaugeMetricFamily(f"{_NAMESPACE}_working", "1 while requests are taken.")
        up.add_metric([], float(worker is not None and not worker.look()))
        yield up
        if worker is None:
            return
        tally = worker.requests.tally
        yield GaugeMetricFamily(f"{_NAMESPACE}_running_requests", "Requests in flight.", worker.requests.active)
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_ready_gateways",
            "Gateways with a finished handshake.",
            sum(link.ready for link in worker.links),
        )
        ends = CounterMetricFamily(f"{_NAMESPACE}_requests", "Requests by their end.", labels=["end"])
        for end in ("succeeded", "failed", "refused", "cancelled"):
            ends.add_metric([end], getattr(tally, end))
        yield ends
        tokens = CounterMetricFamily(f"{_NAMESPACE}_adjusted_tokens", "Of successful answers.", labels=["kind"])
        for kind in ("prompt", "cached", "completion", "reasoning"):
            tokens.add_metric([kind], getattr(tally, kind))
        yield tokens
        yield CounterMetricFamily(f"{_NAMESPACE}_answer_bytes", "Body bytes sent.", tally.bytes_out)
        yield CounterMetricFamily(f"{_NAMESPACE}_request_seconds", "Time spent on requests.", tally.seconds)
        records = worker.book.durable.values()
        totals = GaugeMetricFamily(f"{_NAMESPACE}_account_tokens", "Over all gateways.", labels=["counter"])
        for counter in ("committed", "db", "max"):
            totals.add_metric([counter], sum(getattr(record.counters, counter) for record in records))
        yield totals
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_lost_tokens", "Tokens gateways forgot.", sum(record.lost for record in records)
        )


class StatusPage:
    """The HTTP side.

    Args:
        worker: The worker, once there is one.
        stages: Of its start.
        image: This machine's image hash as far as it is known.
        control_key: The bearer token of POST requests.
        counters: The engine's own token counts, once there is an engine; raises ``EngineError``.
    """

    def __init__(
        self,
        worker: Callable[[], Worker | None],
        stages: Stages,
        image: Callable[[], bytes],
        control_key: str,
        counters: Callable[[], Awaitable[EngineCounters]] | None = None,
    ) -> None:
        self._worker = worker
        self._stages = stages
        self._image = image
        self._key = control_key.encode()
        self._counters = counters
        self._metrics = CollectorRegistry()
        self._metrics.register(_Collector(worker))

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_CONTROL_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/status", self._status)
        app.router.add_get("/engine", self._engine)
        app.router.add_get("/metrics", self._metrics_text)
        app.router.add_post("/enable", self._controlled(self._enable))
        app.router.add_post("/disable", self._controlled(self._disable))
        app.router.add_post("/coefficient", self._controlled(self._coefficient))
        app.router.add_post("/payout", self._controlled(self._payout))
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        page = view(self._worker(), self._stages, self._image())
        short = {"working": page["working"], "reasons": page["reasons"]}
        return web.json_response(short, status=200 if page["working"] else 503)

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(view(self._worker(), self._stages, self._image()))

    async def _engine(self, _request: web.Request) -> web.Response:
        """The engine's own token counts: for a comparison with the ledger's."""
        if self._counters is None:
            return _problem(404, "this worker does not know its engine's counters", "")
        try:
            return web.json_response(asdict(await self._counters()))
        except EngineError as error:
            return _problem(503, error.message, error.hint)

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _controlled(
        self, action: Callable[[Worker, web.Request], Awaitable[None]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            sent = request.headers.get("Authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(sent, b"Bearer " + self._key):
                return _problem(401, "the control key is missing or wrong", "Authorization: Bearer <control.key>")
            worker = self._worker()
            if worker is None:
                return _problem(503, "the worker has not started yet", "see /status")
            try:
                await action(worker, request)
            except ConfigError as error:
                return _problem(400, error.message, error.hint)
            return web.json_response({"done": True})

        return handle

    async def _enable(self, worker: Worker, _request: web.Request) -> None:
        worker.set_enabled(True)

    async def _disable(self, worker: Worker, _request: web.Request) -> None:
        worker.set_enabled(False)

    async def _payout(self, worker: Worker, _request: web.Request) -> None:
        worker.collect_now()

    async def _coefficient(self, worker: Worker, request: web.Request) -> None:
        try:
            body = json.loads(await request.read())
            coefficient = body["coefficient"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError("the body is not JSON with a coefficient", hint='{"coefficient": 1000}') from None
        if not isinstance(coefficient, int) or isinstance(coefficient, bool):
            raise ConfigError("coefficient must be an integer, in thousandths", hint='{"coefficient": 1000}')
        worker.set_coefficient(coefficient)


def _problem(status: int, message: str, hint: str) -> web.Response:
    return web.json_response({"error": message, "hint": hint}, status=status)
