"""What the gateway counts about itself: plain numbers, no names, no content."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Totals since the start. ``failures`` by protocol code; ``refusals`` of peers by kind."""

    requests: int = 0
    succeeded: int = 0
    tokens: int = 0
    bytes_relayed: int = 0
    queued: int = 0
    cancelled: int = 0
    overflows: int = 0
    absurd_reports: int = 0
    order_violations: int = 0
    stray_messages: int = 0
    failures: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
