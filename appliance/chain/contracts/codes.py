"""The built contracts: code of the root, proxy, worker, client and node wallet contracts, checked by hash.

In: ``compiled/*.json``, written by ``python -m appliance.lab.tolk`` from the Tolk sources beside it. Out:
:class:`ContractCodes`. They are what our own networks list; on another network proxy, worker and client code come
from that network's root contract.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import TYPE_CHECKING

from appliance.chain.boc import decode_boc
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

CONTRACTS = ("root", "proxy", "worker", "client", "wallet")
_REBUILD = "rebuild with: python -m appliance.lab.tolk"


@dataclass(frozen=True, slots=True)
class ContractCodes:
    """Code cells of our contracts."""

    root: Cell = field(repr=False)
    proxy: Cell = field(repr=False)
    worker: Cell = field(repr=False)
    client: Cell = field(repr=False)
    wallet: Cell = field(repr=False)

    def hashes(self) -> dict[str, str]:
        """Representation hashes in hexadecimal, by contract."""
        return {each.name: getattr(self, each.name).hash.hex() for each in fields(self)}


def load() -> ContractCodes:
    """Read the built codes; raises ``LayoutError`` when one is damaged or not what its hash says."""
    return ContractCodes(**{name: _load(name) for name in CONTRACTS})


def _load(name: str) -> Cell:
    path = files("appliance.chain.contracts") / "compiled" / f"{name}.json"
    try:
        built = json.loads(path.read_bytes())
        code, expected = base64.b64decode(built["code"], validate=True), str(built["code_hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"the built contract {name} cannot be read: {error}", hint=_REBUILD) from error
    cell = decode_boc(code)
    if cell.hash.hex() != expected:
        raise LayoutError(f"the code of contract {name} has hash {cell.hash.hex()}, expected {expected}", hint=_REBUILD)
    return cell
