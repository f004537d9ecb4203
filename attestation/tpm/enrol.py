"""Getting an attestation key certified: the exchange with the authority, as its client.

``POST /enrol`` with the endorsement key's certificate and the attestation key; the answer holds a session and a
credential that only this TPM can open. ``POST /activate`` with what was in it; the answer holds the certificates. All
bodies are JSON with bytes in base64. The channel need not be secret or authentic: the secret proves where the key is,
and certificates are checked by whoever relies on them.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Any

from attestation.errors import CollectionError
from attestation.tpm.evidence import MAX_CERTIFICATE, MAX_CHAIN

MAX_BODY = 64 * 1024
"""Longest request or answer, in bytes."""

ENROL = "/enrol"
ACTIVATE = "/activate"


@dataclass(frozen=True, slots=True)
class Challenge:
    """An authority's first answer.

    Attributes:
        session: What the second request names.
        credential: As :meth:`attestation.tpm.credential.Credential.to_file`.
    """

    session: str
    credential: bytes


class AttestationAuthority:
    """An authority that certifies attestation keys.

    Args:
        url: Its address, ``http`` or ``https``.
        timeout: Seconds for one request.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CollectionError(f"attestation authority {url!r}, expected an http or https address")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._timeout = timeout

    def enrol(self, ek_certificate: bytes, ak_public: bytes) -> Challenge:
        """Ask for a certificate.

        Args:
            ek_certificate: DER.
            ak_public: TPM2B_PUBLIC.

        Raises:
            CollectionError: The authority is out of reach, refuses, or sends what is no answer.
        """
        answer = self._post(ENROL, {"ek_certificate": _text(ek_certificate), "ak_public": _text(ak_public)})
        session = answer.get("session")
        if not isinstance(session, str) or len(session) > 128:
            raise CollectionError("attestation authority answers without a session")
        return Challenge(session, _bytes(answer.get("credential"), "credential", 4096))

    def activate(self, session: str, secret: bytes) -> tuple[bytes, ...]:
        """Show what was in the credential.

        Returns:
            The attestation key's certificate and those above it, DER.

        Raises:
            CollectionError: As :meth:`enrol`.
        """
        answer = self._post(ACTIVATE, {"session": session, "secret": _text(secret)})
        chain = answer.get("certificates")
        if not isinstance(chain, list) or not 0 < len(chain) <= MAX_CHAIN:
            raise CollectionError(f"attestation authority answers without 1 to {MAX_CHAIN} certificates")
        return tuple(_bytes(item, "certificate", MAX_CERTIFICATE) for item in chain)

    def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request("POST", self._prefix + path, body=json.dumps(body), headers=headers)
            response = connection.getresponse()
            raw = response.read(MAX_BODY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise CollectionError(
                f"attestation authority {self._host} does not answer {path}: {type(error).__name__}",
                hint="set host.attestation_ca to the address where it listens",
            ) from None
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if len(raw) <= MAX_BODY else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise CollectionError(f"attestation authority {self._host} answers {path} with no JSON object")
        if response.status != http.HTTPStatus.OK:
            reason = str(answer.get("error", ""))[:300] or f"status {response.status}"
            raise CollectionError(f"attestation authority {self._host} refuses: {reason}")
        return answer


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes(value: object, name: str, limit: int) -> bytes:
    try:
        found = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        found = b""
    if not 0 < len(found) <= limit:
        raise CollectionError(f"attestation authority answers with a {name} that is not 1 to {limit} bytes in base64")
    return found
