"""Errors of the chain room.

::

    ChainError
    ├── LayoutError               a cell, bag of cells, address or message is not laid out as the protocol says
    │   ├── AddressError          an address text cannot be read
    │   └── SignatureError        a signed message is not for this contract, or not signed by this key
    ├── ProofError                a liteserver's answer does not follow from the trust point: it lies or is broken
    ├── ChainTooOldError          the network writes a structure this build does not know: update the appliance
    ├── LiteserverError           a liteserver answered a query with an error
    ├── TransportError            a liteserver cannot be reached or does not answer
    ├── ChainUnavailableError     no configured liteserver gave a proven answer
    ├── ChainTimeoutError         what was waited for did not happen in time
    ├── StaleError                the newest proven state is older than allowed
    ├── SendRefusedError          the network refused an external message
    ├── WalletError               a wallet cannot do what was asked
    │   ├── FundsError            an account holds too little; says what to send to whom
    │   └── NotConfirmedError     a message expired without being executed
    └── RegistryError             the root contract cannot be used
        ├── NotListedError        an image, model or gateway is not listed; says what the root's owner has to send
        └── PublishError          a release cannot be listed or taken away like this
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


class ProofError(ChainError):
    """A liteserver's answer does not follow from the trust point: the server lies or is broken."""


class ChainTooOldError(ChainError):
    """The network writes a structure that this build does not know.

    It is a state, not a defect of the machine: reads fail with this reason until the appliance is updated.
    """

    def __init__(self, structure: str, seen: int, known: str) -> None:
        super().__init__(
            f"chain client too old: {structure} has version or tag 0x{seen:x}, this build knows {known}",
            hint="the network was upgraded; install a release of the appliance that knows the new format",
        )


class LiteserverError(ChainError):
    """A liteserver answered a query with ``liteServer.error``; ``code`` is the server's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the liteserver answered with error {code}: {text}")
        self.code = code
        self.text = text


class TransportError(ChainError):
    """A liteserver cannot be reached, broke the connection, or did not answer in time."""


class ChainUnavailableError(ChainError):
    """No configured liteserver gave a proven answer; ``reasons`` maps each server to its error's text."""

    def __init__(self, what: str, reasons: dict[str, str]) -> None:
        listed = "; ".join(f"{server}: {reason}" for server, reason in reasons.items()) or "no server is configured"
        super().__init__(
            f"{what}: no liteserver gave a proven answer ({listed})",
            hint="check the network and the configured liteservers, or add another one",
        )
        self.reasons = reasons


class ChainTimeoutError(ChainError):
    """What was waited for did not happen on the chain in time."""


class StaleError(ChainError):
    """The newest proven state is older than allowed."""


class SendRefusedError(ChainError):
    """The network refused an external message; ``exit_code`` is the contract's, when the answer names it."""

    def __init__(self, reason: str, *, exit_code: int | None = None, hint: str = "") -> None:
        super().__init__(f"the network refused the message: {reason}", hint=hint)
        self.exit_code = exit_code


class WalletError(ChainError):
    """A wallet cannot do what was asked of it."""


class FundsError(WalletError):
    """An account holds too little. ``balance`` and ``needed`` in nanotons; the hint says what to send to whom."""

    def __init__(self, message: str, *, balance: int, needed: int, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.balance = balance
        self.needed = needed


class NotConfirmedError(WalletError):
    """A message expired or was overtaken without being executed."""


class RegistryError(ChainError):
    """The root contract is absent, unreadable, or not the one of this network."""


class NotListedError(RegistryError):
    """An image, model or gateway is not in the root contract; the hint says what its owner has to send."""


class PublishError(RegistryError):
    """A release cannot be listed or taken away like this: somebody would be locked out, or a list would be too long."""
