"""What the client counts: requests, answers, tokens, cost. Names and label values from fixed lists; no content."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.client.answers import Answer
    from appliance.wire.messages import TokensUsed

KINDS = ("prompt", "cached", "completion", "reasoning")


class ClientMetrics:
    """The client's metrics, in a registry of their own."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._running = Gauge("chrysalis_client_running_requests", "Requests in flight.", registry=registry)
        self._answers = Counter("chrysalis_client_answers", "Answers received whole.", registry=registry)
        self._failures = Counter("chrysalis_client_failures", "Failed, by kind.", ["error"], registry=registry)
        self._tokens = Counter("chrysalis_client_adjusted_tokens", "Of answers.", ["kind"], registry=registry)
        self._cost = Counter("chrysalis_client_cost_nanotons", "What answers cost.", registry=registry)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around one request."""
        with self._running.track_inprogress():
            yield

    def answered(self, answer: Answer) -> None:
        """A whole answer."""
        self._answers.inc()
        self._cost.inc(answer.cost)
        for kind in KINDS:
            self._tokens.labels(kind).inc(_of(answer.used, kind))

    def failed(self, error: str) -> None:
        """A failure; ``error`` is the name of a class of our own tree, or one of the endpoint's own few words."""
        self._failures.labels(error).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


def _of(used: TokensUsed, kind: str) -> int:
    return int(getattr(used, f"{kind}_tokens_used"))
