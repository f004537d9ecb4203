"""What the vendors' services answer in a synthetic world: a question in, status, headers and body out.

Forms: Intel's provisioning certification service and its cache (PCS, PCCS, API version 4), AMD's key distribution
service (57230, section 4), NVIDIA's RIM service (``GET /v1/rim/{id}``) and OCSP (RFC 6960, appendix A).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import urllib.parse
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from appliance.lab.collateral_faults import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.lab.gpu_world import SyntheticGpus
    from appliance.lab.snp_world import SyntheticSnp
    from appliance.lab.tee import SyntheticTdx

OCSP_REQUEST, OCSP_RESPONSE = "application/ocsp-request", "application/ocsp-response"
_JSON, _BINARY, _CRL, _PEM = (
    "application/json",
    "application/octet-stream",
    "application/pkix-crl",
    "application/x-pem-file",
)
_RIM_UPDATED = "2025-03-14T15:09:03.011000"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        body: The body.
        content_type: Its type.
        headers: More headers.
        status: HTTP status.
    """

    body: bytes
    content_type: str = _BINARY
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


NOT_FOUND = Answer(b'{"message":"Not Found"}', _JSON, status=404)


def tdx(world: SyntheticTdx, service: Service, query: Mapping[str, str]) -> Answer:
    """Intel's service, or a cache of it. Every answer is made anew, so that none expires in a running world.

    Args:
        world: The machines' world; it has one platform, certified by the platform authority.
        service: What is asked for.
        query: ``ca`` and ``encoding`` of a revocation list, ``fmspc`` of a TCB info.
    """
    found: dict[str, str] = json.loads(world.collateral_json())
    if service is Service.ROOT_CRL:
        return Answer(found["root_ca_crl"].encode())
    if service is Service.PCK_CRL:
        return _pck_crl(found, query)
    if service is Service.TCB_INFO:
        if query.get("fmspc", "").lower() != world.fmspc.hex():
            return NOT_FOUND
        body = _signed("tcbInfo", found["tcb_info"], found["tcb_info_signature"])
        return Answer(body, _JSON, _chain("TCB-Info-Issuer-Chain", found["tcb_info_issuer_chain"]))
    body = _signed("enclaveIdentity", found["qe_identity"], found["qe_identity_signature"])
    return Answer(body, _JSON, _chain("SGX-Enclave-Identity-Issuer-Chain", found["qe_identity_issuer_chain"]))


def _pck_crl(found: Mapping[str, str], query: Mapping[str, str]) -> Answer:
    if query.get("ca") != "platform":
        return NOT_FOUND
    headers = _chain("SGX-PCK-CRL-Issuer-Chain", found["pck_crl_issuer_chain"])
    content = bytes.fromhex(found["pck_crl"])
    if query.get("encoding", "pem") == "der":
        return Answer(content, _CRL, headers)
    lines = base64.encodebytes(content).decode()
    return Answer(f"-----BEGIN X509 CRL-----\n{lines}-----END X509 CRL-----\n".encode(), _PEM, headers)


def amd(world: SyntheticSnp, path: str) -> Answer:
    """AMD's service.

    Args:
        world: The machine's world.
        path: With its query.
    """
    found = world.kds(path)
    if found is None:
        return NOT_FOUND
    return Answer(found, _PEM if found.startswith(b"-----") else _BINARY)


def rim(world: SyntheticGpus, rim_id: str) -> Answer:
    """NVIDIA's RIM service: one manifest by its name."""
    found = world.rim(rim_id)
    if found is None:
        return NOT_FOUND
    answer = {
        "id": rim_id,
        "rim": base64.b64encode(found).decode(),
        "sha256": hashlib.sha256(found).hexdigest(),
        "last_updated": _RIM_UPDATED,
        "rim_format": "TCG",
        "request_id": str(uuid.uuid4()),
    }
    return Answer(json.dumps(answer).encode(), _JSON)


def rim_ids(world: SyntheticGpus) -> Answer:
    """NVIDIA's RIM service: the names of all manifests."""
    answer = {"ids": sorted(world.rims()), "request_id": str(uuid.uuid4()), "last_updated": _RIM_UPDATED}
    return Answer(json.dumps(answer).encode(), _JSON)


def revocation(world: SyntheticGpus, request: bytes) -> Answer:
    """NVIDIA's OCSP responder: a request, DER."""
    try:
        found = world.answer_ocsp(request)
    except ValueError:
        return _refused(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
    return _refused(ocsp.OCSPResponseStatus.UNAUTHORIZED) if found is None else Answer(found, OCSP_RESPONSE)


def request_in(path: str) -> bytes:
    """The request in the path of a GET: base64, escaped; empty, which is no request, if it is neither."""
    try:
        return base64.b64decode(urllib.parse.unquote(path), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _refused(status: ocsp.OCSPResponseStatus) -> Answer:
    response = ocsp.OCSPResponseBuilder.build_unsuccessful(status)
    return Answer(response.public_bytes(Encoding.DER), OCSP_RESPONSE)


def _chain(header: str, chain: str) -> dict[str, str]:
    return {header: urllib.parse.quote(chain)}


def _signed(member: str, text: str, signature: str) -> bytes:
    """The signed member as it was signed, byte for byte: JSON must not be written anew."""
    return b'{"%s":%s,"signature":"%s"}' % (member.encode(), text.encode(), signature.encode())
