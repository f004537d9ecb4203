"""Every signed payment in the recorded traffic of a reference network."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc
from appliance.chain.cells import Reader
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES = 11  # of a bag of fewer than 256 cells and bytes with one root; the tenth byte is the payload's size


def bags(text: Any) -> list[bytes]:
    """Every bag of cells in a recorded message."""
    return [
        bytes.fromhex(text[found.start() : found.start() + 2 * (HEAD_BYTES + int(text[found.start() + 18 :][:2], 16))])
        for found in re.finditer("b5ee9c720101", text)
    ]


def test_all_recorded_payments_verify(shared: Path) -> None:
    ton = json.loads((shared / "vectors" / "cocoon.json").read_text())["ton"]
    key = bytes.fromhex(ton["public_keys_hex"]["proxy"])
    contracts = {
        Op.WORKER_PAYOUT: Address.parse(ton["worker_contract"]["raw"]),
        Op.CLIENT_CHARGE: Address.parse(ton["client_contract"]["raw"]),
    }
    seen = dict.fromkeys(contracts, 0)
    for path in sorted((shared / "vectors" / "cocoon-traces").rglob("*.json")):
        for entry in json.loads(path.read_text()):
            for bag in bags(entry["hex"]) if isinstance(entry, dict) and "hex" in entry else ():
                op = Op(Reader(decode_boc(bag), "payment").uint(32))
                payment = parse_payment(bag, op=op)
                payment.verify(key, contracts[op])
                assert payment.to_boc() == bag
                seen[op] += 1
    assert sum(seen.values()) >= 62
    assert all(seen.values())
