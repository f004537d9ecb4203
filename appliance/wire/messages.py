"""One frozen class for each constructor of the table.

Generated: edit ``schema.py``, then run ``python -m appliance.wire.generate``.
"""

# ruff: noqa: D205, D415 -- the docstrings are the scheme's own lines

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from appliance.wire.base import TLFunction, TLObject

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, repr=False)
class TcpPing(TLObject):
    """``tcp.ping id:long = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0xBBE9627C
    TL_NAME: ClassVar[str] = "tcp.ping"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class TcpPong(TLObject):
    """``tcp.pong id:long = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0x0BD4302C
    TL_NAME: ClassVar[str] = "tcp.pong"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class TcpPacket(TLObject):
    """``tcp.packet data:bytes = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0x9C17BAF8
    TL_NAME: ClassVar[str] = "tcp.packet"

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class TcpQueryAnswer(TLObject):
    """``tcp.queryAnswer id:long data:bytes = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0xC048C311
    TL_NAME: ClassVar[str] = "tcp.queryAnswer"

    id: int
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class TcpQueryError(TLObject):
    """``tcp.queryError id:long code:int message:string = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0x4CD2F602
    TL_NAME: ClassVar[str] = "tcp.queryError"

    id: int
    code: int
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class TcpQuery(TLObject):
    """``tcp.query id:long data:bytes = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0x3AF51908
    TL_NAME: ClassVar[str] = "tcp.query"

    id: int
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class TcpConnected(TLObject):
    """``tcp.connected id:long = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0x636D41D6
    TL_NAME: ClassVar[str] = "tcp.connected"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class TcpConnect(TLObject):
    """``tcp.connect id:long = tcp.Packet``"""

    TL_ID: ClassVar[int] = 0xA57C4261
    TL_NAME: ClassVar[str] = "tcp.connect"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class HttpHeader(TLObject):
    """``http.header name:string value:string = http.Header``"""

    TL_ID: ClassVar[int] = 0x8E9BE511
    TL_NAME: ClassVar[str] = "http.header"

    name: str
    value: str


@dataclass(frozen=True, slots=True, repr=False)
class HttpResponse(TLObject):
    """``http.response http_version:string status_code:int reason:string headers:vector http.header
    payload:bytes = http.Response``
    """

    TL_ID: ClassVar[int] = 0x1CD0C42B
    TL_NAME: ClassVar[str] = "http.response"

    http_version: str
    status_code: int
    reason: str
    headers: tuple[HttpHeader, ...]
    payload: bytes


@dataclass(frozen=True, slots=True, repr=False)
class TokensUsed(TLObject):
    """``tokensUsed prompt_tokens_used:long cached_tokens_used:long completion_tokens_used:long
    reasoning_tokens_used:long total_tokens_used:long = TokensUsed``
    """

    TL_ID: ClassVar[int] = 0x70C5B15C
    TL_NAME: ClassVar[str] = "tokensUsed"

    prompt_tokens_used: int
    cached_tokens_used: int
    completion_tokens_used: int
    reasoning_tokens_used: int
    total_tokens_used: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerParams(TLObject):
    """``worker.params flags:# worker_owner_address:string model:string coefficient:int is_test:flags.0?Bool
    proxy_cnt:flags.0?int max_active_requests:flags.0?int min_proto_version:flags.1?int
    max_proto_version:flags.1?int = worker.Params``
    """

    TL_ID: ClassVar[int] = 0x869C73ED
    TL_NAME: ClassVar[str] = "worker.params"

    flags: int
    worker_owner_address: str
    model: str
    coefficient: int
    is_test: bool | None = None
    proxy_cnt: int | None = None
    max_active_requests: int | None = None
    min_proto_version: int | None = None
    max_proto_version: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class WorkerEnabledDisabled(TLObject):
    """``worker.enabledDisabled disabled:int = worker.EnabledDisabled``"""

    TL_ID: ClassVar[int] = 0xB3B71039
    TL_NAME: ClassVar[str] = "worker.enabledDisabled"

    disabled: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerNewCoefficient(TLObject):
    """``worker.newCoefficient new_coefficient:int = worker.NewCoefficient``"""

    TL_ID: ClassVar[int] = 0x6AF092B0
    TL_NAME: ClassVar[str] = "worker.newCoefficient"

    new_coefficient: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerConnectedToProxy(TLObject):
    """``worker.connectedToProxy params:proxy.params worker_sc_address:string = worker.ConnectedToProxy``"""

    TL_ID: ClassVar[int] = 0x66BC82EE
    TL_NAME: ClassVar[str] = "worker.connectedToProxy"

    params: ProxyParams
    worker_sc_address: str


@dataclass(frozen=True, slots=True, repr=False)
class WorkerCompareBalanceWithProxyResult(TLObject):
    """``worker.compareBalanceWithProxyResult signed_payment:proxy.SignedPayment tokens_committed_to_db:long
    max_tokens:long error_code:int = worker.CompareBalanceWithProxyResult``
    """

    TL_ID: ClassVar[int] = 0x9054C411
    TL_NAME: ClassVar[str] = "worker.compareBalanceWithProxyResult"

    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    tokens_committed_to_db: int
    max_tokens: int
    error_code: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerExtendedCompareBalanceWithProxyResult(TLObject):
    """``worker.extendedCompareBalanceWithProxyResult error_code:int =
    worker.ExtendedCompareBalanceWithProxyResult``
    """

    TL_ID: ClassVar[int] = 0x0C10973E
    TL_NAME: ClassVar[str] = "worker.extendedCompareBalanceWithProxyResult"

    error_code: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerProxyHandshakeCompleted(TLObject):
    """``worker.proxyHandshakeCompleted = worker.HandshakeCompleted``"""

    TL_ID: ClassVar[int] = 0x3AD9B886
    TL_NAME: ClassVar[str] = "worker.proxyHandshakeCompleted"


@dataclass(frozen=True, slots=True, repr=False)
class WorkerPaymentStatus(TLObject):
    """``worker.paymentStatus signed_payment:proxy.SignedPayment db_tokens:long max_tokens:long =
    worker.PaymentStatus``
    """

    TL_ID: ClassVar[int] = 0xA88BD701
    TL_NAME: ClassVar[str] = "worker.paymentStatus"

    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    db_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyParams(TLObject):
    """``proxy.params flags:# proxy_public_key:int256 proxy_owner_address:string proxy_sc_address:string
    is_test:flags.0?Bool proto_version:flags.1?int = proxy.Params``
    """

    TL_ID: ClassVar[int] = 0xD5C5609F
    TL_NAME: ClassVar[str] = "proxy.params"

    flags: int
    proxy_public_key: bytes
    proxy_owner_address: str
    proxy_sc_address: str
    is_test: bool | None = None
    proto_version: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProxyClientRequestPayment(TLObject):
    """``proxy.clientRequestPayment request_id:int256 signed_payment:proxy.SignedPayment db_tokens:long
    max_tokens:long request_tokens:long = proxy.WorkerRequestPayment``
    """

    TL_ID: ClassVar[int] = 0xC6BCF127
    TL_NAME: ClassVar[str] = "proxy.clientRequestPayment"

    request_id: bytes
    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    db_tokens: int
    max_tokens: int
    request_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxySignedPayment(TLObject):
    """``proxy.signedPayment data:bytes = proxy.SignedPayment``"""

    TL_ID: ClassVar[int] = 0x02998182
    TL_NAME: ClassVar[str] = "proxy.signedPayment"

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ProxySignedPaymentEmpty(TLObject):
    """``proxy.signedPaymentEmpty = proxy.SignedPayment``"""

    TL_ID: ClassVar[int] = 0xB347CE64
    TL_NAME: ClassVar[str] = "proxy.signedPaymentEmpty"


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswer(TLObject):
    """``proxy.queryAnswer answer:bytes is_completed:Bool request_id:int256 tokens_used:tokensUsed =
    proxy.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0x37E5F725
    TL_NAME: ClassVar[str] = "proxy.queryAnswer"

    answer: bytes
    is_completed: bool
    request_id: bytes
    tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerError(TLObject):
    """``proxy.queryAnswerError error_code:int error:string request_id:int256 tokens_used:tokensUsed =
    proxy.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0x669D014E
    TL_NAME: ClassVar[str] = "proxy.queryAnswerError"

    error_code: int
    error: str
    request_id: bytes
    tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerPart(TLObject):
    """``proxy.queryAnswerPart answer:bytes is_completed:Bool request_id:int256 tokens_used:tokensUsed =
    proxy.QueryAnswerPart``
    """

    TL_ID: ClassVar[int] = 0x72EB00EE
    TL_NAME: ClassVar[str] = "proxy.queryAnswerPart"

    answer: bytes
    is_completed: bool
    request_id: bytes
    tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerPartError(TLObject):
    """``proxy.queryAnswerPartError error_code:int error:string request_id:int256 tokens_used:tokensUsed =
    proxy.QueryAnswerPart``
    """

    TL_ID: ClassVar[int] = 0x940E1168
    TL_NAME: ClassVar[str] = "proxy.queryAnswerPartError"

    error_code: int
    error: str
    request_id: bytes
    tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryFinalInfo(TLObject):
    """``proxy.queryFinalInfo flags:# tokens_used:tokensUsed worker_debug:flags.0?string
    worker_start_time:flags.1?double worker_end_time:flags.1?double = proxy.QueryFinalInfo``
    """

    TL_ID: ClassVar[int] = 0xE794E6FC
    TL_NAME: ClassVar[str] = "proxy.queryFinalInfo"

    flags: int
    tokens_used: TokensUsed
    worker_debug: str | None = None
    worker_start_time: float | None = None
    worker_end_time: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerEx(TLObject):
    """``proxy.queryAnswerEx request_id:int256 answer:bytes flags:# final_info:flags.0?proxy.queryFinalInfo
    = proxy.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0x1CE574E8
    TL_NAME: ClassVar[str] = "proxy.queryAnswerEx"

    request_id: bytes
    answer: bytes
    flags: int
    final_info: ProxyQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerErrorEx(TLObject):
    """``proxy.queryAnswerErrorEx request_id:int256 error_code:int error:string flags:#
    final_info:flags.0?proxy.queryFinalInfo = proxy.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0x8F7FB0A7
    TL_NAME: ClassVar[str] = "proxy.queryAnswerErrorEx"

    request_id: bytes
    error_code: int
    error: str
    flags: int
    final_info: ProxyQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProxyQueryAnswerPartEx(TLObject):
    """``proxy.queryAnswerPartEx request_id:int256 answer:bytes flags:#
    final_info:flags.0?proxy.queryFinalInfo = proxy.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0x6D85B50F
    TL_NAME: ClassVar[str] = "proxy.queryAnswerPartEx"

    request_id: bytes
    answer: bytes
    flags: int
    final_info: ProxyQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProxyWorkerRequestPayment(TLObject):
    """``proxy.workerRequestPayment request_id:int256 signed_payment:proxy.SignedPayment db_tokens:long
    max_tokens:long request_tokens:long request_client_owner:string = proxy.WorkerRequestPayment``
    """

    TL_ID: ClassVar[int] = 0x1436C0D5
    TL_NAME: ClassVar[str] = "proxy.workerRequestPayment"

    request_id: bytes
    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    db_tokens: int
    max_tokens: int
    request_tokens: int
    request_client_owner: str


@dataclass(frozen=True, slots=True, repr=False)
class ClientParams(TLObject):
    """``client.params flags:# client_owner_address:string is_test:flags.0?Bool
    min_proto_version:flags.1?int max_proto_version:flags.1?int = client.Params``
    """

    TL_ID: ClassVar[int] = 0x40FDCA64
    TL_NAME: ClassVar[str] = "client.params"

    flags: int
    client_owner_address: str
    is_test: bool | None = None
    min_proto_version: int | None = None
    max_proto_version: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientProxyConnectionAuthShort(TLObject):
    """``client.proxyConnectionAuthShort secret_hash:int256 nonce:long = client.ProxyConnectionAuth``"""

    TL_ID: ClassVar[int] = 0xD6FFC5AF
    TL_NAME: ClassVar[str] = "client.proxyConnectionAuthShort"

    secret_hash: bytes
    nonce: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientProxyConnectionAuthLong(TLObject):
    """``client.proxyConnectionAuthLong nonce:long = client.ProxyConnectionAuth``"""

    TL_ID: ClassVar[int] = 0x417BF016
    TL_NAME: ClassVar[str] = "client.proxyConnectionAuthLong"

    nonce: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientAuthorizationWithProxySuccess(TLObject):
    """``client.authorizationWithProxySuccess signed_payment:proxy.SignedPayment tokens_committed_to_db:long
    max_tokens:long = client.AuthorizationWithProxy``
    """

    TL_ID: ClassVar[int] = 0x75D5AC34
    TL_NAME: ClassVar[str] = "client.authorizationWithProxySuccess"

    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    tokens_committed_to_db: int
    max_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientAuthorizationWithProxyFailed(TLObject):
    """``client.authorizationWithProxyFailed error_code:int error:string = client.AuthorizationWithProxy``"""

    TL_ID: ClassVar[int] = 0x60551C96
    TL_NAME: ClassVar[str] = "client.authorizationWithProxyFailed"

    error_code: int
    error: str


@dataclass(frozen=True, slots=True, repr=False)
class ClientConnectedToProxy(TLObject):
    """``client.connectedToProxy params:proxy.params client_sc_address:string
    auth:client.ProxyConnectionAuth signed_payment:proxy.SignedPayment = client.ConnectedToProxy``
    """

    TL_ID: ClassVar[int] = 0x95317AD1
    TL_NAME: ClassVar[str] = "client.connectedToProxy"

    params: ProxyParams
    client_sc_address: str
    auth: ClientProxyConnectionAuthShort | ClientProxyConnectionAuthLong
    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswer(TLObject):
    """``client.queryAnswer answer:bytes is_completed:Bool request_id:int256 request_tokens_used:tokensUsed
    = client.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0x9B943922
    TL_NAME: ClassVar[str] = "client.queryAnswer"

    answer: bytes
    is_completed: bool
    request_id: bytes
    request_tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerError(TLObject):
    """``client.queryAnswerError error_code:int error:string request_id:int256
    request_tokens_used:tokensUsed = client.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0x6D60569A
    TL_NAME: ClassVar[str] = "client.queryAnswerError"

    error_code: int
    error: str
    request_id: bytes
    request_tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerPart(TLObject):
    """``client.queryAnswerPart answer:bytes is_completed:Bool request_id:int256
    request_tokens_used:tokensUsed = client.QueryAnswerPart``
    """

    TL_ID: ClassVar[int] = 0xB765DE4C
    TL_NAME: ClassVar[str] = "client.queryAnswerPart"

    answer: bytes
    is_completed: bool
    request_id: bytes
    request_tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerPartError(TLObject):
    """``client.queryAnswerPartError error_code:int error:string request_id:int256
    request_tokens_used:tokensUsed = client.QueryAnswerPart``
    """

    TL_ID: ClassVar[int] = 0xD790A022
    TL_NAME: ClassVar[str] = "client.queryAnswerPartError"

    error_code: int
    error: str
    request_id: bytes
    request_tokens_used: TokensUsed


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryFinalInfo(TLObject):
    """``client.queryFinalInfo flags:# tokens_used:tokensUsed worker_debug:flags.0?string
    proxy_debug:flags.0?string proxy_start_time:flags.1?double proxy_end_time:flags.1?double
    worker_start_time:flags.1?double worker_end_time:flags.1?double = client.QueryFinalInfo``
    """

    TL_ID: ClassVar[int] = 0x69A452F0
    TL_NAME: ClassVar[str] = "client.queryFinalInfo"

    flags: int
    tokens_used: TokensUsed
    worker_debug: str | None = None
    proxy_debug: str | None = None
    proxy_start_time: float | None = None
    proxy_end_time: float | None = None
    worker_start_time: float | None = None
    worker_end_time: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerEx(TLObject):
    """``client.queryAnswerEx request_id:int256 answer:bytes flags:#
    final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0xCD524720
    TL_NAME: ClassVar[str] = "client.queryAnswerEx"

    request_id: bytes
    answer: bytes
    flags: int
    final_info: ClientQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerErrorEx(TLObject):
    """``client.queryAnswerErrorEx request_id:int256 error_code:int error:string flags:#
    final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0x072562A8
    TL_NAME: ClassVar[str] = "client.queryAnswerErrorEx"

    request_id: bytes
    error_code: int
    error: str
    flags: int
    final_info: ClientQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientQueryAnswerPartEx(TLObject):
    """``client.queryAnswerPartEx request_id:int256 answer:bytes flags:#
    final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0xC07BFAEC
    TL_NAME: ClassVar[str] = "client.queryAnswerPartEx"

    request_id: bytes
    answer: bytes
    flags: int
    final_info: ClientQueryFinalInfo | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientRefund(TLObject):
    """``client.refund data:bytes = client.Refund``"""

    TL_ID: ClassVar[int] = 0x83AABEAD
    TL_NAME: ClassVar[str] = "client.refund"

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ClientRefundRejected(TLObject):
    """``client.refundRejected active_queries:long = client.Refund``"""

    TL_ID: ClassVar[int] = 0xCF9D9957
    TL_NAME: ClassVar[str] = "client.refundRejected"

    active_queries: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientWorkerType(TLObject):
    """``client.workerType name:string active_workers:int coefficient_min:int coefficient_bucket50:int
    coefficient_max:int = client.WorkerType``
    """

    TL_ID: ClassVar[int] = 0x8210E21C
    TL_NAME: ClassVar[str] = "client.workerType"

    name: str
    active_workers: int
    coefficient_min: int
    coefficient_bucket50: int
    coefficient_max: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientWorkerTypes(TLObject):
    """``client.workerTypes types:vector client.workerType = client.WorkerTypes``"""

    TL_ID: ClassVar[int] = 0xF64E0E01
    TL_NAME: ClassVar[str] = "client.workerTypes"

    types: tuple[ClientWorkerType, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ClientWorkerInstanceV2(TLObject):
    """``client.workerInstanceV2 flags:# coefficient:int active_requests:int max_active_requests:int =
    client.WorkerInstanceV2``
    """

    TL_ID: ClassVar[int] = 0x3EA93D00
    TL_NAME: ClassVar[str] = "client.workerInstanceV2"

    flags: int
    coefficient: int
    active_requests: int
    max_active_requests: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientWorkerTypeV2(TLObject):
    """``client.workerTypeV2 name:string workers:vector client.workerInstanceV2 = client.WorkerTypeV2``"""

    TL_ID: ClassVar[int] = 0xB27D8197
    TL_NAME: ClassVar[str] = "client.workerTypeV2"

    name: str
    workers: tuple[ClientWorkerInstanceV2, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ClientWorkerTypesV2(TLObject):
    """``client.workerTypesV2 types:vector client.workerTypeV2 = client.WorkerTypesV2``"""

    TL_ID: ClassVar[int] = 0x0CF0DC67
    TL_NAME: ClassVar[str] = "client.workerTypesV2"

    types: tuple[ClientWorkerTypeV2, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ClientPaymentStatus(TLObject):
    """``client.paymentStatus signed_payment:proxy.SignedPayment db_tokens:long max_tokens:long =
    client.PaymentStatus``
    """

    TL_ID: ClassVar[int] = 0xAA8A0ECC
    TL_NAME: ClassVar[str] = "client.paymentStatus"

    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    db_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class TonBlockIdExt(TLObject):
    """``ton.blockIdExt workchain:int shard:long seqno:int root_hash:bytes file_hash:bytes =
    ton.BlockIdExt``
    """

    TL_ID: ClassVar[int] = 0xBC3F6DA5
    TL_NAME: ClassVar[str] = "ton.blockIdExt"

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes


@dataclass(frozen=True, slots=True, repr=False)
class TestAnswer(TLObject):
    """``test.answer id:long = test.Answer``"""

    TL_ID: ClassVar[int] = 0x0D4FCDB6
    TL_NAME: ClassVar[str] = "test.answer"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyRunnerConfig(TLObject):
    """``proxyRunner.config is_test:Bool is_testnet:Bool workers_rpc_port:int client_rpc_port:int
    http_port:int owner_address:string root_contract_address:string machine_specific_private_key:int256
    node_wallet_key:int256 ton_config_filename:string db_path:string check_worker_hashes:Bool
    image_hash:int256 http_access_hash:string = proxyRunner.Config``
    """

    TL_ID: ClassVar[int] = 0x5BF5E272
    TL_NAME: ClassVar[str] = "proxyRunner.config"

    is_test: bool
    is_testnet: bool
    workers_rpc_port: int
    client_rpc_port: int
    http_port: int
    owner_address: str
    root_contract_address: str
    machine_specific_private_key: bytes
    node_wallet_key: bytes
    ton_config_filename: str
    db_path: str
    check_worker_hashes: bool
    image_hash: bytes
    http_access_hash: str


@dataclass(frozen=True, slots=True, repr=False)
class WorkerRunnerConfig(TLObject):
    """``workerRunner.config is_test:Bool is_testnet:Bool http_port:int owner_address:string
    proxy_connections:int connect_to_proxy_via:string model_name:string coefficient:int
    root_contract_address:string node_wallet_key:int256 forward_requests_to:string
    ton_config_filename:string check_proxy_hashes:Bool max_active_requests:int image_hash:int256
    http_access_hash:string = workerRunner.Config``
    """

    TL_ID: ClassVar[int] = 0x870DB56D
    TL_NAME: ClassVar[str] = "workerRunner.config"

    is_test: bool
    is_testnet: bool
    http_port: int
    owner_address: str
    proxy_connections: int
    connect_to_proxy_via: str
    model_name: str
    coefficient: int
    root_contract_address: str
    node_wallet_key: bytes
    forward_requests_to: str
    ton_config_filename: str
    check_proxy_hashes: bool
    max_active_requests: int
    image_hash: bytes
    http_access_hash: str


@dataclass(frozen=True, slots=True, repr=False)
class ClientRunnerConfig(TLObject):
    """``clientRunner.config is_test:Bool is_testnet:Bool http_port:int owner_address:string
    proxy_connections:int connect_to_proxy_via:string root_contract_address:string node_wallet_key:int256
    check_proxy_hashes:Bool secret_string:string ton_config_filename:string http_access_hash:string =
    clientRunner.Config``
    """

    TL_ID: ClassVar[int] = 0xAF0BD51F
    TL_NAME: ClassVar[str] = "clientRunner.config"

    is_test: bool
    is_testnet: bool
    http_port: int
    owner_address: str
    proxy_connections: int
    connect_to_proxy_via: str
    root_contract_address: str
    node_wallet_key: bytes
    check_proxy_hashes: bool
    secret_string: str
    ton_config_filename: str
    http_access_hash: str


@dataclass(frozen=True, slots=True, repr=False)
class KeyStorageRunnerConfig(TLObject):
    """``keyStorageRunner.config is_test:Bool is_testnet:Bool rpc_port:int http_port:int
    root_contract_address:string machine_specific_private_key:int256 ton_config_filename:string
    db_path:string check_hashes:Bool image_hash:int256 http_access_hash:string = keyStorageRunner.Config``
    """

    TL_ID: ClassVar[int] = 0xD7874E40
    TL_NAME: ClassVar[str] = "keyStorageRunner.config"

    is_test: bool
    is_testnet: bool
    rpc_port: int
    http_port: int
    root_contract_address: str
    machine_specific_private_key: bytes
    ton_config_filename: str
    db_path: str
    check_hashes: bool
    image_hash: bytes
    http_access_hash: str


@dataclass(frozen=True, slots=True, repr=False)
class RootConfigRegisteredProxy(TLObject):
    """``rootConfig.registeredProxy seqno:int address:string = rootConfig.RegisteredProxy``"""

    TL_ID: ClassVar[int] = 0x9F4E446A
    TL_NAME: ClassVar[str] = "rootConfig.registeredProxy"

    seqno: int
    address: str


@dataclass(frozen=True, slots=True, repr=False)
class RootConfigPseudo(TLObject):
    """``rootConfig.pseudo proxy_hashes:vector int256 worker_hashes:vector int256 model_hashes:vector int256
    model_types:vector string registered_proxies:vector rootConfig.registeredProxy price_per_token:int
    worker_fee_per_token:int last_proxy_seqno:int version:int params_version:int proxy_sc_code:string
    worker_sc_code:string client_sc_code:string root_owner_address:string = rootConfig.Config``
    """

    TL_ID: ClassVar[int] = 0x87A976CC
    TL_NAME: ClassVar[str] = "rootConfig.pseudo"

    proxy_hashes: tuple[bytes, ...]
    worker_hashes: tuple[bytes, ...]
    model_hashes: tuple[bytes, ...]
    model_types: tuple[str, ...]
    registered_proxies: tuple[RootConfigRegisteredProxy, ...]
    price_per_token: int
    worker_fee_per_token: int
    last_proxy_seqno: int
    version: int
    params_version: int
    proxy_sc_code: str
    worker_sc_code: str
    client_sc_code: str
    root_owner_address: str


@dataclass(frozen=True, slots=True, repr=False)
class RootConfigConfigV5(TLObject):
    """``rootConfig.configV5 root_owner_address:string proxy_hashes:vector int256 registered_proxies:vector
    rootConfig.registeredProxy last_proxy_seqno:int worker_hashes:vector int256 model_hashes:vector int256
    version:int struct_version:int params_version:int unique_id:int is_test:int price_per_token:long
    worker_fee_per_token:long prompt_tokens_price_multiplier:int cached_tokens_price_multiplier:int
    completion_tokens_price_multiplier:int reasoning_tokens_price_multiplier:int
    proxy_delay_before_close:int client_delay_before_close:int min_proxy_stake:long min_client_stake:long
    proxy_sc_code:string worker_sc_code:string client_sc_code:string = rootConfig.Config``
    """

    TL_ID: ClassVar[int] = 0x5E84869B
    TL_NAME: ClassVar[str] = "rootConfig.configV5"

    root_owner_address: str
    proxy_hashes: tuple[bytes, ...]
    registered_proxies: tuple[RootConfigRegisteredProxy, ...]
    last_proxy_seqno: int
    worker_hashes: tuple[bytes, ...]
    model_hashes: tuple[bytes, ...]
    version: int
    struct_version: int
    params_version: int
    unique_id: int
    is_test: int
    price_per_token: int
    worker_fee_per_token: int
    prompt_tokens_price_multiplier: int
    cached_tokens_price_multiplier: int
    completion_tokens_price_multiplier: int
    reasoning_tokens_price_multiplier: int
    proxy_delay_before_close: int
    client_delay_before_close: int
    min_proxy_stake: int
    min_client_stake: int
    proxy_sc_code: str
    worker_sc_code: str
    client_sc_code: str


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbClientInfo(TLObject):
    """``proxyDb.clientInfo owner_address:string sc_address:string status:int balance:long
    sc_tokens_used:long tokens_used:long secret_hash:int256 last_request_at:int = proxyDb.ClientInfo``
    """

    TL_ID: ClassVar[int] = 0x6CFEAA21
    TL_NAME: ClassVar[str] = "proxyDb.clientInfo"

    owner_address: str
    sc_address: str
    status: int
    balance: int
    sc_tokens_used: int
    tokens_used: int
    secret_hash: bytes
    last_request_at: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbClientInfoV2(TLObject):
    """``proxyDb.clientInfoV2 owner_address:string sc_address:string status:int balance:long stake:long
    sc_tokens_used:long tokens_used:long secret_hash:int256 last_request_at:int = proxyDb.ClientInfo``
    """

    TL_ID: ClassVar[int] = 0x3078C9BF
    TL_NAME: ClassVar[str] = "proxyDb.clientInfoV2"

    owner_address: str
    sc_address: str
    status: int
    balance: int
    stake: int
    sc_tokens_used: int
    tokens_used: int
    secret_hash: bytes
    last_request_at: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbWorkerInfo(TLObject):
    """``proxyDb.workerInfo owner_address:string sc_address:string sc_tokens:long tokens:long
    last_request_at:int = proxyDb.WorkerInfo``
    """

    TL_ID: ClassVar[int] = 0x2517B38F
    TL_NAME: ClassVar[str] = "proxyDb.workerInfo"

    owner_address: str
    sc_address: str
    sc_tokens: int
    tokens: int
    last_request_at: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbPendingBlockchainSeqnoCommit(TLObject):
    """``proxyDb.pendingBlockchainSeqnoCommit seqno:int session_hash:int256 =
    proxyDb.PendingBlockchainSeqnoCommit``
    """

    TL_ID: ClassVar[int] = 0x525B14A9
    TL_NAME: ClassVar[str] = "proxyDb.pendingBlockchainSeqnoCommit"

    seqno: int
    session_hash: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbConfigEmpty(TLObject):
    """``proxyDb.configEmpty = proxyDb.Config``"""

    TL_ID: ClassVar[int] = 0x43DC40B4
    TL_NAME: ClassVar[str] = "proxyDb.configEmpty"


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbConfigV4(TLObject):
    """``proxyDb.configV4 root_contract_address:string is_testnet:int root_contract_state:rootConfig.Config
    root_contract_state_block_ts:int sc_block_id:ton.blockIdExt last_seqno_committed_to_blockchain:int
    pending_blockchain_seqno_commits:vector proxyDb.pendingBlockchainSeqnoCommit = proxyDb.Config``
    """

    TL_ID: ClassVar[int] = 0xBDE43703
    TL_NAME: ClassVar[str] = "proxyDb.configV4"

    root_contract_address: str
    is_testnet: int
    root_contract_state: RootConfigPseudo | RootConfigConfigV5
    root_contract_state_block_ts: int
    sc_block_id: TonBlockIdExt
    last_seqno_committed_to_blockchain: int
    pending_blockchain_seqno_commits: tuple[ProxyDbPendingBlockchainSeqnoCommit, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbConfigV4Disabled(TLObject):
    """``proxyDb.configV4Disabled root_contract_address:string is_testnet:int
    root_contract_state:rootConfig.Config root_contract_state_block_ts:int disabled_until_version:long =
    proxyDb.Config``
    """

    TL_ID: ClassVar[int] = 0xAD2CFB4A
    TL_NAME: ClassVar[str] = "proxyDb.configV4Disabled"

    root_contract_address: str
    is_testnet: int
    root_contract_state: RootConfigPseudo | RootConfigConfigV5
    root_contract_state_block_ts: int
    disabled_until_version: int


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbOldClient(TLObject):
    """``proxyDb.oldClient owner_address:string tokens:long next_client:string = proxyDb.OldClient``"""

    TL_ID: ClassVar[int] = 0x2FAE7B42
    TL_NAME: ClassVar[str] = "proxyDb.oldClient"

    owner_address: str
    tokens: int
    next_client: str


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbOldWorker(TLObject):
    """``proxyDb.oldWorker owner_address:string tokens:long next_worker:string = proxyDb.OldWorker``"""

    TL_ID: ClassVar[int] = 0xF04156A0
    TL_NAME: ClassVar[str] = "proxyDb.oldWorker"

    owner_address: str
    tokens: int
    next_worker: str


@dataclass(frozen=True, slots=True, repr=False)
class ProxyDbOldInstance(TLObject):
    """``proxyDb.oldInstance contract_address:string closing_state:int close_at:int next_client:string
    next_worker:string root_contract_state:rootConfig.Config = proxyDb.OldInstance``
    """

    TL_ID: ClassVar[int] = 0xA8C9E178
    TL_NAME: ClassVar[str] = "proxyDb.oldInstance"

    contract_address: str
    closing_state: int
    close_at: int
    next_client: str
    next_worker: str
    root_contract_state: RootConfigPseudo | RootConfigConfigV5


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerDbConfigEmpty(TLObject):
    """``keyManagerDb.configEmpty = keyManagerDb.Config``"""

    TL_ID: ClassVar[int] = 0xD3FC2385
    TL_NAME: ClassVar[str] = "keyManagerDb.configEmpty"


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerDbConfigV1(TLObject):
    """``keyManagerDb.configV1 root_contract_version:int = keyManagerDb.Config``"""

    TL_ID: ClassVar[int] = 0x6D2817AC
    TL_NAME: ClassVar[str] = "keyManagerDb.configV1"

    root_contract_version: int


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerDbKey(TLObject):
    """``keyManagerDb.key private_key:int256 for_proxies:Bool for_workers:Bool
    valid_since_config_version:int valid_since_utime:int valid_until_utime:int = keyManagerDb.Key``
    """

    TL_ID: ClassVar[int] = 0x4D0A1E17
    TL_NAME: ClassVar[str] = "keyManagerDb.key"

    private_key: bytes
    for_proxies: bool
    for_workers: bool
    valid_since_config_version: int
    valid_since_utime: int
    valid_until_utime: int


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerPrivateKey(TLObject):
    """``keyManager.privateKey valid_until_utime:int private_key:int256 = keyManager.PrivateKey``"""

    TL_ID: ClassVar[int] = 0x60F4F8E7
    TL_NAME: ClassVar[str] = "keyManager.privateKey"

    valid_until_utime: int
    private_key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerPrivateKeys(TLObject):
    """``keyManager.privateKeys keys:vector keyManager.privateKey = keyManager.PrivateKeys``"""

    TL_ID: ClassVar[int] = 0x0ED66CE5
    TL_NAME: ClassVar[str] = "keyManager.privateKeys"

    keys: tuple[KeyManagerPrivateKey, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisHelloAnswer(TLObject):
    """``chrysalis.helloAnswer extensions:vector string = chrysalis.Hello``"""

    TL_ID: ClassVar[int] = 0x916CC9F4
    TL_NAME: ClassVar[str] = "chrysalis.helloAnswer"

    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisCancel(TLObject):
    """``chrysalis.cancel request_id:int256 = chrysalis.Cancel``"""

    TL_ID: ClassVar[int] = 0x4D0DE45C
    TL_NAME: ClassVar[str] = "chrysalis.cancel"

    request_id: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisEvidence(TLObject):
    """``chrysalis.evidence bundle:bytes = chrysalis.Evidence``"""

    TL_ID: ClassVar[int] = 0xC15749AB
    TL_NAME: ClassVar[str] = "chrysalis.evidence"

    bundle: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisWorkerEvidence(TLObject):
    """``chrysalis.workerEvidence items:vector bytes = chrysalis.WorkerEvidence``"""

    TL_ID: ClassVar[int] = 0xCCD5EF35
    TL_NAME: ClassVar[str] = "chrysalis.workerEvidence"

    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisEvidenceEnded(TLObject):
    """``chrysalis.evidenceEnded generation:long = chrysalis.EvidenceEnded``"""

    TL_ID: ClassVar[int] = 0xBAC4E0B4
    TL_NAME: ClassVar[str] = "chrysalis.evidenceEnded"

    generation: int


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisWorkerEvidenceEnded(TLObject):
    """``chrysalis.workerEvidenceEnded model_name:string = chrysalis.WorkerEvidenceEnded``"""

    TL_ID: ClassVar[int] = 0x0517F1E0
    TL_NAME: ClassVar[str] = "chrysalis.workerEvidenceEnded"

    model_name: str


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest(TLFunction[HttpResponse]):
    """``http.request method:string url:string http_version:string headers:vector http.header payload:bytes
    = http.Response``
    """

    TL_ID: ClassVar[int] = 0x47492DE5
    TL_NAME: ClassVar[str] = "http.request"

    method: str
    url: str
    http_version: str
    headers: tuple[HttpHeader, ...]
    payload: bytes


@dataclass(frozen=True, slots=True, repr=False)
class WorkerConnectToProxy(TLFunction[WorkerConnectedToProxy]):
    """``worker.connectToProxy params:worker.params = worker.ConnectedToProxy``"""

    TL_ID: ClassVar[int] = 0xCC484C5D
    TL_NAME: ClassVar[str] = "worker.connectToProxy"

    params: WorkerParams


@dataclass(frozen=True, slots=True, repr=False)
class WorkerCompareBalanceWithProxy(TLFunction[WorkerCompareBalanceWithProxyResult]):
    """``worker.compareBalanceWithProxy tokens_committed_to_blockchain:long tokens_committed_to_db:long
    max_tokens:long = worker.CompareBalanceWithProxyResult``
    """

    TL_ID: ClassVar[int] = 0xDB386501
    TL_NAME: ClassVar[str] = "worker.compareBalanceWithProxy"

    tokens_committed_to_blockchain: int
    tokens_committed_to_db: int
    max_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class WorkerExtendedCompareBalanceWithProxy(TLFunction[WorkerExtendedCompareBalanceWithProxyResult]):
    """``worker.extendedCompareBalanceWithProxy tokens_committed_to_db:long other:bytes =
    worker.ExtendedCompareBalanceWithProxyResult``
    """

    TL_ID: ClassVar[int] = 0xF8DD9914
    TL_NAME: ClassVar[str] = "worker.extendedCompareBalanceWithProxy"

    tokens_committed_to_db: int
    other: bytes


@dataclass(frozen=True, slots=True, repr=False)
class WorkerProxyHandshakeComplete(TLFunction[WorkerProxyHandshakeCompleted]):
    """``worker.proxyHandshakeComplete is_disabled:Bool = worker.HandshakeCompleted``"""

    TL_ID: ClassVar[int] = 0xF843B066
    TL_NAME: ClassVar[str] = "worker.proxyHandshakeComplete"

    is_disabled: bool


@dataclass(frozen=True, slots=True, repr=False)
class WorkerUpdatePaymentStatus(TLFunction[WorkerPaymentStatus]):
    """``worker.updatePaymentStatus = worker.PaymentStatus``"""

    TL_ID: ClassVar[int] = 0xDC70A524
    TL_NAME: ClassVar[str] = "worker.updatePaymentStatus"


@dataclass(frozen=True, slots=True, repr=False)
class ProxyRunQuery(TLFunction[ProxyQueryAnswer | ProxyQueryAnswerError]):
    """``proxy.runQuery query:bytes signed_payment:proxy.SignedPayment coefficient:long timeout:double
    request_id:int256 = proxy.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0x47182416
    TL_NAME: ClassVar[str] = "proxy.runQuery"

    query: bytes
    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    coefficient: int
    timeout: float
    request_id: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ProxyRunQueryEx(TLFunction[ProxyQueryAnswer | ProxyQueryAnswerError]):
    """``proxy.runQueryEx query:bytes signed_payment:proxy.SignedPayment coefficient:long timeout:double
    request_id:int256 flags:# enable_debug:flags.0?Bool = proxy.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0xC805E7E2
    TL_NAME: ClassVar[str] = "proxy.runQueryEx"

    query: bytes
    signed_payment: ProxySignedPayment | ProxySignedPaymentEmpty
    coefficient: int
    timeout: float
    request_id: bytes
    flags: int
    enable_debug: bool | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientConnectToProxy(TLFunction[ClientConnectedToProxy]):
    """``client.connectToProxy params:client.params min_config_version:int = client.ConnectedToProxy``"""

    TL_ID: ClassVar[int] = 0xFF5FA0F4
    TL_NAME: ClassVar[str] = "client.connectToProxy"

    params: ClientParams
    min_config_version: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientAuthorizeWithProxyShort(
    TLFunction[ClientAuthorizationWithProxySuccess | ClientAuthorizationWithProxyFailed]
):
    """``client.authorizeWithProxyShort data:bytes = client.AuthorizationWithProxy``"""

    TL_ID: ClassVar[int] = 0x6C276723
    TL_NAME: ClassVar[str] = "client.authorizeWithProxyShort"

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ClientAuthorizeWithProxyLong(
    TLFunction[ClientAuthorizationWithProxySuccess | ClientAuthorizationWithProxyFailed]
):
    """``client.authorizeWithProxyLong = client.AuthorizationWithProxy``"""

    TL_ID: ClassVar[int] = 0xD3474303
    TL_NAME: ClassVar[str] = "client.authorizeWithProxyLong"


@dataclass(frozen=True, slots=True, repr=False)
class ClientRunQuery(TLFunction[ClientQueryAnswer | ClientQueryAnswerError]):
    """``client.runQuery model_name:string query:bytes max_coefficient:int max_tokens:int timeout:double
    request_id:int256 min_config_version:int = client.QueryAnswer``
    """

    TL_ID: ClassVar[int] = 0xBC748F32
    TL_NAME: ClassVar[str] = "client.runQuery"

    model_name: str
    query: bytes
    max_coefficient: int
    max_tokens: int
    timeout: float
    request_id: bytes
    min_config_version: int


@dataclass(frozen=True, slots=True, repr=False)
class ClientRunQueryEx(TLFunction[ClientQueryAnswerEx | ClientQueryAnswerErrorEx | ClientQueryAnswerPartEx]):
    """``client.runQueryEx model_name:string query:bytes max_coefficient:int max_tokens:int timeout:double
    request_id:int256 min_config_version:int flags:# enable_debug:flags.0?Bool = client.QueryAnswerEx``
    """

    TL_ID: ClassVar[int] = 0xF54CB74B
    TL_NAME: ClassVar[str] = "client.runQueryEx"

    model_name: str
    query: bytes
    max_coefficient: int
    max_tokens: int
    timeout: float
    request_id: bytes
    min_config_version: int
    flags: int
    enable_debug: bool | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ClientRequestRefund(TLFunction[ClientRefund | ClientRefundRejected]):
    """``client.requestRefund = client.Refund``"""

    TL_ID: ClassVar[int] = 0x238D863D
    TL_NAME: ClassVar[str] = "client.requestRefund"


@dataclass(frozen=True, slots=True, repr=False)
class ClientUpdatePaymentStatus(TLFunction[ClientPaymentStatus]):
    """``client.updatePaymentStatus = client.PaymentStatus``"""

    TL_ID: ClassVar[int] = 0x9ED1C697
    TL_NAME: ClassVar[str] = "client.updatePaymentStatus"


@dataclass(frozen=True, slots=True, repr=False)
class ClientGetWorkerTypes(TLFunction[ClientWorkerTypes]):
    """``client.getWorkerTypes = client.WorkerTypes``"""

    TL_ID: ClassVar[int] = 0x7F062BDB
    TL_NAME: ClassVar[str] = "client.getWorkerTypes"


@dataclass(frozen=True, slots=True, repr=False)
class ClientGetWorkerTypesV2(TLFunction[ClientWorkerTypesV2]):
    """``client.getWorkerTypesV2 = client.WorkerTypesV2``"""

    TL_ID: ClassVar[int] = 0xB2133D72
    TL_NAME: ClassVar[str] = "client.getWorkerTypesV2"


@dataclass(frozen=True, slots=True, repr=False)
class TestQuery(TLFunction[TestAnswer]):
    """``test.query id:long = test.Answer``"""

    TL_ID: ClassVar[int] = 0x394E9143
    TL_NAME: ClassVar[str] = "test.query"

    id: int


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerGetWorkerPrivateKeys(TLFunction[KeyManagerPrivateKeys]):
    """``keyManager.getWorkerPrivateKeys min_config_version:int = keyManager.PrivateKeys``"""

    TL_ID: ClassVar[int] = 0x2A26EFF5
    TL_NAME: ClassVar[str] = "keyManager.getWorkerPrivateKeys"

    min_config_version: int


@dataclass(frozen=True, slots=True, repr=False)
class KeyManagerGetProxyPrivateKeys(TLFunction[KeyManagerPrivateKeys]):
    """``keyManager.getProxyPrivateKeys min_config_version:int = keyManager.PrivateKeys``"""

    TL_ID: ClassVar[int] = 0x47A9C2DE
    TL_NAME: ClassVar[str] = "keyManager.getProxyPrivateKeys"

    min_config_version: int


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisHello(TLFunction[ChrysalisHelloAnswer]):
    """``chrysalis.hello extensions:vector string = chrysalis.Hello``"""

    TL_ID: ClassVar[int] = 0x63D6368D
    TL_NAME: ClassVar[str] = "chrysalis.hello"

    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisGetEvidence(TLFunction[ChrysalisEvidence]):
    """``chrysalis.getEvidence nonce:int256 = chrysalis.Evidence``"""

    TL_ID: ClassVar[int] = 0x3F0B26FE
    TL_NAME: ClassVar[str] = "chrysalis.getEvidence"

    nonce: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ChrysalisGetWorkerEvidence(TLFunction[ChrysalisWorkerEvidence]):
    """``chrysalis.getWorkerEvidence nonce:int256 model_name:string = chrysalis.WorkerEvidence``"""

    TL_ID: ClassVar[int] = 0xEC56536C
    TL_NAME: ClassVar[str] = "chrysalis.getWorkerEvidence"

    nonce: bytes
    model_name: str


# Every class by its constructor id.
CLASSES: Final[Mapping[int, type[TLObject]]] = MappingProxyType(
    {
        TcpPing.TL_ID: TcpPing,
        TcpPong.TL_ID: TcpPong,
        TcpPacket.TL_ID: TcpPacket,
        TcpQueryAnswer.TL_ID: TcpQueryAnswer,
        TcpQueryError.TL_ID: TcpQueryError,
        TcpQuery.TL_ID: TcpQuery,
        TcpConnected.TL_ID: TcpConnected,
        TcpConnect.TL_ID: TcpConnect,
        HttpHeader.TL_ID: HttpHeader,
        HttpResponse.TL_ID: HttpResponse,
        TokensUsed.TL_ID: TokensUsed,
        WorkerParams.TL_ID: WorkerParams,
        WorkerEnabledDisabled.TL_ID: WorkerEnabledDisabled,
        WorkerNewCoefficient.TL_ID: WorkerNewCoefficient,
        WorkerConnectedToProxy.TL_ID: WorkerConnectedToProxy,
        WorkerCompareBalanceWithProxyResult.TL_ID: WorkerCompareBalanceWithProxyResult,
        WorkerExtendedCompareBalanceWithProxyResult.TL_ID: WorkerExtendedCompareBalanceWithProxyResult,
        WorkerProxyHandshakeCompleted.TL_ID: WorkerProxyHandshakeCompleted,
        WorkerPaymentStatus.TL_ID: WorkerPaymentStatus,
        ProxyParams.TL_ID: ProxyParams,
        ProxyClientRequestPayment.TL_ID: ProxyClientRequestPayment,
        ProxySignedPayment.TL_ID: ProxySignedPayment,
        ProxySignedPaymentEmpty.TL_ID: ProxySignedPaymentEmpty,
        ProxyQueryAnswer.TL_ID: ProxyQueryAnswer,
        ProxyQueryAnswerError.TL_ID: ProxyQueryAnswerError,
        ProxyQueryAnswerPart.TL_ID: ProxyQueryAnswerPart,
        ProxyQueryAnswerPartError.TL_ID: ProxyQueryAnswerPartError,
        ProxyQueryFinalInfo.TL_ID: ProxyQueryFinalInfo,
        ProxyQueryAnswerEx.TL_ID: ProxyQueryAnswerEx,
        ProxyQueryAnswerErrorEx.TL_ID: ProxyQueryAnswerErrorEx,
        ProxyQueryAnswerPartEx.TL_ID: ProxyQueryAnswerPartEx,
        ProxyWorkerRequestPayment.TL_ID: ProxyWorkerRequestPayment,
        ClientParams.TL_ID: ClientParams,
        ClientProxyConnectionAuthShort.TL_ID: ClientProxyConnectionAuthShort,
        ClientProxyConnectionAuthLong.TL_ID: ClientProxyConnectionAuthLong,
        ClientAuthorizationWithProxySuccess.TL_ID: ClientAuthorizationWithProxySuccess,
        ClientAuthorizationWithProxyFailed.TL_ID: ClientAuthorizationWithProxyFailed,
        ClientConnectedToProxy.TL_ID: ClientConnectedToProxy,
        ClientQueryAnswer.TL_ID: ClientQueryAnswer,
        ClientQueryAnswerError.TL_ID: ClientQueryAnswerError,
        ClientQueryAnswerPart.TL_ID: ClientQueryAnswerPart,
        ClientQueryAnswerPartError.TL_ID: ClientQueryAnswerPartError,
        ClientQueryFinalInfo.TL_ID: ClientQueryFinalInfo,
        ClientQueryAnswerEx.TL_ID: ClientQueryAnswerEx,
        ClientQueryAnswerErrorEx.TL_ID: ClientQueryAnswerErrorEx,
        ClientQueryAnswerPartEx.TL_ID: ClientQueryAnswerPartEx,
        ClientRefund.TL_ID: ClientRefund,
        ClientRefundRejected.TL_ID: ClientRefundRejected,
        ClientWorkerType.TL_ID: ClientWorkerType,
        ClientWorkerTypes.TL_ID: ClientWorkerTypes,
        ClientWorkerInstanceV2.TL_ID: ClientWorkerInstanceV2,
        ClientWorkerTypeV2.TL_ID: ClientWorkerTypeV2,
        ClientWorkerTypesV2.TL_ID: ClientWorkerTypesV2,
        ClientPaymentStatus.TL_ID: ClientPaymentStatus,
        TonBlockIdExt.TL_ID: TonBlockIdExt,
        TestAnswer.TL_ID: TestAnswer,
        ProxyRunnerConfig.TL_ID: ProxyRunnerConfig,
        WorkerRunnerConfig.TL_ID: WorkerRunnerConfig,
        ClientRunnerConfig.TL_ID: ClientRunnerConfig,
        KeyStorageRunnerConfig.TL_ID: KeyStorageRunnerConfig,
        RootConfigRegisteredProxy.TL_ID: RootConfigRegisteredProxy,
        RootConfigPseudo.TL_ID: RootConfigPseudo,
        RootConfigConfigV5.TL_ID: RootConfigConfigV5,
        ProxyDbClientInfo.TL_ID: ProxyDbClientInfo,
        ProxyDbClientInfoV2.TL_ID: ProxyDbClientInfoV2,
        ProxyDbWorkerInfo.TL_ID: ProxyDbWorkerInfo,
        ProxyDbPendingBlockchainSeqnoCommit.TL_ID: ProxyDbPendingBlockchainSeqnoCommit,
        ProxyDbConfigEmpty.TL_ID: ProxyDbConfigEmpty,
        ProxyDbConfigV4.TL_ID: ProxyDbConfigV4,
        ProxyDbConfigV4Disabled.TL_ID: ProxyDbConfigV4Disabled,
        ProxyDbOldClient.TL_ID: ProxyDbOldClient,
        ProxyDbOldWorker.TL_ID: ProxyDbOldWorker,
        ProxyDbOldInstance.TL_ID: ProxyDbOldInstance,
        KeyManagerDbConfigEmpty.TL_ID: KeyManagerDbConfigEmpty,
        KeyManagerDbConfigV1.TL_ID: KeyManagerDbConfigV1,
        KeyManagerDbKey.TL_ID: KeyManagerDbKey,
        KeyManagerPrivateKey.TL_ID: KeyManagerPrivateKey,
        KeyManagerPrivateKeys.TL_ID: KeyManagerPrivateKeys,
        ChrysalisHelloAnswer.TL_ID: ChrysalisHelloAnswer,
        ChrysalisCancel.TL_ID: ChrysalisCancel,
        ChrysalisEvidence.TL_ID: ChrysalisEvidence,
        ChrysalisWorkerEvidence.TL_ID: ChrysalisWorkerEvidence,
        ChrysalisEvidenceEnded.TL_ID: ChrysalisEvidenceEnded,
        ChrysalisWorkerEvidenceEnded.TL_ID: ChrysalisWorkerEvidenceEnded,
        HttpRequest.TL_ID: HttpRequest,
        WorkerConnectToProxy.TL_ID: WorkerConnectToProxy,
        WorkerCompareBalanceWithProxy.TL_ID: WorkerCompareBalanceWithProxy,
        WorkerExtendedCompareBalanceWithProxy.TL_ID: WorkerExtendedCompareBalanceWithProxy,
        WorkerProxyHandshakeComplete.TL_ID: WorkerProxyHandshakeComplete,
        WorkerUpdatePaymentStatus.TL_ID: WorkerUpdatePaymentStatus,
        ProxyRunQuery.TL_ID: ProxyRunQuery,
        ProxyRunQueryEx.TL_ID: ProxyRunQueryEx,
        ClientConnectToProxy.TL_ID: ClientConnectToProxy,
        ClientAuthorizeWithProxyShort.TL_ID: ClientAuthorizeWithProxyShort,
        ClientAuthorizeWithProxyLong.TL_ID: ClientAuthorizeWithProxyLong,
        ClientRunQuery.TL_ID: ClientRunQuery,
        ClientRunQueryEx.TL_ID: ClientRunQueryEx,
        ClientRequestRefund.TL_ID: ClientRequestRefund,
        ClientUpdatePaymentStatus.TL_ID: ClientUpdatePaymentStatus,
        ClientGetWorkerTypes.TL_ID: ClientGetWorkerTypes,
        ClientGetWorkerTypesV2.TL_ID: ClientGetWorkerTypesV2,
        TestQuery.TL_ID: TestQuery,
        KeyManagerGetWorkerPrivateKeys.TL_ID: KeyManagerGetWorkerPrivateKeys,
        KeyManagerGetProxyPrivateKeys.TL_ID: KeyManagerGetProxyPrivateKeys,
        ChrysalisHello.TL_ID: ChrysalisHello,
        ChrysalisGetEvidence.TL_ID: ChrysalisGetEvidence,
        ChrysalisGetWorkerEvidence.TL_ID: ChrysalisGetWorkerEvidence,
    }
)


# The classes a function's answer may have.
RESULT_OF: Final[Mapping[type[TLObject], tuple[type[TLObject], ...]]] = MappingProxyType(
    {
        HttpRequest: (HttpResponse,),
        WorkerConnectToProxy: (WorkerConnectedToProxy,),
        WorkerCompareBalanceWithProxy: (WorkerCompareBalanceWithProxyResult,),
        WorkerExtendedCompareBalanceWithProxy: (WorkerExtendedCompareBalanceWithProxyResult,),
        WorkerProxyHandshakeComplete: (WorkerProxyHandshakeCompleted,),
        WorkerUpdatePaymentStatus: (WorkerPaymentStatus,),
        ProxyRunQuery: (ProxyQueryAnswer, ProxyQueryAnswerError),
        ProxyRunQueryEx: (ProxyQueryAnswer, ProxyQueryAnswerError),
        ClientConnectToProxy: (ClientConnectedToProxy,),
        ClientAuthorizeWithProxyShort: (
            ClientAuthorizationWithProxySuccess,
            ClientAuthorizationWithProxyFailed,
        ),
        ClientAuthorizeWithProxyLong: (
            ClientAuthorizationWithProxySuccess,
            ClientAuthorizationWithProxyFailed,
        ),
        ClientRunQuery: (ClientQueryAnswer, ClientQueryAnswerError),
        ClientRunQueryEx: (ClientQueryAnswerEx, ClientQueryAnswerErrorEx, ClientQueryAnswerPartEx),
        ClientRequestRefund: (ClientRefund, ClientRefundRejected),
        ClientUpdatePaymentStatus: (ClientPaymentStatus,),
        ClientGetWorkerTypes: (ClientWorkerTypes,),
        ClientGetWorkerTypesV2: (ClientWorkerTypesV2,),
        TestQuery: (TestAnswer,),
        KeyManagerGetWorkerPrivateKeys: (KeyManagerPrivateKeys,),
        KeyManagerGetProxyPrivateKeys: (KeyManagerPrivateKeys,),
        ChrysalisHello: (ChrysalisHelloAnswer,),
        ChrysalisGetEvidence: (ChrysalisEvidence,),
        ChrysalisGetWorkerEvidence: (ChrysalisWorkerEvidence,),
    }
)
