"""The room of money: tokens adjusted, counters, signed payments, the ledgers. Used by worker, gateway and client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.accounting.client_ledger import ClientAccount, ClientLedger
    from appliance.accounting.errors import (
        LedgerError,
        PaymentRefusedError,
        StoreBusyError,
        StoreCorruptError,
        StoreFullError,
    )
    from appliance.accounting.gateway_ledger import GatewayLedger
    from appliance.accounting.records import Counters, ProxyRecord
    from appliance.accounting.store import Store
    from appliance.accounting.tokens import Multipliers, Usage, adjust, adjusted, reservation
    from appliance.accounting.worker_ledger import WorkerLedger

__all__ = [
    "ClientAccount",
    "ClientLedger",
    "Counters",
    "GatewayLedger",
    "LedgerError",
    "Multipliers",
    "PaymentRefusedError",
    "ProxyRecord",
    "Store",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreFullError",
    "Usage",
    "WorkerLedger",
    "adjust",
    "adjusted",
    "reservation",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "ClientAccount": "client_ledger",
            "ClientLedger": "client_ledger",
            "Counters": "records",
            "GatewayLedger": "gateway_ledger",
            "LedgerError": "errors",
            "Multipliers": "tokens",
            "PaymentRefusedError": "errors",
            "ProxyRecord": "records",
            "Store": "store",
            "StoreBusyError": "errors",
            "StoreCorruptError": "errors",
            "StoreFullError": "errors",
            "Usage": "tokens",
            "WorkerLedger": "worker_ledger",
            "adjust": "tokens",
            "adjusted": "tokens",
            "reservation": "tokens",
        },
    )
