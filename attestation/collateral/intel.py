"""Collateral of TDX machines from Intel's service or a cache of it (PCS and PCCS, API version 4).

In: FMSPC and issuing authority. Out: the JSON form of ``dcap_qvl.QuoteCollateralV3``. Intel's own service needs no key
for these questions; the root's revocation list it serves under another name than a cache does.
"""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING

from attestation.collateral.errors import MalformedAnswerError
from attestation.collateral.exchange import Address, Question
from attestation.collateral.sources import check_platform
from attestation.collateral.vendors import INTEL_PCS, INTEL_ROOT_CRL
from attestation.collateral.web import Patience, WebClient, together
from attestation.dcap import MAX_COLLATERAL

if TYPE_CHECKING:
    from attestation.collateral.exchange import Reply

_UNKNOWN = (
    "404: the service does not know this platform; if its host says that the platform is not registered (0xe011), it "
    "has to be registered with Intel first, and a cache has to be filled for it"
)


class PccsCollateral:
    """A provisioning certificate caching service, or Intel's own service, by HTTP (API version 4).

    Args:
        url: ``http`` or ``https`` address of the service; ``http`` is fine for a cache, since all of it is signed.
        timeout: Seconds without a byte after which a request is given up, where ``client`` is not given.
        client: Asks; made with the environment's proxies otherwise.
        root_crl: Address of the root's revocation list; None asks Intel's where ``url`` is Intel's, else the service.
    """

    def __init__(
        self, url: str, *, timeout: float = 10.0, client: WebClient | None = None, root_crl: str | None = None
    ) -> None:
        self.host = Address.parse(url).host
        self._url = url.rstrip("/")
        self._client = client or WebClient(patience=Patience(silence=timeout))
        own = self._url == INTEL_PCS
        self._root_crl = root_crl or (INTEL_ROOT_CRL if own else f"{self._url}/sgx/certification/v4/rootcacrl")
        Address.parse(self._root_crl)

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Fetch revocation lists, TCB info and QE identity.

        Raises:
            CollateralError: The service is out of reach, refuses, or sends what cannot be collateral.
        """
        check_platform(fmspc, ca)
        pck_crl, root_crl, tcb, qe = await together(
            self._ask(f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der", f"the revocation list of {ca} keys"),
            self._client.ask(Question(self._root_crl, "the root's revocation list", MAX_COLLATERAL)),
            self._ask(f"/tdx/certification/v4/tcb?fmspc={fmspc}", f"the TCB info of {fmspc}"),
            self._ask("/tdx/certification/v4/qe/identity", "the quoting enclave's identity"),
        )
        tcb_info, tcb_signature = _signed_member(tcb.body, "tcbInfo")
        identity, identity_signature = _signed_member(qe.body, "enclaveIdentity")
        found = json.dumps(
            {
                "pck_crl_issuer_chain": self._chain(pck_crl, "SGX-PCK-CRL-Issuer-Chain"),
                "root_ca_crl": _binary(root_crl.body).hex(),
                "pck_crl": _binary(pck_crl.body).hex(),
                "tcb_info_issuer_chain": self._chain(tcb, "TCB-Info-Issuer-Chain"),
                "tcb_info": tcb_info,
                "tcb_info_signature": tcb_signature,
                "qe_identity_issuer_chain": self._chain(qe, "SGX-Enclave-Identity-Issuer-Chain"),
                "qe_identity": identity,
                "qe_identity_signature": identity_signature,
            }
        ).encode()
        if len(found) > MAX_COLLATERAL:
            raise MalformedAnswerError(f"collateral of {len(found)} bytes, at most {MAX_COLLATERAL} are used")
        return found

    async def _ask(self, path: str, what: str) -> Reply:
        return await self._client.ask(Question(self._url + path, what, MAX_COLLATERAL, missing=_UNKNOWN))

    def _chain(self, reply: Reply, header: str) -> str:
        chain = urllib.parse.unquote(reply.headers.get(header.lower(), ""))
        if not chain:
            raise MalformedAnswerError(
                f"collateral service {self.host} answers without issuer chain: no header {header}",
                hint="a proxy that drops headers, or no such service",
            )
        return chain


def _signed_member(body: bytes, name: str) -> tuple[str, str]:
    """The signed member of an answer exactly as it stands in the text, since the signature is over that text."""
    try:
        text = body.decode()
        signature = json.loads(text)["signature"]
        bytes.fromhex(signature)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedAnswerError(f"answer with {name} is not a signed JSON object") from None
    start = text.find(f'"{name}":')
    end = text.rfind(',"signature"')
    if start < 0 or end < start:
        raise MalformedAnswerError(f"answer holds no {name} followed by its signature")
    return text[start + len(name) + 3 : end].strip(), signature


def _binary(body: bytes) -> bytes:
    """DER, which some services send as hex text."""
    try:
        return bytes.fromhex(body.decode("ascii").strip())
    except ValueError:
        return body
