"""The worker: links to gateways, requests run on the model server, payments kept, payouts asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.worker.errors import HandshakeError, WorkerError
    from appliance.worker.program import run
    from appliance.worker.service import Worker
    from appliance.worker.status import WorkerStatus

__all__ = [
    "HandshakeError",
    "Worker",
    "WorkerError",
    "WorkerStatus",
    "run",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "HandshakeError": "errors",
            "Worker": "service",
            "WorkerError": "errors",
            "WorkerStatus": "status",
            "run": "program",
        },
    )
