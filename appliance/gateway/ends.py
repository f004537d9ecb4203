"""How a request ends: the client is told once, the worker is told to stop, everything it held is given back. Pure.

Who pays for a request that does not end well: nobody, when the worker or the gateway failed. When the client went
away, cancelled or did not read, what the worker reports afterwards is charged, within what was seen to pass: work
that was asked for and done is paid. A worker that knows our cancel message reports soon; any other one is heard until
the request's time is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ErrorCode
from appliance.wire.errors import WireError
from appliance.wire.messages import ChrysalisCancel

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.gateway.exchange import Exchange
    from appliance.gateway.tally import Tally


class Ends:
    """Ends requests.

    Args:
        tally: Where totals are counted.
        grace: Seconds that a worker has to report after it was told to stop, or after the request's time is over.
        monotonic: Seconds that only grow.
        freed: Called when a worker may have become free.
    """

    def __init__(
        self, tally: Tally, *, grace: float, monotonic: Callable[[], float], freed: Callable[[], None]
    ) -> None:
        self._tally = tally
        self._grace = grace
        self._monotonic = monotonic
        self._freed = freed

    def violation(self, exchange: Exchange, what: str) -> None:
        """The worker broke the order of an answer."""
        self._tally.order_violations += 1
        if exchange.muted:
            return
        self.fail(exchange, ErrorCode.PROTOCOL_VIOLATION, f"protocol violation of the worker: {what}")

    def overflow(self, exchange: Exchange) -> None:
        """The client does not take its answer."""
        self._tally.overflows += 1
        text = "the client does not read its answer fast enough: the buffer of this request is full"
        self.fail(exchange, ErrorCode.CANCELLED, text, billable=True)

    def fail(self, exchange: Exchange, code: ErrorCode, message: str, *, billable: bool = False) -> None:
        """Tell the client, then stop the worker."""
        self._tally.failures[int(code)] += 1
        if exchange.client is not None:
            exchange.client.port.send(exchange.own_error(int(code), message))
        self.mute(exchange, billable=billable)

    def mute(self, exchange: Exchange, *, billable: bool) -> None:
        """The client hears no more of this request; the worker is told to stop and has a while to report."""
        exchange.muted = True
        exchange.billable = billable
        worker = exchange.worker
        if worker is None:
            self.close(exchange)
            return
        if not billable:
            exchange.reservation.release()
        end = self._monotonic() + self._grace
        if not worker.can_cancel:
            exchange.deadline = max(exchange.deadline, end)
            return
        exchange.deadline = end
        try:
            worker.port.send(ChrysalisCancel(exchange.worker_id))
        except WireError:
            self.close(exchange)

    def close(self, exchange: Exchange) -> None:
        """Give everything back; whoever waits may take the place."""
        exchange.close()
        if exchange.worker is not None:
            self._freed()
