"""The bounds of a link: what the protocol fixes, and what keeps a peer from taking more than its share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds of one link; sizes in bytes, times in seconds.

    Attributes:
        min_frame: The smallest payload (section 1.1).
        max_frame: The largest payload, inclusive (section 1.1).
        ping_after: Silence after which the connecting side pings (section 1.4).
        connecting_silence: Silence after which the connecting side gives up; also bounds connecting (section 1.4).
        accepting_silence: Silence after which the accepting side gives up (section 1.4).
        max_open_queries: Queries of ours that may wait for an answer.
        max_served_queries: Queries of the peer that may be worked on; more are answered with "not ready".
        write_high: Bytes waiting for the peer above which ``drain`` waits.
        write_low: Bytes below which it goes on.
        max_waiting: Bytes waiting for the peer above which it counts as one that does not read: the link is closed.
        linger: Time that what was written gets to leave after ``close``.
    """

    min_frame: int = 4
    max_frame: int = 1 << 24
    ping_after: float = 10.0
    connecting_silence: float = 20.0
    accepting_silence: float = 60.0
    max_open_queries: int = 1024
    max_served_queries: int = 256
    write_high: int = 1 << 18
    write_low: int = 1 << 16
    max_waiting: int = 1 << 26
    linger: float = 5.0
