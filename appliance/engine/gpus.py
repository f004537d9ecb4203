"""Whether this machine's GPUs can carry the engine: enough of them, ready, and in no mode that voids secrecy.

In: what the driver says (:mod:`attestation.gpu.nvml`) and what the measured configuration asks for. Out: nothing, or an
error that says what is missing. It guards against a mistake of the host's owner, not against a lying host: proof of the
GPU's state is signed evidence and is judged by the verifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.engine.errors import EngineStartError

if TYPE_CHECKING:
    from attestation.gpu.nvml import Inventory


def require_gpus(found: Inventory, needed: int) -> None:
    """Check an inventory.

    Args:
        found: All devices of the driver.
        needed: Devices that the engine is configured for (tensor times data parallel).

    Raises:
        EngineStartError: Too few devices, debugging on, or confidential computing on and the devices not ready.
    """
    if len(found.gpus) < needed:
        raise EngineStartError(
            f"the engine needs {needed} GPUs, the driver {found.driver} has {len(found.gpus)}",
            hint="pass more devices into the guest, or lower engine.tensor_parallel and data_parallel",
        )
    if found.devtools:
        raise EngineStartError(
            "the GPUs are in confidential-computing devtools mode, which lets the host look inside",
            hint="set the GPUs' CC mode to 'on' on the host and reset them",
        )
    if found.confidential and not found.ready:
        raise EngineStartError(
            "the GPUs are not set ready", hint="the guest sets them ready after it has verified their evidence"
        )
