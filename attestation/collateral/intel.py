"""Collateral of TDX machines from Intel's service or a cache of it (PCS and PCCS, API version 4).

In: FMSPC and issuing authority. Out: the JSON form of ``dcap_qvl.QuoteCollateralV3``.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import urllib.parse

from attestation.collateral.sources import check_platform
from attestation.dcap import MAX_COLLATERAL
from attestation.errors import CollateralError


class PccsCollateral:
    """A provisioning certificate caching service, or Intel's own service, by HTTP (API version 4).

    Args:
        url: ``http`` or ``https`` address of the service; ``http`` is fine for a cache, since all of it is signed.
        timeout: Seconds for each of the four requests.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CollateralError(f"collateral service {url!r}, expected an http or https address")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Fetch revocation lists, TCB info and QE identity.

        Raises:
            CollateralError: The service is out of reach, refuses, or sends what cannot be collateral.
        """
        check_platform(fmspc, ca)
        return await asyncio.to_thread(self._fetch, fmspc, ca)

    def _fetch(self, fmspc: str, ca: str) -> bytes:
        pck_crl, pck_chain = self._request(
            f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der", "SGX-PCK-CRL-Issuer-Chain"
        )
        root_crl, _ = self._request("/sgx/certification/v4/rootcacrl", None)
        tcb, tcb_chain = self._request(f"/tdx/certification/v4/tcb?fmspc={fmspc}", "TCB-Info-Issuer-Chain")
        qe, qe_chain = self._request("/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain")
        tcb_info, tcb_signature = _signed_member(tcb, "tcbInfo")
        identity, identity_signature = _signed_member(qe, "enclaveIdentity")
        return json.dumps(
            {
                "pck_crl_issuer_chain": pck_chain,
                "root_ca_crl": _binary(root_crl).hex(),
                "pck_crl": _binary(pck_crl).hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": tcb_signature,
                "qe_identity_issuer_chain": qe_chain,
                "qe_identity": identity,
                "qe_identity_signature": identity_signature,
            }
        ).encode()

    def _request(self, path: str, chain_header: str | None) -> tuple[bytes, str]:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("GET", self._prefix + path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read(MAX_COLLATERAL + 1)
            chain = response.getheader(chain_header, "") if chain_header else ""
        except (OSError, http.client.HTTPException) as error:
            raise CollateralError(
                f"collateral service {self._host} does not answer {path}: {type(error).__name__}",
                hint="check the network, or use collateral from a file",
            ) from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise CollateralError(
                f"collateral service {self._host} answers {path} with status {response.status}, expected 200",
                hint="404: the service does not know this platform"
                if response.status == http.HTTPStatus.NOT_FOUND
                else "",
            )
        if len(body) > MAX_COLLATERAL or (chain_header and not chain):
            raise CollateralError(
                f"collateral service {self._host} answers {path} without issuer chain or with too much"
            )
        return body, urllib.parse.unquote(chain)


def _signed_member(body: bytes, name: str) -> tuple[str, str]:
    """The signed member of an answer exactly as it stands in the text, since the signature is over that text."""
    try:
        text = body.decode()
        signature = json.loads(text)["signature"]
        bytes.fromhex(signature)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CollateralError(f"answer with {name} is not a signed JSON object") from None
    start = text.find(f'"{name}":')
    end = text.rfind(',"signature"')
    if start < 0 or end < start:
        raise CollateralError(f"answer holds no {name} followed by its signature")
    return text[start + len(name) + 3 : end].strip(), signature


def _binary(body: bytes) -> bytes:
    """DER, which some services send as hex text."""
    try:
        return bytes.fromhex(body.decode("ascii").strip())
    except ValueError:
        return body
