"""Our contracts: Tolk sources, their builds, and the loader of the builds."""

from __future__ import annotations

from appliance.chain.contracts.codes import CONTRACTS, ContractCodes, load

__all__ = ["CONTRACTS", "ContractCodes", "load"]
