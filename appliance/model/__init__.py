"""Models as volumes: packed the same anywhere, named by their verity root hash, opened by it in the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.model.checking import VolumeSummary, show, verify
    from appliance.model.checkpoint import Checkpoint, examine
    from appliance.model.errors import (
        CheckpointError,
        ModelVolumeError,
        PackError,
        VolumeFormatError,
        VolumeMismatchError,
        VolumeOpenError,
    )
    from appliance.model.formats import VolumeFormat
    from appliance.model.naming import VolumeName
    from appliance.model.packing import PackedModel, pack
    from appliance.model.volume import close_volume, find_damage, open_volume

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ModelVolumeError",
    "PackError",
    "PackedModel",
    "VolumeFormat",
    "VolumeFormatError",
    "VolumeMismatchError",
    "VolumeName",
    "VolumeOpenError",
    "VolumeSummary",
    "close_volume",
    "examine",
    "find_damage",
    "open_volume",
    "pack",
    "show",
    "verify",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Checkpoint": "checkpoint",
            "CheckpointError": "errors",
            "ModelVolumeError": "errors",
            "PackError": "errors",
            "PackedModel": "packing",
            "VolumeFormat": "formats",
            "VolumeFormatError": "errors",
            "VolumeMismatchError": "errors",
            "VolumeName": "naming",
            "VolumeOpenError": "errors",
            "VolumeSummary": "checking",
            "close_volume": "volume",
            "examine": "checkpoint",
            "find_damage": "volume",
            "open_volume": "volume",
            "pack": "packing",
            "show": "checking",
            "verify": "checking",
        },
    )
