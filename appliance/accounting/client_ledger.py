"""The client's account book: what it may have spent at each gateway, what it deposited, the newest signed charge.

In: accounts (:class:`ClientAccount`). Out: the same, after any crash. It holds totals only: nothing about what was
asked. Before a request leaves, ``authorized_tokens`` on disk covers it (:func:`covering`); so after a kill the truth
lies between ``spent_tokens`` and ``authorized_tokens``, and what the gateway says is believed only inside that range.
A deposit is on disk before it is sent, with what is needed to find it on chain again (:class:`Deposit`); so no crash
makes a second one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.accounting.errors import PaymentRefusedError, StoreCorruptError
from appliance.accounting.store import Store, no_boundary
from appliance.chain.addresses import Address
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from appliance.chain.signed import SignedPayment

APPLICATION_ID = 0x43485943
"""``CHYC``: Chrysalis, client."""

LEASE_TOKENS = 200_000
"""How far ``authorized_tokens`` is raised beyond what is needed, so that not every request waits for the disk."""

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
    """
    ALTER TABLE account ADD COLUMN price INTEGER NOT NULL DEFAULT 0 CHECK (price >= 0);
    ALTER TABLE account ADD COLUMN closed INTEGER NOT NULL DEFAULT 0 CHECK (closed IN (0, 1));
    ALTER TABLE account ADD COLUMN deposit_query INTEGER;
    ALTER TABLE account ADD COLUMN deposit_nanotons INTEGER;
    ALTER TABLE account ADD COLUMN deposit_client_lt INTEGER;
    ALTER TABLE account ADD COLUMN deposit_wallet_lt INTEGER;
    ALTER TABLE account ADD COLUMN deposit_expires_at INTEGER;
    """,
)

_NAMES = (
    "contract", "public_key", "client_contract", "params_version", "price", "signed_tokens", "payment", "spent_tokens",
    "spent_nanotons", "authorized_tokens", "topped_up_nanotons", "closed", "deposit_query", "deposit_nanotons",
    "deposit_client_lt", "deposit_wallet_lt", "deposit_expires_at",
)  # fmt: skip
_COLUMNS = ", ".join(_NAMES)
_UPSERT = f"INSERT OR REPLACE INTO account ({_COLUMNS}) VALUES ({','.join('?' * len(_NAMES))})"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS} FROM account"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Deposit:
    """Money on its way to a client contract, until the chain shows that it arrived or never will.

    Attributes:
        query_id: Of the message, at most 63 bits: what it is recognised by.
        nanotons: The amount without what is attached for gas.
        client_lt: Last logical time of the client contract before it was sent; 0 for a contract not there yet.
        wallet_lt: The same of the wallet.
        expires_at: Unix time of the chain after which the wallet's message can no longer be accepted.
    """

    query_id: int
    nanotons: int
    client_lt: int
    wallet_lt: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class ClientAccount:
    """A client's account with one gateway contract. Tokens are adjusted tokens, money is nanotons.

    Attributes:
        contract: The gateway's contract.
        public_key: The gateway's Ed25519 key, 32 bytes.
        client_contract: The client's contract with that gateway.
        params_version: Of the root contract's parameters from which both addresses follow.
        price: Of an adjusted token under these parameters; it never changes for one contract.
        signed_tokens: The highest total that the gateway has signed a charge for.
        payment: That signed charge whole (bag of cells).
        spent_tokens: Tokens of all answers seen.
        spent_nanotons: What they cost.
        authorized_tokens: No more than this can have been used: raised before requests leave.
        topped_up_nanotons: Deposited so far, written before it is sent.
        closed: The chain showed that the client contract is closed: its money came back.
        deposit: A deposit that is not seen on chain yet.
    """

    contract: Address
    public_key: bytes
    client_contract: Address
    params_version: int
    price: int = 0
    signed_tokens: int = 0
    payment: bytes | None = None
    spent_tokens: int = 0
    spent_nanotons: int = 0
    authorized_tokens: int = 0
    topped_up_nanotons: int = 0
    closed: bool = False
    deposit: Deposit | None = None

    @property
    def exposed_nanotons(self) -> int:
        """What this gateway can have of the client's money: all that was deposited, or what a closed one cost."""
        return self.spent_nanotons if self.closed else max(self.topped_up_nanotons, self.spent_nanotons)


def covering(account: ClientAccount, at_risk: int, wanted: int) -> ClientAccount:
    """The account whose authorization covers what is spent, at risk and now wanted; raised by whole leases.

    Args:
        account: As it stands.
        at_risk: Tokens of requests that were sent and whose cost is not known.
        wanted: Tokens of the request that is to be sent.
    """
    needed = account.spent_tokens + at_risk + wanted
    if needed <= account.authorized_tokens:
        return account
    return replace(account, authorized_tokens=needed + LEASE_TOKENS)


def with_usage(account: ClientAccount, tokens: int) -> ClientAccount:
    """One more answer of ``tokens`` adjusted tokens.

    Raises:
        PaymentRefusedError: The number is negative.
    """
    if tokens < 0:
        raise PaymentRefusedError(f"an answer of {tokens} tokens, expected 0 or more")
    spent = account.spent_tokens + tokens
    return replace(
        account,
        spent_tokens=spent,
        spent_nanotons=account.spent_nanotons + tokens * account.price,
        authorized_tokens=max(account.authorized_tokens, spent),
    )


def with_charge(account: ClientAccount, charge: SignedPayment, *, at_risk: int) -> ClientAccount:
    """A *verified* signed charge: a higher one replaces the stored one.

    Args:
        account: As it stands.
        charge: The gateway's newest, for a total.
        at_risk: Tokens of requests that were sent and whose cost is not known.

    Raises:
        PaymentRefusedError: It charges for more than this client can have used.
    """
    tokens, most = charge.tokens, account.spent_tokens + at_risk
    if tokens > most:
        raise PaymentRefusedError(
            f"the gateway signed a charge for {tokens} tokens, at most {most} were used",
            hint="this gateway is not used any more: ask its operator, or take back the stake with 'chrysalis client "
            "refund'; if another program uses the same wallet key, give each its own",
        )
    if account.payment is not None and tokens <= account.signed_tokens:
        return account
    return replace(account, signed_tokens=max(tokens, account.signed_tokens), payment=charge.to_boc())


def depositing(account: ClientAccount, deposit: Deposit) -> ClientAccount:
    """A deposit is about to be sent; raises ``PaymentRefusedError`` while another one is on its way."""
    if account.deposit is not None:
        raise PaymentRefusedError(f"a deposit of {account.deposit.nanotons} nanotons is still on its way")
    return replace(account, deposit=deposit, topped_up_nanotons=account.topped_up_nanotons + deposit.nanotons)


def deposited(account: ClientAccount, *, arrived: bool) -> ClientAccount:
    """The chain has shown what became of the deposit; one that will never arrive counts as not made."""
    if account.deposit is None:
        return account
    back = 0 if arrived else account.deposit.nanotons
    return replace(account, deposit=None, topped_up_nanotons=max(0, account.topped_up_nanotons - back))


class ClientLedger:
    """The client's ledger file. One process holds it at a time.

    Attributes:
        restored: The file is older than its last use: its totals may be too low.

    Raises:
        LedgerError: See :class:`~appliance.accounting.store.Store`.
    """

    def __init__(self, path: Path, *, on_boundary: Callable[[str], None] = no_boundary) -> None:
        self._store = Store(path, application_id=APPLICATION_ID, migrations=MIGRATIONS, on_boundary=on_boundary)
        self.restored = self._store.restored

    def accounts(self) -> dict[Address, ClientAccount]:
        """Every account on disk.

        Raises:
            StoreCorruptError: A row's values cannot have been written by this program.
        """
        found: dict[Address, ClientAccount] = {}
        for contract, public_key, client_contract, *rest in self._store.query(_SELECT):
            *values, closed, query_id, nanotons, client_lt, wallet_lt, expires_at = rest
            deposit = None if query_id is None else Deposit(query_id, nanotons, client_lt, wallet_lt, expires_at)
            try:
                addresses = Address.parse(contract), public_key, Address.parse(client_contract)
            except ChrysalisError as error:
                raise StoreCorruptError(
                    f"the account with {contract!r} cannot be read: {error}", hint="restore a backup"
                ) from error
            account = replace(ClientAccount(*addresses, *values), closed=bool(closed), deposit=deposit)
            found[account.contract] = account
        return found

    def save(self, accounts: Iterable[ClientAccount]) -> None:
        """Write accounts in one transaction; they are on disk when this returns.

        Raises:
            LedgerError: Nothing was written.
        """
        rows = [_row(account) for account in accounts]
        with self._store.transaction("account") as connection:
            connection.executemany(_UPSERT, rows)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._store.close()


def _row(account: ClientAccount) -> tuple[object, ...]:
    deposit = account.deposit
    pending: tuple[int | None, ...] = (None,) * 5
    if deposit is not None:
        pending = (
            deposit.query_id,
            deposit.nanotons,
            deposit.client_lt,
            deposit.wallet_lt,
            deposit.expires_at,
        )
    return (
        account.contract.raw(),
        account.public_key,
        account.client_contract.raw(),
        account.params_version,
        account.price,
        account.signed_tokens,
        account.payment,
        account.spent_tokens,
        account.spent_nanotons,
        account.authorized_tokens,
        account.topped_up_nanotons,
        int(account.closed),
        *pending,
    )
