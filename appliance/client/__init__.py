"""The verified OpenAI endpoint and the library under it: proof before prompt, price before pay."""

from appliance.client.answers import Answer, Head
from appliance.client.errors import (
    AccessError,
    AnswerRefusedError,
    BudgetError,
    ClientError,
    GatewayFaultError,
    GatewayRefusedError,
    ModelNotFoundError,
    NoGatewayError,
    WorkerRefusedError,
)
from appliance.client.library import Client
from appliance.client.program import open_client, refund, run
from appliance.client.refunds import RefundReport

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
    "ModelNotFoundError",
    "NoGatewayError",
    "RefundReport",
    "WorkerRefusedError",
    "open_client",
    "refund",
    "run",
]
