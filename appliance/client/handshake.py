"""What a client checks when it meets a gateway (protocol specification, section 4.3). Pure.

In: the gateway's answer and what the client derives itself from the root contract. Out: :class:`Terms`, or a refusal
that names both values.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address, parse_friendly
from appliance.chain.errors import AddressError
from appliance.chain.messages import Op
from appliance.chain.signed import SignedPayment, parse_payment
from appliance.chain.stateinit import client_address, proxy_address
from appliance.client.errors import GatewayRefusedError
from appliance.wire import messages as tl

if TYPE_CHECKING:
    from appliance.chain.layouts import Params, RootState

MIN_PROTOCOL = 1
MAX_PROTOCOL = 2
_BOTH_FLAGS = 3
_NONCE_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Self:
    """Who this client is. ``wallet`` is its own wallet contract, the owner of its client contracts."""

    root: Address
    wallet: Address
    secret: bytes
    is_test: bool
    testnet: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """A gateway's parameters after they were checked.

    Attributes:
        public_key: Ed25519, 32 bytes.
        owner: The gateway's owner.
        contract: The gateway's contract.
        client_contract: This client's contract with it.
        protocol: Chosen version, 1 or 2.
        short: Whether the gateway knows this client's secret hash (short authorisation).
        nonce: For the long authorisation, unsigned 64 bits as the contract takes it (on the wire it is signed).
        params: The root parameters from which the addresses and the price follow.
    """

    public_key: bytes
    owner: Address
    contract: Address
    client_contract: Address
    protocol: int
    short: bool
    nonce: int
    params: Params


def hello(me: Self, root: RootState) -> tl.ClientConnectToProxy:
    """The first query on a link."""
    owner = me.wallet.friendly(testnet=me.testnet)
    params = tl.ClientParams(_BOTH_FLAGS, owner, me.is_test, MIN_PROTOCOL, MAX_PROTOCOL)
    return tl.ClientConnectToProxy(params, root.version)


def check(answer: tl.ClientConnectedToProxy, me: Self, root: RootState) -> Terms:
    """Compare the gateway's answer with our own derivation.

    Raises:
        GatewayRefusedError: Names the field, what came and what was expected.
    """
    params = answer.params
    if not params.flags & _BOTH_FLAGS:
        raise GatewayRefusedError(f"gateway's flags are {params.flags}, expected bit 0 or 1", hint="it is too old")
    if bool(params.is_test) != me.is_test:
        raise GatewayRefusedError(
            f"gateway says is_test={bool(params.is_test)}, this client has {me.is_test}",
            hint="it serves another network",
        )
    version = params.proto_version or 0
    if not MIN_PROTOCOL <= version <= MAX_PROTOCOL:
        raise GatewayRefusedError(f"gateway chose protocol {version}, expected {MIN_PROTOCOL} to {MAX_PROTOCOL}")
    owner = _address(params.proxy_owner_address, "owner")
    contract = proxy_address(me.root, root.params, owner, params.proxy_public_key)
    _same(params.proxy_sc_address, contract, me, "its contract")
    mine = client_address(root.params, me.wallet, contract, params.proxy_public_key)
    _same(answer.client_sc_address, mine, me, "this client's contract")
    return Terms(
        public_key=params.proxy_public_key,
        owner=owner,
        contract=contract,
        client_contract=mine,
        protocol=version,
        short=_knows_secret(answer.auth, me.secret),
        nonce=answer.auth.nonce & _NONCE_MASK,
        params=root.params,
    )


def charge(payment: tl.ProxySignedPayment | tl.ProxySignedPaymentEmpty, terms: Terms) -> SignedPayment | None:
    """The signed charge in a message, verified for this client's contract; None for the empty form.

    Raises:
        LayoutError: It is not a charge, or the signature or the contract is wrong.
    """
    if isinstance(payment, tl.ProxySignedPaymentEmpty):
        return None
    signed = parse_payment(payment.data, op=Op.CLIENT_CHARGE)
    signed.verify(terms.public_key, terms.client_contract)
    return signed


def _knows_secret(auth: tl.ClientProxyConnectionAuthShort | tl.ClientProxyConnectionAuthLong, secret: bytes) -> bool:
    if isinstance(auth, tl.ClientProxyConnectionAuthLong):
        return False
    return hmac.compare_digest(auth.secret_hash, hashlib.sha256(secret).digest())


def _address(text: str, what: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as error:
        raise GatewayRefusedError(f"gateway's {what} is not an address: {error.message}") from None


def _same(text: str, expected: Address, me: Self, what: str) -> None:
    """Section 2.2: the friendly forms are compared, so bounceable and testnet bits count too."""
    ours = expected.friendly(testnet=me.testnet)
    try:
        given = parse_friendly(text)
    except AddressError:
        given = None
    if given is None or given.address != expected or given.bounceable or given.testnet != me.testnet:
        raise GatewayRefusedError(
            f"gateway names {text[:64]!r} as {what}, derived from the root contract: {ours}",
            hint="it has other contract parameters; it or this client sees an older root contract",
        )
