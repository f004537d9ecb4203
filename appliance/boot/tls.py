"""TLS for a page that any HTTPS client can read: the attested key and certificate in a context of the ``ssl`` module.

The peers' links use :mod:`attestation.ratls`, which demands a certificate of both sides and proof of work. A status
page is for whoever asks; what the certificate is worth is judged by the reader from its evidence.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def server_context() -> ssl.SSLContext:
    """TLS 1.3 for a server, without tickets; :func:`present` gives it a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    return context


def present(context: ssl.SSLContext, key: Ed25519PrivateKey, certificate: bytes) -> None:
    """Show this certificate (DER) from now on; connections that are open keep theirs.

    The ``ssl`` module reads keys from files only: this one is anonymous memory, and gone when this returns.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
