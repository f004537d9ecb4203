"""The running thing, and the tools around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.assembly import open_chain, open_registry, open_verifier
    from appliance.errors import ApplianceError, ConfigError, ErrorCode, RequestError, StageError
    from appliance.keys import new_key, read_key

__all__ = [
    "ApplianceError",
    "ConfigError",
    "ErrorCode",
    "RequestError",
    "StageError",
    "new_key",
    "open_chain",
    "open_registry",
    "open_verifier",
    "read_key",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "ApplianceError": "errors",
            "ConfigError": "errors",
            "ErrorCode": "errors",
            "RequestError": "errors",
            "StageError": "errors",
            "new_key": "keys",
            "open_chain": "assembly",
            "open_registry": "assembly",
            "open_verifier": "assembly",
            "read_key": "keys",
        },
    )
