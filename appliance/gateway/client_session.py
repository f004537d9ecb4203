"""The handshake of one client connection and its lookups (protocol specification, sections 4.3 and 4.6). Pure.

In: queries. Out: answers, or an :class:`AdmissionError` after which the connection closes. The long authorisation waits
for the chain; that waiting is the shell's: it asks :attr:`ClientSession.registered` and calls :meth:`authorise`.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum, auto
from typing import TYPE_CHECKING

from appliance.errors import ErrorCode
from appliance.gateway.admission import AdmittedClient, admit_client
from appliance.gateway.errors import AdmissionError
from appliance.gateway.exchange import ClientConnection, ClientPort
from appliance.gateway.worker_session import proxy_params
from appliance.wire.messages import (
    ClientAuthorizationWithProxySuccess,
    ClientAuthorizeWithProxyShort,
    ClientConnectedToProxy,
    ClientConnectToProxy,
    ClientGetWorkerTypes,
    ClientGetWorkerTypesV2,
    ClientPaymentStatus,
    ClientProxyConnectionAuthLong,
    ClientProxyConnectionAuthShort,
    ClientUpdatePaymentStatus,
)

if TYPE_CHECKING:
    from appliance.gateway.book import ClientAccount
    from appliance.gateway.desk import Desk
    from appliance.gateway.payments import Payments
    from appliance.wire.base import TLObject

_NONCE_MASK = 2**64 - 1


class Stage(Enum):
    """Which query is next."""

    CONNECT = auto()
    AUTHORISE = auto()
    READY = auto()


class ClientSession:
    """One client connection.

    Args:
        desk: Where its requests go.
        payments: Signs for its account.
        number: Order of arrival.
        port: The way to the client.
        nonce: Random 64-bit number of this connection, signed as on the wire.

    Attributes:
        admitted: Who it says it is, after the first query.
        connection: The authorised connection; None before.
        registered: The chain showed a registration with this connection's nonce.
    """

    def __init__(self, desk: Desk, payments: Payments, *, number: int, port: ClientPort, nonce: int) -> None:
        self.stage = Stage.CONNECT
        self.admitted: AdmittedClient | None = None
        self.connection: ClientConnection | None = None
        self.registered = False
        self.nonce = nonce
        self._desk = desk
        self._payments = payments
        self._number = number
        self._port = port

    def handle(self, query: TLObject) -> TLObject:
        """Answer a query other than the long authorisation.

        Raises:
            AdmissionError: It is refused; the connection is to be closed.
        """
        match query:
            case ClientConnectToProxy() if self.stage is Stage.CONNECT:
                return self._connect(query)
            case ClientAuthorizeWithProxyShort() if self.stage is Stage.AUTHORISE and self.admitted:
                return self._short(self.admitted, query.data)
            case ClientGetWorkerTypes() if self.stage is Stage.READY:
                return self._desk.fleet.types()
            case ClientGetWorkerTypesV2() if self.stage is Stage.READY:
                return self._desk.fleet.types_v2()
            case ClientUpdatePaymentStatus() if self.connection:
                account = self.connection.account
                return ClientPaymentStatus(self._payments.client(account), account.db, account.tokens)
        raise AdmissionError(
            f"query {query.TL_NAME} came in the handshake's step {self.stage.name.lower()}",
            code=ErrorCode.PROTOCOL_VIOLATION,
            hint="expected connectToProxy, then authorizeWithProxyShort or authorizeWithProxyLong",
        )

    def _connect(self, query: ClientConnectToProxy) -> ClientConnectedToProxy:
        terms, book = self._desk.terms, self._desk.book
        admitted = admit_client(query.params, query.min_config_version, terms, closed=self._desk.closed)
        account = book.client(admitted.owner)
        auth: ClientProxyConnectionAuthShort | ClientProxyConnectionAuthLong
        if account is None:
            auth = ClientProxyConnectionAuthLong(self.nonce)
        else:
            _require_open(account)
            auth = ClientProxyConnectionAuthShort(account.secret_hash, self.nonce)
        self.admitted = admitted
        self.stage = Stage.AUTHORISE
        return ClientConnectedToProxy(
            proxy_params(terms, admitted.version),
            terms.identity.text(terms.client_contract(admitted.owner)),
            auth,
            self._payments.client_if_any(account),
        )

    def _short(self, admitted: AdmittedClient, secret: bytes) -> ClientAuthorizationWithProxySuccess:
        account = self._desk.book.client(admitted.owner)
        if account is None:
            raise AdmissionError(
                "this client contract has not been heard of, so its secret is not known",
                code=ErrorCode.ERROR,
                hint="deploy the client contract and use the long authorisation",
            )
        if not hmac.compare_digest(hashlib.sha256(secret).digest(), account.secret_hash):
            raise AdmissionError(
                "sha256 mismatch",
                code=ErrorCode.PLAIN,
                hint="change the secret hash of the client contract, or use the long authorisation",
            )
        return self._ready(admitted, account)

    def saw_registration(self, nonce: int) -> bool:
        """Whether a registration's nonce (unsigned 64 bits, from the chain) is this connection's; remembers it."""
        if nonce != self.nonce & _NONCE_MASK:
            return False
        self.registered = True
        return True

    def authorise(self) -> ClientAuthorizationWithProxySuccess:
        """End the long authorisation, after :attr:`registered` became true.

        Raises:
            AdmissionError: Out of order, or the contract is closing.
        """
        account = self._desk.book.client(self.admitted.owner) if self.admitted else None
        if self.stage is not Stage.AUTHORISE or self.admitted is None or account is None or not self.registered:
            raise AdmissionError("the long authorisation is not complete", code=ErrorCode.PROTOCOL_VIOLATION)
        return self._ready(self.admitted, account)

    def _ready(self, admitted: AdmittedClient, account: ClientAccount) -> ClientAuthorizationWithProxySuccess:
        _require_open(account)
        self.stage = Stage.READY
        self.connection = ClientConnection(self._number, self._port, admitted.owner, account, admitted.version)
        return ClientAuthorizationWithProxySuccess(self._payments.client(account), account.db, account.tokens)


def _require_open(account: ClientAccount) -> None:
    if account.status != 0:
        raise AdmissionError(
            f"the client contract is in state {account.status}, expected 0 (open)",
            code=ErrorCode.ERROR,
            hint="a closing contract cannot be used any more: use another wallet or another gateway",
        )
