"""What a connection tells its owner: one small class for each thing that can happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.wire.base import TLObject
    from appliance.wire.errors import WireError


@dataclass(slots=True)
class Ready:
    """The handshake is done; messages and queries may be sent."""


@dataclass(slots=True)
class MessageReceived:
    """A one-way message."""

    message: TLObject


@dataclass(slots=True)
class QueryReceived:
    """A query of the peer, to be answered under its id."""

    query_id: int
    query: TLObject


@dataclass(slots=True)
class AnswerReceived:
    """The answer to a query of ours, of one of the classes the query may be answered with."""

    query_id: int
    answer: TLObject


@dataclass(slots=True)
class QueryFailed:
    """A query of ours got an error, or an answer that is not one."""

    query_id: int
    error: WireError


@dataclass(slots=True)
class Failed:
    """The connection is over; always the last event."""

    error: WireError


Event = Ready | MessageReceived | QueryReceived | AnswerReceived | QueryFailed | Failed


@dataclass(slots=True)
class Counters:
    """What passed a connection; read by metrics.

    Attributes:
        frames_in: Complete frames received.
        frames_out: Frames queued for sending.
        bytes_in: Bytes received.
        bytes_out: Bytes queued for sending.
        dropped: One-way messages of an unknown constructor or of an extension that was not agreed to.
        refused: Queries answered with an error before any handler saw them.
        late: Answers to queries that nobody waits for any more.
    """

    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: int = 0
    refused: int = 0
    late: int = 0
