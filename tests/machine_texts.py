"""The smallest configuration that a guest accepts, as the values of its three files."""

from __future__ import annotations

from typing import Any

MODEL = f"tiny@1:{'cd' * 32}"
MEASURED: dict[str, Any] = {
    "network": {
        "global_id": 1,
        "zerostate": {"seqno": 0, "root_hash": "0" * 64, "file_hash": "0" * 64},
        "key_block": {"seqno": 0, "root_hash": "0" * 64, "file_hash": "0" * 64},
        "root_contract": "0:" + "11" * 32,
    },
    "trust": {"policy": "any", "development": True},
    "model": MODEL,
    "engine": {"kind": "sglang"},
    "model_volume": {"format": "erofs", "data_blocks": 8},
}
OWNER: dict[str, Any] = {"address": "0:" + "22" * 32}
HOST: dict[str, Any] = {"liteservers": [{"address": "10.0.2.2:1", "key": "AAAA"}]}
