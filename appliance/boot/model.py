"""The model stage: the volume that the measured configuration names becomes a directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from appliance.boot.devices import MODEL_VOLUME, await_volume
from appliance.errors import StageError
from appliance.model.volume import open_volume

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.boot.system import System
    from appliance.config.models import MeasuredConfig

DISK_S: Final = 10.0


async def mount(system: System, measured: MeasuredConfig) -> Path:
    """Open and mount it.

    Returns:
        Where it is.

    Raises:
        StageError: No disk, or no volume in the configuration.
        ModelVolumeError: The disk holds another model, or a damaged one.
    """
    if measured.model is None or measured.model_volume is None:
        raise StageError(
            "measured.toml has no [model_volume]", hint="chrysalis model pack prints it; it is part of the identity"
        )
    disk = await await_volume(system, MODEL_VOLUME, DISK_S)
    if disk is None:
        raise StageError(
            f"no disk with serial {MODEL_VOLUME} and no partition of that label",
            hint="attach the packed model: chrysalis vm launch --model, or image flash --model",
        )
    root_hash = measured.model.rpartition(":")[2]
    volume = measured.model_volume
    return await asyncio.to_thread(open_volume, disk, root_hash, volume.data_blocks, volume.format)
