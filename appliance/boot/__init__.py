"""A guest's start: stages, configuration, clock, posture, keys, model; and the attested status port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.boot.errors import ClockError, GpuError, GuestConfigError, PostureError, ToolError
    from appliance.boot.posture import PostureCheck
    from appliance.boot.stages import StageRecord, StageTable, read_stages
    from appliance.boot.system import System
    from appliance.boot.volume import pack, parse

__all__ = [
    "ClockError",
    "GpuError",
    "GuestConfigError",
    "PostureCheck",
    "PostureError",
    "StageRecord",
    "StageTable",
    "System",
    "ToolError",
    "pack",
    "parse",
    "read_stages",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "ClockError": "errors",
            "GpuError": "errors",
            "GuestConfigError": "errors",
            "PostureCheck": "posture",
            "PostureError": "errors",
            "StageRecord": "stages",
            "StageTable": "stages",
            "System": "system",
            "ToolError": "errors",
            "pack": "volume",
            "parse": "volume",
            "read_stages": "stages",
        },
    )
