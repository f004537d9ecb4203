"""The workers that are connected, and which of them gets the next request. Pure.

In: admitted connections and how long their requests took. Out: a choice (protocol specification, section 2.4) and the
lists that clients ask for (section 4.6).
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Protocol

from appliance.errors import ErrorCode, RequestError
from appliance.wire.messages import (
    ClientWorkerInstanceV2,
    ClientWorkerType,
    ClientWorkerTypes,
    ClientWorkerTypesV2,
    ClientWorkerTypeV2,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from appliance.gateway.admission import AdmittedWorker
    from appliance.gateway.book import WorkerAccount
    from appliance.gateway.exchange import Exchange
    from appliance.wire.base import TLObject

NAMED_MODELS = 20
"""How many models a refusal names."""
WINDOW_S = 600.0
"""Length of the exponential window of durations (section 2.4)."""
NO_COEFFICIENT = 2**31 - 1
"""What the reference adds to the list of coefficients before it takes minimum, middle and maximum (section 4.6)."""


class WorkerPort(Protocol):
    """The way to a worker: what the pure part needs of a link."""

    def send(self, message: TLObject) -> None:
        """Queue a message; raises ``WireError`` when the link is gone or the message too large."""
        ...


class Average:
    """Mean of durations, each weighted by ``exp(-age / window)``. Seconds."""

    __slots__ = ("_at", "_sum", "_weight")

    def __init__(self) -> None:
        self._at = 0.0
        self._sum = 0.0
        self._weight = 0.0

    def add(self, duration: float, now: float) -> None:
        """Take one finished request into account."""
        fade = math.exp(min(0.0, self._at - now) / WINDOW_S)
        self._sum = self._sum * fade + duration
        self._weight = self._weight * fade + 1.0
        self._at = now

    @property
    def value(self) -> float:
        """The mean; 0 before the first request."""
        return self._sum / self._weight if self._weight else 0.0


class WorkerConnection:
    """One connection of a worker, after its handshake began.

    Attributes:
        number: Order of arrival.
        port: The way to the worker.
        account: Its owner's account.
        cleared: Its evidence holds (or none is asked of it), so it may be offered requests.
        disabled: It said so itself.
        listed: Image and model are in the lists of the root state in force.
        can_cancel: It understands our cancel message.
        running: Requests on it, by the id it knows them by.
        absurd_reports: Usage reports that contradicted what was seen to pass.
        generation: Evidence of one before it is over, by its own word.
    """

    __slots__ = (
        "absurd_reports",
        "account",
        "admitted",
        "average",
        "can_cancel",
        "can_prove",
        "cleared",
        "coefficient",
        "disabled",
        "generation",
        "listed",
        "number",
        "port",
        "running",
        "shaken",
    )

    def __init__(self, number: int, port: WorkerPort, admitted: AdmittedWorker, account: WorkerAccount) -> None:
        self.number = number
        self.port = port
        self.admitted = admitted
        self.account = account
        self.coefficient = admitted.coefficient
        self.average = Average()
        self.running: dict[bytes, Exchange] = {}
        self.shaken = False
        self.cleared = False
        self.disabled = True
        self.listed = True
        self.can_cancel = False
        self.can_prove = False
        self.absurd_reports = 0
        self.generation = 0

    @property
    def model(self) -> str:
        """The name that requests carry."""
        return self.admitted.base_model

    @property
    def offered(self) -> bool:
        """Whether requests may go to it at all."""
        return self.shaken and self.cleared and self.listed and not self.disabled

    @property
    def free(self) -> int:
        """Requests it can take now."""
        return max(0, self.admitted.limit - len(self.running))


class Fleet:
    """All worker connections, by model."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, WorkerConnection]] = {}

    def __iter__(self) -> Iterator[WorkerConnection]:
        for connections in self._models.values():
            yield from connections.values()

    def __len__(self) -> int:
        return sum(map(len, self._models.values()))

    def add(self, connection: WorkerConnection) -> None:
        """A worker was admitted."""
        self._models.setdefault(connection.model, {})[connection.number] = connection

    def remove(self, connection: WorkerConnection) -> None:
        """Its link is gone; unknown ones are ignored."""
        connections = self._models.get(connection.model)
        if connections is None:
            return
        connections.pop(connection.number, None)
        if not connections:
            del self._models[connection.model]

    def of_model(self, model: str) -> Iterable[WorkerConnection]:
        """The connections that serve this base model name."""
        return self._models.get(model, {}).values()

    def choose(self, model: str, max_coefficient: int) -> WorkerConnection | None:
        """The connection with the least ``running × average duration``; None when all that qualify are busy.

        Ties go to the one with fewer running requests, then to the older connection.

        Raises:
            RequestError: Nobody serves the model (621), or nobody at that price or at all now (651).
        """
        connections = self._models.get(model)
        if not connections:
            raise RequestError(
                f"unknown model {model[:200]}",
                code=ErrorCode.PROTOCOL_VIOLATION,
                hint=f"models served now: {', '.join(self._served()) or 'none'}",
            )
        best: WorkerConnection | None = None
        best_key = (math.inf, 0, 0)
        eligible = False
        for connection in connections.values():
            if not connection.offered or connection.coefficient > max_coefficient:
                continue
            eligible = True
            running = len(connection.running)
            if running >= connection.admitted.limit:
                continue
            key = (running * connection.average.value, running, connection.number)
            if key < best_key:
                best, best_key = connection, key
        if not eligible:
            raise self._none_eligible(model, connections.values(), max_coefficient)
        return best

    def _served(self) -> list[str]:
        """Some models that can be asked for now: what unproven workers say does not get into an answer."""
        names = (model for model in sorted(self._models) if any(c.offered for c in self._models[model].values()))
        return list(itertools.islice(names, NAMED_MODELS))

    @staticmethod
    def _none_eligible(model: str, connections: Iterable[WorkerConnection], limit: int) -> RequestError:
        prices = [connection.coefficient for connection in connections if connection.offered]
        if prices:
            text = f"the cheapest worker of {model[:200]} has coefficient {min(prices)}, the request allows {limit}"
            return RequestError(text, code=ErrorCode.NOT_READY, hint="raise max_coefficient")
        text = f"no worker of {model[:200]} is ready"
        return RequestError(text, code=ErrorCode.NOT_READY, hint="its workers are disabled, unproven or not listed")

    def wait_estimate(self, model: str, waiting: int) -> float:
        """Seconds until a request behind ``waiting`` others may get a place: a guess from average durations."""
        rate = 0.0
        for connection in self.of_model(model):
            if connection.offered:
                rate += connection.admitted.limit / max(connection.average.value, 0.1)
        return min(60.0, max(1.0, (waiting + 1) / rate)) if rate else 60.0

    def types(self) -> ClientWorkerTypes:
        """Answer of ``client.getWorkerTypes``: disabled connections count too."""
        return ClientWorkerTypes(tuple(self._type(model) for model in sorted(self._models)))

    def _type(self, model: str) -> ClientWorkerType:
        prices = sorted(connection.coefficient for connection in self.of_model(model))
        prices.append(NO_COEFFICIENT)
        return ClientWorkerType(model, len(prices) - 1, prices[0], prices[len(prices) // 2], prices[-1])

    def types_v2(self) -> ClientWorkerTypesV2:
        """Answer of ``client.getWorkerTypesV2``: connections that may be offered requests, cheapest first."""
        types = []
        for model in sorted(self._models):
            offered = sorted((c for c in self.of_model(model) if c.offered), key=lambda c: (c.coefficient, c.number))
            instances = tuple(
                ClientWorkerInstanceV2(0, c.coefficient, len(c.running), c.admitted.limit) for c in offered
            )
            types.append(ClientWorkerTypeV2(model, instances))
        return ClientWorkerTypesV2(tuple(types))
