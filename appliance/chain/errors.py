"""Errors of the chain room.

::

    ChainError
    └── LayoutError               a cell, bag of cells, address or message is not laid out as the protocol says
        ├── AddressError          an address text cannot be read
        └── SignatureError        a signed message is not for this contract, or not signed by this key
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class ChainError(ApplianceError):
    """The chain, its proofs, wallets and contracts."""


class LayoutError(ChainError):
    """A cell, bag of cells or message is not laid out as the protocol says."""


class AddressError(LayoutError):
    """An address text cannot be read."""


class SignatureError(LayoutError):
    """A signed message names another contract or operation, or its signature does not verify."""
