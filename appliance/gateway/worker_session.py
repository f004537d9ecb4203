"""The handshake of one worker connection, query by query (protocol specification, section 2.2). Pure.

In: queries. Out: answers, or an :class:`AdmissionError` after which the connection closes. The extended comparison goes
on to the last step (the reference never leaves it), and no numbers that a worker claims can do more than be refused.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog

from appliance.errors import ErrorCode
from appliance.gateway.admission import Checks, admit_worker
from appliance.gateway.errors import AdmissionError
from appliance.gateway.fleet import WorkerConnection, WorkerPort
from appliance.wire.messages import (
    ProxyParams,
    ProxySignedPaymentEmpty,
    WorkerCompareBalanceWithProxy,
    WorkerCompareBalanceWithProxyResult,
    WorkerConnectedToProxy,
    WorkerConnectToProxy,
    WorkerExtendedCompareBalanceWithProxy,
    WorkerExtendedCompareBalanceWithProxyResult,
    WorkerPaymentStatus,
    WorkerProxyHandshakeComplete,
    WorkerProxyHandshakeCompleted,
    WorkerUpdatePaymentStatus,
)

if TYPE_CHECKING:
    from appliance.gateway.desk import Desk
    from appliance.gateway.payments import Payments
    from appliance.gateway.terms import Terms
    from appliance.wire.base import TLObject
    from appliance.wire.messages import ProxySignedPayment

log = structlog.get_logger(__name__)


class Stage(Enum):
    """Which query is next."""

    CONNECT = auto()
    COMPARE = auto()
    COMPLETE = auto()
    READY = auto()


class WorkerSession:
    """One worker connection.

    Args:
        desk: Where its requests will come from.
        payments: Signs for its account.
        checks: Which lists of the root contract are enforced.
        number: Order of arrival.
        port: The way to the worker.
        image_hash: Its attested image, 32 bytes; zeros without attestation.
    """

    def __init__(
        self, desk: Desk, payments: Payments, checks: Checks, *, number: int, port: WorkerPort, image_hash: bytes
    ) -> None:
        self.stage = Stage.CONNECT
        self.connection: WorkerConnection | None = None
        self._desk = desk
        self._payments = payments
        self._checks = checks
        self._number = number
        self._port = port
        self._image_hash = image_hash

    def handle(self, query: TLObject) -> TLObject:
        """Answer a query.

        Raises:
            AdmissionError: It is refused; the connection is to be closed.
        """
        connection = self.connection
        match query:
            case WorkerConnectToProxy() if self.stage is Stage.CONNECT:
                return self._connect(query)
            case WorkerCompareBalanceWithProxy() if self.stage is Stage.COMPARE and connection:
                self.stage = Stage.COMPLETE
                return self._compare(connection, query)
            case WorkerExtendedCompareBalanceWithProxy() if self.stage is Stage.COMPLETE and connection:
                return self._extended(connection, query)
            case WorkerProxyHandshakeComplete() if self.stage is Stage.COMPLETE and connection:
                self.stage = Stage.READY
                connection.disabled = query.is_disabled
                connection.shaken = True
                return WorkerProxyHandshakeCompleted()
            case WorkerUpdatePaymentStatus() if self.stage is Stage.READY and connection:
                account = connection.account
                return WorkerPaymentStatus(self._payments.worker(account), account.db, account.tokens)
        raise AdmissionError(
            f"query {query.TL_NAME} came in the handshake's step {self.stage.name.lower()}",
            code=ErrorCode.PROTOCOL_VIOLATION,
            hint="expected connectToProxy, compareBalanceWithProxy, [extended…,] proxyHandshakeComplete in this order",
        )

    def _connect(self, query: WorkerConnectToProxy) -> WorkerConnectedToProxy:
        terms = self._desk.terms
        admitted = admit_worker(query.params, self._image_hash, terms, self._checks, closed=self._desk.closed)
        account = self._desk.book.worker(admitted.owner, terms.worker_contract(admitted.owner))
        self.connection = WorkerConnection(self._number, self._port, admitted, account)
        self._desk.fleet.add(self.connection)
        self.stage = Stage.COMPARE
        return WorkerConnectedToProxy(proxy_params(terms, admitted.version), terms.identity.text(account.contract))

    def _compare(
        self, connection: WorkerConnection, query: WorkerCompareBalanceWithProxy
    ) -> WorkerCompareBalanceWithProxyResult:
        account = connection.account
        claims = (query.tokens_committed_to_blockchain, query.tokens_committed_to_db, query.max_tokens)
        if not 0 <= claims[0] <= claims[1] <= claims[2]:
            log.warning("worker claims impossible totals", worker=connection.number)
        ahead = claims[0] > account.committed
        # A worker that holds a payment for more than is on record here knows better: nothing lower is signed for it.
        payment: ProxySignedPayment | ProxySignedPaymentEmpty
        payment = ProxySignedPaymentEmpty() if ahead else self._payments.worker(account)
        lower = int(ahead or query.max_tokens > account.tokens)
        return WorkerCompareBalanceWithProxyResult(payment, account.db, account.tokens, lower)

    def _extended(
        self, connection: WorkerConnection, query: WorkerExtendedCompareBalanceWithProxy
    ) -> WorkerExtendedCompareBalanceWithProxyResult:
        account = connection.account
        if query.other:
            proven = self._payments.proven_by(query.other, account.contract)
            if proven is not None:
                self._desk.book.prove_worker(account, proven)
        return WorkerExtendedCompareBalanceWithProxyResult(0)


def proxy_params(terms: Terms, version: int) -> ProxyParams:
    """The gateway's own parameters as both kinds of peer get them (section 2.2)."""
    identity = terms.identity
    return ProxyParams(
        flags=3 if version > 0 else 1,
        proxy_public_key=identity.public_key,
        proxy_owner_address=identity.text(identity.owner),
        proxy_sc_address=identity.text(terms.contract),
        is_test=identity.is_test,
        proto_version=version if version > 0 else None,
    )
