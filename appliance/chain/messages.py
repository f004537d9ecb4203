"""Messages of the contracts: root, node wallet, worker, client and proxy.

Each message is a frozen dataclass with ``to_cell`` and ``from_cell`` (its body, operation included). In: values or a
body cell. Out: a body cell or values; a misfit is a ``LayoutError``. Layouts: protocol specification, 6.1 (root),
6.3 (wallet), 6.5 (the rest). Signed messages are in :mod:`appliance.chain.signed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated

from appliance.chain.errors import LayoutError
from appliance.chain.layouts import proxy_entry
from appliance.chain.structs import (
    Account,
    Bits256,
    Coins,
    MaybeReference,
    NestedCodec,
    Reference,
    Struct,
    Uint2,
    Uint8,
    Uint32,
    Uint64,
)

if TYPE_CHECKING:
    from appliance.chain.cells import Reader, Writer


class Op(IntEnum):
    """Operations (6.1, 6.3, 6.5).

    ``WALLET_REPLACE_KEY`` is our own wallet's: the CRC-32 of
    ``replace_key query_id:uint64 public_key:bits256 = InternalMsgBody`` with the top bit cleared.
    ``DO_NOT_PROCESS`` may carry anything, so it has no message class.
    """

    WORKER_PAYOUT = 0xA040AD28
    WORKER_LAST_PAYOUT = 0xF5F26A36
    WORKER_REGISTER = 0x26ED7F65
    WORKER_REQUEST = 0x4D725D2C
    WORKER_REQUEST_PAYOUT = 0x08E7D036
    CLIENT_TOP_UP = 0xF172E6C2
    CLIENT_CHANGE_SECRET_AND_TOP_UP = 0x8473B408
    CLIENT_REGISTER = 0xC45F9F3B
    CLIENT_CHANGE_SECRET = 0xA9357034
    CLIENT_INCREASE_STAKE = 0x6A1F6A60
    CLIENT_WITHDRAW = 0xDA068E78
    CLIENT_REQUEST_REFUND = 0xFAFA6CC1
    CLIENT_CHARGE = 0xBB63FF93
    CLIENT_GRANT_REFUND = 0xEFD711E1
    CLIENT_REQUEST = 0x65448FF4
    CLIENT_REQUEST_TOP_UP = 0x5CFC6B87
    CLIENT_REQUEST_REFUND_GRANTED = 0xC68EBC7B
    CLIENT_REQUEST_REFUND_FORCED = 0xF4C354C9
    CLIENT_REQUEST_REGISTER = 0xA35CB580
    PROXY_PAYOUT = 0x7610E6EB
    PROXY_INCREASE_STAKE = 0x9713F187
    PROXY_OWNER_CLOSE = 0xB51D5A01
    PROXY_CLOSE = 0x636A4391
    PROXY_COMPLETE_CLOSE = 0xE511ABC7
    EXCESSES = 0x2565934C
    PAYOUT = 0xC59A7CD3
    DO_NOT_PROCESS = 0x9A1247C0
    ROOT_ADD_WORKER_HASH = 0xE34B1C60
    ROOT_DELETE_WORKER_HASH = 0x8D94A79A
    ROOT_ADD_MODEL_HASH = 0xC146134D
    ROOT_DELETE_MODEL_HASH = 0x92B11C18
    ROOT_ADD_PROXY_HASH = 0x71860E80
    ROOT_DELETE_PROXY_HASH = 0x3C41D0B2
    ROOT_REGISTER_PROXY = 0x927C7CB5
    ROOT_UNREGISTER_PROXY = 0x6D49EAF2
    ROOT_UPDATE_PROXY = 0x9C7924BA
    ROOT_CHANGE_PRICES = 0xC52ED8D4
    ROOT_CHANGE_PARAMS = 0x022FA189
    ROOT_UPGRADE_CONTRACTS = 0xA2370F61
    ROOT_UPGRADE_CODE = 0x11AEFD51
    ROOT_RESET = 0x563C1D96
    ROOT_UPGRADE_FULL = 0x4F7C5789
    ROOT_CHANGE_OWNER = 0xC4A1AE54
    WALLET_OWNER_SEND = 0x9C69F376
    WALLET_REPLACE_KEY = 0x0840A4E6


class ContractError(IntEnum):
    """Exit codes of the contracts (6.3 and 6.5)."""

    OLD_MESSAGE = 1000
    LOW_CONTRACT_BALANCE = 1001
    LOW_BALANCE = 1002
    LOW_MESSAGE_VALUE = 1003
    MESSAGE_FORMAT = 1004
    SIGNED_MESSAGE_FORMAT = 1005
    CLOSED = 1006
    BAD_SIGNATURE = 1007
    DAMAGED_DATA = 1008
    EXPECTED_OWNER = 1009
    EXPECTED_MESSAGE_FROM_OWNER = 1010
    NOT_UNLOCKED = 1011
    UNKNOWN_OPERATION = 1012
    UNKNOWN_TEXT_OPERATION = 1013
    ADDRESS_MISMATCH = 1014
    EXPECTED_MY_ADDRESS = 1015
    WALLET_EXPIRED = 1030
    WALLET_BLOCKED = 1031
    WALLET_SEQNO = 1032
    WALLET_SUBWALLET = 1033
    WALLET_SIGNATURE = 1034
    WALLET_LOW_BALANCE = 1035
    UNKNOWN_PROXY = 2000


class ProxyTextCodec:
    """``Proxy`` of 6.1 inline: type 0 and at most 127 bytes of ASCII text."""

    def read(self, reader: Reader) -> str:
        """The text."""
        reader.constant(0, 1, "type of a proxy entry")
        raw = reader.raw(reader.uint(7))
        if not raw.isascii():
            raise LayoutError("a proxy's text is not ASCII")
        return raw.decode()

    def write(self, writer: Writer, value: str) -> None:
        """The text."""
        writer.inline(proxy_entry(value))


ProxyText = Annotated[str, ProxyTextCodec()]


@dataclass(frozen=True, slots=True)
class WorkerRegister(Struct):
    """Worker owner → worker: announce this worker to the proxy."""

    TAG = (Op.WORKER_REGISTER, 32)
    query_id: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class WorkerPayoutPart(Struct):
    """Payload of a worker request: what a payout gives to the owner and to the proxy, in nanotons."""

    TAG = (Op.WORKER_REQUEST_PAYOUT, 32)
    worker_part: Coins
    proxy_part: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class WorkerRequest(Struct):
    """Worker → proxy: its state, with an optional payout. ``tokens``: paid so far, this payout included."""

    TAG = (Op.WORKER_REQUEST, 32)
    query_id: Uint64
    owner: Account
    state: Uint2
    tokens: Uint64
    payload: MaybeReference


@dataclass(frozen=True, slots=True)
class ClientTopUp(Struct):
    """Anyone → client: add ``amount`` nanotons to the balance."""

    TAG = (Op.CLIENT_TOP_UP, 32)
    query_id: Uint64
    amount: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientChangeSecretAndTopUp(Struct):
    """Owner → client: set the secret hash and add ``amount``."""

    TAG = (Op.CLIENT_CHANGE_SECRET_AND_TOP_UP, 32)
    query_id: Uint64
    amount: Coins
    secret_hash: Bits256
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientRegister(Struct):
    """Owner → client: prove a long authorisation with the proxy's ``nonce``."""

    TAG = (Op.CLIENT_REGISTER, 32)
    query_id: Uint64
    nonce: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientChangeSecret(Struct):
    """Owner → client: set the secret hash."""

    TAG = (Op.CLIENT_CHANGE_SECRET, 32)
    query_id: Uint64
    secret_hash: Bits256
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientIncreaseStake(Struct):
    """Owner → client: raise the stake to ``stake`` nanotons."""

    TAG = (Op.CLIENT_INCREASE_STAKE, 32)
    query_id: Uint64
    stake: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientWithdraw(Struct):
    """Owner → client: pay out what is above the stake."""

    TAG = (Op.CLIENT_WITHDRAW, 32)
    query_id: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientRequestRefund(Struct):
    """Owner → client: start closing, or finish it after the delay."""

    TAG = (Op.CLIENT_REQUEST_REFUND, 32)
    query_id: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientStateReport(Struct):
    """State of a client contract inside its requests to the proxy contract."""

    state: Uint2
    balance: Coins
    stake: Coins
    tokens_used: Uint64
    secret_hash: Bits256


@dataclass(frozen=True, slots=True)
class ClientRequest(Struct):
    """Client → proxy: its state, with an optional payload."""

    TAG = (Op.CLIENT_REQUEST, 32)
    query_id: Uint64
    owner: Account
    state: Annotated[ClientStateReport, NestedCodec(ClientStateReport, in_reference=True)]
    payload: MaybeReference


@dataclass(frozen=True, slots=True)
class ClientTopUpPart(Struct):
    """Payload of a client request: ``coins`` nanotons of the message are the client's."""

    TAG = (Op.CLIENT_REQUEST_TOP_UP, 32)
    coins: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientRefundGrantedPart(Struct):
    """Payload of a client request: pay ``coins`` to the client's owner."""

    TAG = (Op.CLIENT_REQUEST_REFUND_GRANTED, 32)
    coins: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientRefundForcedPart(Struct):
    """Payload of a client request: pay ``coins`` to the client's owner out of the proxy's stake."""

    TAG = (Op.CLIENT_REQUEST_REFUND_FORCED, 32)
    coins: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ClientRegisterPart(Struct):
    """Payload of a client request: the nonce of a long authorisation."""

    TAG = (Op.CLIENT_REQUEST_REGISTER, 32)
    nonce: Uint64


@dataclass(frozen=True, slots=True)
class ProxyPayout(Struct):
    """Anyone → proxy: pay its balance to its owner."""

    TAG = (Op.PROXY_PAYOUT, 32)
    query_id: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ProxyIncreaseStake(Struct):
    """Anyone → proxy: add ``amount`` nanotons to the stake."""

    TAG = (Op.PROXY_INCREASE_STAKE, 32)
    query_id: Uint64
    amount: Coins
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class ProxyOwnerClose(Struct):
    """Owner → proxy: start closing, or finish it after the delay."""

    TAG = (Op.PROXY_OWNER_CLOSE, 32)
    query_id: Uint64
    send_excesses_to: Account


@dataclass(frozen=True, slots=True)
class Excesses(Struct):
    """Contract → ``send_excesses_to``: the rest of a message's value."""

    TAG = (Op.EXCESSES, 32)
    query_id: Uint64


@dataclass(frozen=True, slots=True)
class Payout(Struct):
    """Contract → owner: earned or refunded money."""

    TAG = (Op.PAYOUT, 32)
    query_id: Uint64


@dataclass(frozen=True, slots=True)
class RootAddWorkerHash(Struct):
    """List a worker image."""

    TAG = (Op.ROOT_ADD_WORKER_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootDeleteWorkerHash(Struct):
    """Drop a worker image."""

    TAG = (Op.ROOT_DELETE_WORKER_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootAddModelHash(Struct):
    """List a model (SHA-256 of its full name)."""

    TAG = (Op.ROOT_ADD_MODEL_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootDeleteModelHash(Struct):
    """Drop a model."""

    TAG = (Op.ROOT_DELETE_MODEL_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootAddProxyHash(Struct):
    """List a proxy image."""

    TAG = (Op.ROOT_ADD_PROXY_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootDeleteProxyHash(Struct):
    """Drop a proxy image."""

    TAG = (Op.ROOT_DELETE_PROXY_HASH, 32)
    query_id: Uint64
    hash: Bits256


@dataclass(frozen=True, slots=True)
class RootUnregisterProxy(Struct):
    """Drop a registered proxy."""

    TAG = (Op.ROOT_UNREGISTER_PROXY, 32)
    query_id: Uint64
    seqno: Uint32


@dataclass(frozen=True, slots=True)
class RootChangePrices(Struct):
    """Set both prices, in nanotons a token."""

    TAG = (Op.ROOT_CHANGE_PRICES, 32)
    query_id: Uint64
    price_per_token: Coins
    worker_fee_per_token: Coins


@dataclass(frozen=True, slots=True)
class RootChangeParams(Struct):
    """Set prices, delays (seconds) and stakes (nanotons)."""

    TAG = (Op.ROOT_CHANGE_PARAMS, 32)
    query_id: Uint64
    price_per_token: Coins
    worker_fee_per_token: Coins
    proxy_delay_before_close: Uint32
    client_delay_before_close: Uint32
    min_proxy_stake: Coins
    min_client_stake: Coins


@dataclass(frozen=True, slots=True)
class RootUpgradeContracts(Struct):
    """Set the codes that new contracts have."""

    TAG = (Op.ROOT_UPGRADE_CONTRACTS, 32)
    query_id: Uint64
    proxy_code: Reference
    worker_code: Reference
    client_code: Reference


@dataclass(frozen=True, slots=True)
class RootUpgradeCode(Struct):
    """Replace the root contract's own code."""

    TAG = (Op.ROOT_UPGRADE_CODE, 32)
    query_id: Uint64
    code: Reference


@dataclass(frozen=True, slots=True)
class RootReset(Struct):
    """Drop all hashes and registered proxies."""

    TAG = (Op.ROOT_RESET, 32)
    query_id: Uint64


@dataclass(frozen=True, slots=True)
class RootUpgradeFull(Struct):
    """Replace the root contract's data and code."""

    TAG = (Op.ROOT_UPGRADE_FULL, 32)
    query_id: Uint64
    data: Reference
    code: Reference


@dataclass(frozen=True, slots=True)
class RootChangeOwner(Struct):
    """Set the owner."""

    TAG = (Op.ROOT_CHANGE_OWNER, 32)
    query_id: Uint64
    owner: Account


@dataclass(frozen=True, slots=True)
class WalletOwnerSend(Struct):
    """Owner → wallet: send ``message`` with ``mode``."""

    TAG = (Op.WALLET_OWNER_SEND, 32)
    query_id: Uint64
    mode: Uint8
    message: Reference


@dataclass(frozen=True, slots=True)
class WalletReplaceKey(Struct):
    """Owner → wallet: external messages are signed by ``public_key`` from now on (own wallet only)."""

    TAG = (Op.WALLET_REPLACE_KEY, 32)
    query_id: Uint64
    public_key: Bits256


@dataclass(frozen=True, slots=True)
class RootRegisterProxy(Struct):
    """Register a proxy under the next sequence number; ``text`` as in 6.1."""

    TAG = (Op.ROOT_REGISTER_PROXY, 32)
    query_id: Uint64
    text: ProxyText


@dataclass(frozen=True, slots=True)
class RootUpdateProxy(Struct):
    """Replace the text of a registered proxy."""

    TAG = (Op.ROOT_UPDATE_PROXY, 32)
    query_id: Uint64
    seqno: Uint32
    text: ProxyText
