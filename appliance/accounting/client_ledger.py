"""The client's account book: what it may have spent at each gateway, what it staked, the newest signed charge.

In: accounts (:class:`ClientAccount`). Out: the same, after any crash. It holds totals only: nothing about what was
asked. Before a request leaves, ``authorized_tokens`` on disk covers it (:func:`covering`); so after a kill the truth
lies between ``spent_tokens`` and ``authorized_tokens``, and what the gateway says is believed only inside that range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.accounting.errors import PaymentRefusedError, StoreCorruptError
from appliance.accounting.store import Store, no_boundary
from appliance.chain.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

APPLICATION_ID = 0x43485943
"""``CHYC``: Chrysalis, client."""

LEASE_TOKENS = 1_000_000
"""How far ``authorized_tokens`` is raised at a time, so that not every request waits for the disk."""

MIGRATIONS = (
    """
    CREATE TABLE account (
        contract TEXT PRIMARY KEY,
        public_key BLOB NOT NULL CHECK (length(public_key) = 32),
        client_contract TEXT NOT NULL,
        params_version INTEGER NOT NULL,
        signed_tokens INTEGER NOT NULL CHECK (signed_tokens >= 0),
        payment BLOB,
        spent_tokens INTEGER NOT NULL CHECK (spent_tokens >= 0),
        spent_nanotons INTEGER NOT NULL CHECK (spent_nanotons >= 0),
        authorized_tokens INTEGER NOT NULL CHECK (authorized_tokens >= spent_tokens),
        topped_up_nanotons INTEGER NOT NULL CHECK (topped_up_nanotons >= 0)
    ) STRICT;
    """,
)

_COLUMNS = (
    "contract, public_key, client_contract, params_version, signed_tokens, payment, spent_tokens, spent_nanotons, "
    "authorized_tokens, topped_up_nanotons"
)
_UPSERT = f"INSERT OR REPLACE INTO account ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS} FROM account"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class ClientAccount:
    """A client's account with one gateway contract. Tokens are adjusted tokens, money is nanotons.

    Attributes:
        contract: The gateway's contract.
        public_key: The gateway's Ed25519 key, 32 bytes.
        client_contract: The client's contract with that gateway.
        params_version: Of the root contract's parameters from which both addresses follow.
        signed_tokens: The highest total that the gateway has signed a charge for.
        payment: That signed charge whole (bag of cells).
        spent_tokens: Tokens of all answers seen.
        spent_nanotons: What they cost at the prices of their time.
        authorized_tokens: No more than this can have been used: raised before requests leave.
        topped_up_nanotons: Sent to the contract so far, written before it is sent.
    """

    contract: Address
    public_key: bytes
    client_contract: Address
    params_version: int
    signed_tokens: int = 0
    payment: bytes | None = None
    spent_tokens: int = 0
    spent_nanotons: int = 0
    authorized_tokens: int = 0
    topped_up_nanotons: int = 0


def covering(account: ClientAccount, reserved: int, wanted: int) -> ClientAccount:
    """The account whose authorization covers what is spent, reserved and now wanted; raised by whole leases."""
    needed = account.spent_tokens + reserved + wanted
    if needed <= account.authorized_tokens:
        return account
    return replace(account, authorized_tokens=needed + LEASE_TOKENS)


def with_usage(account: ClientAccount, tokens: int, price: int) -> ClientAccount:
    """One more answer of ``tokens`` adjusted tokens at ``price`` nanotons each.

    Raises:
        PaymentRefusedError: The number is negative.
    """
    if tokens < 0:
        raise PaymentRefusedError(f"an answer of {tokens} tokens, expected 0 or more")
    spent = account.spent_tokens + tokens
    return replace(
        account,
        spent_tokens=spent,
        spent_nanotons=account.spent_nanotons + tokens * price,
        authorized_tokens=max(account.authorized_tokens, spent),
    )


def with_charge(account: ClientAccount, tokens: int, boc: bytes) -> ClientAccount:
    """A *verified* signed charge: a higher one replaces the stored one.

    Raises:
        PaymentRefusedError: It charges for more than this client can have used.
    """
    if tokens > account.authorized_tokens:
        raise PaymentRefusedError(
            f"the gateway signed a charge for {tokens} tokens, at most {account.authorized_tokens} were used",
            hint="this gateway is not used any more; ask its operator, and request a refund of the stake",
        )
    if account.payment is not None and tokens <= account.signed_tokens:
        return account
    return replace(account, signed_tokens=max(tokens, account.signed_tokens), payment=boc)


def reconciled(account: ClientAccount, gateway_total: int, price: int) -> ClientAccount:
    """At a new link: answers charged but never seen (a crash, a lost link) are taken over, inside the authorization."""
    unseen = min(gateway_total, account.authorized_tokens) - account.spent_tokens
    return with_usage(account, unseen, price) if unseen > 0 else account


class ClientLedger:
    """The client's ledger file. One process holds it at a time.

    Raises:
        LedgerError: See :class:`~appliance.accounting.store.Store`.
    """

    def __init__(self, path: Path, *, on_boundary: Callable[[str], None] = no_boundary) -> None:
        self._store = Store(path, application_id=APPLICATION_ID, migrations=MIGRATIONS, on_boundary=on_boundary)

    def accounts(self) -> dict[Address, ClientAccount]:
        """Every account on disk.

        Raises:
            StoreCorruptError: A row's values cannot have been written by this program.
        """
        found: dict[Address, ClientAccount] = {}
        for contract, public_key, client_contract, *rest in self._store.query(_SELECT):
            try:
                account = ClientAccount(Address.parse(contract), public_key, Address.parse(client_contract), *rest)
            except Exception as error:
                raise StoreCorruptError(
                    f"the account with {contract!r} cannot be read: {error}", hint="restore a backup"
                ) from error
            found[account.contract] = account
        return found

    def save(self, accounts: Iterable[ClientAccount]) -> None:
        """Write accounts in one transaction; they are on disk when this returns.

        Raises:
            LedgerError: Nothing was written.
        """
        rows = [
            (
                account.contract.raw(),
                account.public_key,
                account.client_contract.raw(),
                account.params_version,
                account.signed_tokens,
                account.payment,
                account.spent_tokens,
                account.spent_nanotons,
                account.authorized_tokens,
                account.topped_up_nanotons,
            )
            for account in accounts
        ]
        with self._store.transaction("account") as connection:
            connection.executemany(_UPSERT, rows)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()
