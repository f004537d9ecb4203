"""Revocation status from NVIDIA's OCSP service (RFC 6960): a certificate and its issuer in, a response out.

The request is posted, names the issuer by SHA-384 as the vendor's tools do, and has no nonce: the response has to be of
use to every verifier who asks within its day. The address is configured; what a certificate names is not followed,
since a stranger's evidence carries it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.x509 import ocsp

from attestation.collateral.errors import MalformedAnswerError, ServiceRefusedError
from attestation.collateral.exchange import Address, Question
from attestation.collateral.keeper import Wanted
from attestation.errors import CollateralError, EvidenceError
from attestation.gpu.chain import load_der
from attestation.gpu.ocsp import requests_for
from attestation.staple import MAX_OCSP

if TYPE_CHECKING:
    from attestation.collateral.keeper import Keeper
    from attestation.collateral.web import WebClient


class OcspService:
    """NVIDIA's OCSP service, or a cache of it.

    Args:
        url: Its address; None uses what is kept alone.
        client: Asks.
        keeper: Keeps what was fetched.
    """

    def __init__(self, url: str | None, client: WebClient, keeper: Keeper) -> None:
        self._host = Address.parse(url).host if url else ""
        self._url = url
        self._client = client
        self._keeper = keeper

    async def get(self, certificate_der: bytes, issuer_der: bytes) -> bytes:
        """Fetch a response about a certificate.

        Raises:
            CollateralError: The certificates cannot be read, the service is out of reach, refuses, or sends what cannot
                be a response about this certificate.
        """
        try:
            certificate = load_der(certificate_der)
            question = requests_for((certificate, load_der(issuer_der)), device=False)[0]
        except EvidenceError as error:
            raise CollateralError(error.message, hint=error.hint) from None
        serial = certificate.serial_number

        async def fetch() -> bytes:
            reply = await self._client.ask(
                Question(
                    self._url or "",
                    f"revocation status of certificate {serial:x}",
                    MAX_OCSP,
                    body=question.der,
                    content_type="application/ocsp-request",
                    accept="application/ocsp-response",
                )
            )
            _check(reply.body, serial)
            return reply.body

        identity = hashlib.sha256(certificate_der).hexdigest()
        return await self._keeper.get(Wanted("ocsp", identity, self._host, fetch if self._url else None))


def _check(response: bytes, serial: int) -> None:
    """Whether it is an answer to what was asked; who signed it, the verifier looks at."""
    try:
        parsed = ocsp.load_der_ocsp_response(response)
        status = parsed.response_status
        found = [single.serial_number for single in parsed.responses] if status.value == 0 else []
    except (ValueError, TypeError) as error:
        raise MalformedAnswerError(
            f"answer about certificate {serial:x} is no OCSP response: {type(error).__name__}",
            hint="something that is not the responder answers in its place: look at the address",
        ) from None
    if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ServiceRefusedError(
            f"the OCSP responder answers {status.name.lower()} about certificate {serial:x}",
            hint="unauthorized: it does not know the certificate's issuer; try_later: it is overloaded",
        )
    if found != [serial]:
        raise MalformedAnswerError(f"OCSP response is not about certificate {serial:x} alone")
