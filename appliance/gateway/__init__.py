"""The gateway (the protocol calls it proxy): admission of workers and clients, requests between them, payments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.gateway.errors import AdmissionError, GatewayError, KeyFileError, SettlementError
    from appliance.gateway.program import Gateway, run
    from appliance.gateway.status import GatewayStatus

__all__ = [
    "AdmissionError",
    "Gateway",
    "GatewayError",
    "GatewayStatus",
    "KeyFileError",
    "SettlementError",
    "run",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "AdmissionError": "errors",
            "Gateway": "program",
            "GatewayError": "errors",
            "GatewayStatus": "status",
            "KeyFileError": "errors",
            "SettlementError": "errors",
            "run": "program",
        },
    )
