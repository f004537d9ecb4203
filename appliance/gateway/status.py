"""What the gateway's operator looks at: /health, /status and /metrics on a loopback port.

In: a snapshot function. Out: JSON and Prometheus text with the fields listed here and no others: numbers, the
gateway's own addresses, models, reasons. Nothing about a client, nothing of a request's content. GET only: nothing
changes through this port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict

from appliance.gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

_NAMESPACE = "chrysalis_gateway"


class WorkerStatus(BaseModel):
    """One worker connection."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    number: int
    model: str
    image_hash: str
    coefficient: int
    offered: bool
    proven: bool
    running: int
    limit: int
    average_s: float
    absurd_reports: int


class MoneyStatus(BaseModel):
    """Totals in adjusted tokens over all accounts, and how far they are written down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: int
    marker_on_its_way: int
    earned: int
    earned_written: int
    earned_committed: int
    earned_on_chain: int
    reserved: int
    foreign_markers: int
    problem: str = ""


class GatewayStatus(BaseModel):
    """Everything that is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taking_work: bool
    reason: str
    contract: str
    wallet: str
    root_version: int
    params_version: int
    root_age_s: float
    clients: int
    requests_open: int
    requests_waiting: int
    totals: dict[str, int]
    failures: dict[str, int]
    refusals: dict[str, int]
    refused_workers: list[str]
    workers: list[WorkerStatus]
    money: MoneyStatus


def application(snapshot: Callable[[], GatewayStatus]) -> web.Application:
    """The routes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))

    async def health(_request: web.Request) -> web.Response:
        status = snapshot()
        text = "ok" if status.taking_work else status.reason
        return web.Response(text=text + "\n", status=200 if status.taking_work else 503)

    async def status(_request: web.Request) -> web.Response:
        return web.Response(text=snapshot().model_dump_json(), content_type="application/json")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/health", health)
    app.router.add_get("/status", status)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(snapshot: Callable[[], GatewayStatus], host: str, port: int) -> web.AppRunner:
    """Listen; the caller cleans the runner up. Raises :class:`GatewayError` when the address cannot be had."""
    runner = web.AppRunner(application(snapshot), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise GatewayError(f"cannot listen on {host}:{port}: {error.strerror}", hint="set host.status") from None
    return runner


class _Collector:
    """Metrics made of a snapshot when they are asked for."""

    def __init__(self, snapshot: Callable[[], GatewayStatus]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        status = self._snapshot()
        money = status.money
        gauges = {
            "taking_work": (float(status.taking_work), "Whether new requests are taken"),
            "root_age_seconds": (status.root_age_s, "Age of the root contract's state"),
            "clients": (status.clients, "Client connections"),
            "workers": (len(status.workers), "Worker connections"),
            "workers_offered": (sum(worker.offered for worker in status.workers), "Workers that get requests"),
            "requests_open": (status.requests_open, "Requests that hold a reservation"),
            "requests_waiting": (status.requests_waiting, "Requests in the queue"),
            "ledger_sequence": (money.sequence, "Newest sequence number of the ledger"),
            "tokens_reserved": (money.reserved, "Adjusted tokens set aside"),
            "tokens_earned": (money.earned, "Adjusted tokens earned by workers"),
            "tokens_earned_written": (money.earned_written, "Of these, on disk"),
            "tokens_earned_committed": (money.earned_committed, "Of these, committed to the chain"),
        }
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"{_NAMESPACE}_{name}", text, value=value)
        for name, value in status.totals.items():
            yield CounterMetricFamily(f"{_NAMESPACE}_{name}", "Total since the start", value=value)
        for name, values, label in (
            ("failures", status.failures, "code"),
            ("refusals", status.refusals, "peer"),
        ):
            family = CounterMetricFamily(f"{_NAMESPACE}_{name}", "Total since the start", labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
