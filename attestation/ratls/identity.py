"""A peer's own identity: an Ed25519 key made in memory, and a certificate over it that is renewed before it expires."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from attestation.certificate import LIFETIME, build_certificate
from attestation.claims import certificate_report_data
from attestation.errors import AttestationError, CertificateError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from attestation.platforms import Platform

_log = structlog.get_logger(__name__)
CIPHER_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
_BACKDATE_S = 60.0
"""Certificates begin a minute before now, so that a peer whose clock is a little behind takes them."""


class Identity:
    """Key, certificate and the TLS context made of both. Made by :meth:`create`; the key never leaves the process."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        platform: Platform | None,
        *,
        clock: Callable[[], float],
        lifetime: dt.timedelta,
        bundle_digest: bytes | None,
    ) -> None:
        self._key = key
        self._platform = platform
        self._clock = clock
        self._lifetime = lifetime
        self._bundle_digest = bundle_digest
        self._certificate = b""
        self._context: SSL.Context | None = None
        self.public_key: bytes = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    @classmethod
    async def create(
        cls,
        platform: Platform | None,
        *,
        clock: Callable[[], float] = time.time,
        lifetime: dt.timedelta = LIFETIME,
        bundle_digest: bytes | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> Identity:
        """Make a key and a certificate.

        Args:
            platform: Makes the quote; ``None`` for a peer without attestation.
            clock: Unix time.
            lifetime: How long a certificate is valid.
            bundle_digest: SHA-256 of our evidence bundle, for the certificate.
            key: Another key than a fresh one (tests).

        Raises:
            CollectionError: The platform gives no quote.
        """
        identity = cls(
            key or Ed25519PrivateKey.generate(), platform, clock=clock, lifetime=lifetime, bundle_digest=bundle_digest
        )
        await identity.refresh()
        return identity

    @property
    def certificate(self) -> bytes:
        """The current certificate (DER)."""
        return self._certificate

    @property
    def context(self) -> SSL.Context:
        """TLS 1.3 with this identity and the protocol's two suites; running connections keep the one they have."""
        if not self._certificate:
            raise CertificateError("identity without a certificate", hint="make it with Identity.create")
        if self._context is None:
            # Made when a link is: whoever only shows the certificate needs none of the memory that is both written
            # and executed, which the callbacks of this context take.
            self._context = tls_context(self._key, self._certificate)
        return self._context

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature over ``data``: 64 bytes."""
        return self._key.sign(data)

    async def refresh(self, *, bundle_digest: bytes | None = None) -> None:
        """Make a new quote and certificate over the same key.

        Args:
            bundle_digest: Replaces the digest that the certificate names.

        Raises:
            CollectionError: The platform gives no quote; the old certificate stays.
        """
        digest = self._bundle_digest if bundle_digest is None else bundle_digest
        quote = None
        if self._platform is not None:
            quote = await self._platform.collect(certificate_report_data(self.public_key))
        certificate = build_certificate(
            self._key,
            quote,
            now=self._clock() - _BACKDATE_S,
            bundle_digest=digest,
            lifetime=self._lifetime,
        )
        self._certificate, self._context, self._bundle_digest = certificate, None, digest

    async def keep_fresh(self, *, interval: float = 3600.0) -> None:
        """Refresh every ``interval`` seconds, give or take a tenth, until cancelled; failures are retried sooner."""
        while True:
            await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load, guards nothing
            for pause in (5.0, 30.0, 120.0):
                try:
                    await self.refresh()
                    break
                except AttestationError as error:
                    _log.warning("certificate not refreshed", error=type(error).__name__)
                    await asyncio.sleep(pause)


def tls_context(key: Ed25519PrivateKey, certificate: bytes) -> SSL.Context:
    """A context for both roles.

    The peer has to present a certificate and to prove possession of its key; what the certificate is worth is judged
    by the verifier afterwards, before any application byte moves. No session is resumed: that would skip the verifier.
    A connection gives its record buffers back between records: most links of a gateway are idle most of the time.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHER_SUITES)
    context.set_options(
        SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_IGNORE_UNEXPECTED_EOF
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judged_later)
    context.use_certificate(x509.load_der_x509_certificate(certificate))
    context.use_privatekey(key)
    return context


def _judged_later(*_: object) -> bool:
    return True
