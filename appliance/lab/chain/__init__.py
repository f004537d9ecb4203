"""A whole TON network in one process: real transactions and proofs, one validator, one liteserver.

``devnet`` makes blocks, ``liteserver`` serves them to any client, ``program`` runs both with a control port, and
``adversary`` holds the dishonest servers that clients must refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.lab.chain.clock import Clock
    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.errors import DevNetError, LabChainError, MessageRefusedError
    from appliance.lab.chain.liteserver import LiteServer

__all__ = [
    "Clock",
    "DevNet",
    "DevNetError",
    "LabChainError",
    "LiteServer",
    "MessageRefusedError",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Clock": "clock",
            "DevNet": "devnet",
            "DevNetError": "errors",
            "LabChainError": "errors",
            "LiteServer": "liteserver",
            "MessageRefusedError": "errors",
        },
    )
