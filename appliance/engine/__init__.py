"""The model server: its environment, its models, its supervisor, and what may reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.engine.environment import Environment, ensure_environment
    from appliance.engine.errors import (
        EngineError,
        EngineStartError,
        EngineUnavailableError,
        ModelError,
        RouteRefusedError,
        SelfCheckError,
    )
    from appliance.engine.models import PreparedModel, open_directory, prepare
    from appliance.engine.proxy import EngineClient, EngineResponse
    from appliance.engine.remote import RemoteEngine
    from appliance.engine.rules import EngineRequest, Rules
    from appliance.engine.settings import EngineSettings
    from appliance.engine.state import EngineState, EngineStatus
    from appliance.engine.supervisor import EngineSupervisor
    from appliance.engine.usage import UsageCounter

__all__ = [
    "EngineClient",
    "EngineError",
    "EngineRequest",
    "EngineResponse",
    "EngineSettings",
    "EngineStartError",
    "EngineState",
    "EngineStatus",
    "EngineSupervisor",
    "EngineUnavailableError",
    "Environment",
    "ModelError",
    "PreparedModel",
    "RemoteEngine",
    "RouteRefusedError",
    "Rules",
    "SelfCheckError",
    "UsageCounter",
    "ensure_environment",
    "open_directory",
    "prepare",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "EngineClient": "proxy",
            "EngineError": "errors",
            "EngineRequest": "rules",
            "EngineResponse": "proxy",
            "EngineSettings": "settings",
            "EngineStartError": "errors",
            "EngineState": "state",
            "EngineStatus": "state",
            "EngineSupervisor": "supervisor",
            "EngineUnavailableError": "errors",
            "Environment": "environment",
            "ModelError": "errors",
            "PreparedModel": "models",
            "RemoteEngine": "remote",
            "RouteRefusedError": "errors",
            "Rules": "rules",
            "SelfCheckError": "errors",
            "UsageCounter": "usage",
            "ensure_environment": "environment",
            "open_directory": "models",
            "prepare": "models",
        },
    )
