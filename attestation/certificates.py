"""Certificates from outside, read whole: the library reads most of one only when it is asked for.

In: a way to load one. Out: the certificate, all of which that is looked at anywhere here has been read; or an error of
ours. What is read late would fail where nobody expects it: in the words of an error about something else.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY_ERRORS = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)
"""What the certificate library raises over bytes that it cannot read."""


def read_whole(load: Callable[[], x509.Certificate]) -> x509.Certificate:
    """Read all of a certificate that is looked at here: the library reads most of it only when it is asked for.

    What the library finds odd but readable (a country of three letters) it warns of; that is no reason here.

    Raises:
        EvidenceError: Something in it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            certificate = load()
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
            _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.serial_number)
        except LIBRARY_ERRORS as error:
            raise EvidenceError(f"certificate cannot be read: {type(error).__name__}") from None
    return certificate
