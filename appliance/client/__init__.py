"""The verified OpenAI endpoint and the library under it: proof before prompt, price before pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.client.answers import Answer, Head
    from appliance.client.errors import (
        AccessError,
        AnswerRefusedError,
        BudgetError,
        ClientError,
        GatewayFaultError,
        GatewayRefusedError,
        HttpError,
        ModelNotFoundError,
        NoGatewayError,
        WorkerRefusedError,
        to_http,
    )
    from appliance.client.library import Client
    from appliance.client.program import open_client, refund, run
    from appliance.client.refunds import RefundReport
    from appliance.client.verification import Proofs

__all__ = [
    "AccessError",
    "Answer",
    "AnswerRefusedError",
    "BudgetError",
    "Client",
    "ClientError",
    "GatewayFaultError",
    "GatewayRefusedError",
    "Head",
    "HttpError",
    "ModelNotFoundError",
    "NoGatewayError",
    "Proofs",
    "RefundReport",
    "WorkerRefusedError",
    "open_client",
    "refund",
    "run",
    "to_http",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "AccessError": "errors",
            "Answer": "answers",
            "AnswerRefusedError": "errors",
            "BudgetError": "errors",
            "Client": "library",
            "ClientError": "errors",
            "GatewayFaultError": "errors",
            "GatewayRefusedError": "errors",
            "Head": "answers",
            "HttpError": "errors",
            "ModelNotFoundError": "errors",
            "NoGatewayError": "errors",
            "Proofs": "verification",
            "RefundReport": "refunds",
            "WorkerRefusedError": "errors",
            "open_client": "program",
            "refund": "program",
            "run": "program",
            "to_http": "errors",
        },
    )
