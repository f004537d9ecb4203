"""Errors of the room of money.

::

    ApplianceError
    └── LedgerError               money state on disk
        ├── StoreFullError        no space is left, or a quota was reached
        ├── StoreCorruptError     the file is damaged or is no database
        ├── StoreBusyError        another process holds the ledger
        ├── SchemaError           the file belongs to something else, or to a newer release
        └── PaymentRefusedError   a peer's payment or counters contradict what is on record
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class LedgerError(ApplianceError):
    """Money state on disk cannot be read or written."""


class StoreFullError(LedgerError):
    """The disk (or its quota) is full: nothing was committed."""


class StoreCorruptError(LedgerError):
    """The ledger file is damaged."""


class StoreBusyError(LedgerError):
    """Another process holds the ledger: there is one writer."""


class SchemaError(LedgerError):
    """The file holds another application's data or a schema newer than this release."""


class PaymentRefusedError(LedgerError):
    """A peer's payment or counters contradict what is on record."""
