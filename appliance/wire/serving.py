"""Answering the peer's queries: one task for each, bounded, and an answer whatever the handler does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from appliance.errors import ErrorCode, RequestError
from appliance.wire.connection import LOST_PROMISE
from appliance.wire.errors import QueryError, WireError
from appliance.wire.handler import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.wire.base import TLObject
    from appliance.wire.connection import Connection
    from appliance.wire.handler import LinkHandler
    from appliance.wire.link import Link

log = structlog.get_logger(__name__)


class Serving:
    """The queries of one link that are being worked on.

    Args:
        link: Given to the handler.
        handler: Answers.
        connection: Takes the answers.
        flush: Called when the connection has something to send.
    """

    def __init__(self, link: Link, handler: LinkHandler, connection: Connection, flush: Callable[[], None]) -> None:
        self._link = link
        self._handler = handler
        self._connection = connection
        self._flush = flush
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, query_id: int, query: TLObject) -> None:
        """Start answering a query; over the bound it is answered with "not ready"."""
        if len(self._tasks) >= self._connection.limits.max_served_queries:
            self._connection.counters.refused += 1
            self._answer_error(query_id, "too many open queries", ErrorCode.NOT_READY)
            return
        task = asyncio.get_running_loop().create_task(self._answer(query_id, query))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """The link is over: nobody waits for the answers."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, query_id: int, query: TLObject) -> None:
        try:
            answer = await self._handler.query_received(self._link, query)
        except (QueryError, RequestError) as error:
            self._answer_error(query_id, error.message, error.code)
        except Exception as error:  # noqa: BLE001 -- any mistake of a handler
            report(error)
            self._answer_error(query_id, LOST_PROMISE, ErrorCode.PLAIN)
        else:
            self._answer_result(query_id, answer)

    def _answer_result(self, query_id: int, answer: TLObject) -> None:
        if self._connection.closed:
            return
        try:
            self._connection.send_answer(query_id, answer)
        except WireError as error:  # it does not fit or is wrong: the peer is told, not left waiting
            log.warning("answer not sent", error=type(error).__name__, reason=error.message)
            self._answer_error(query_id, "the answer cannot be sent", ErrorCode.ERROR)
        self._flush()

    def _answer_error(self, query_id: int, text: str, code: int) -> None:
        if not self._connection.closed:
            self._connection.send_error(query_id, text, code)
            self._flush()
