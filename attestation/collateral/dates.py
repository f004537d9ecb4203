"""How long collateral holds, read from what it says itself; nothing is verified here.

A cache needs the dates before anybody has checked the signatures, so this reader is lenient about everything but form:
what it gets wrong costs a question to a service, never a verdict, since the verifier reads the dates again.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.x509 import ocsp

from attestation.collateral.errors import MalformedAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CLOCK_SKEW_S: Final = 300.0
"""Difference of clocks, in seconds, from which on dates begin to fail."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,20000}?)-----END CERTIFICATE-----")
_XML_CERTIFICATE = re.compile(rb"<(?:[A-Za-z0-9]{1,16}:)?X509Certificate>([^<]{1,20000})</")
_ARMOUR = re.compile(rb"-----[A-Z ]{1,32}-----|\s")


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when content holds, as Unix time.

    Attributes:
        issued: When the newest part of it was made.
        expires: When the first part of it ends.
    """

    issued: float
    expires: float

    def joined(self, other: Validity) -> Validity:
        """Both have to hold."""
        return Validity(max(self.issued, other.issued), min(self.expires, other.expires))


def validity(kind: str, content: bytes) -> Validity:
    """The dates of content of a kind (:data:`KINDS`).

    Raises:
        MalformedAnswerError: It has none that can be read: it is not of that kind.
    """
    try:
        found = KINDS[kind](content)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise MalformedAnswerError(
            f"{kind} of {len(content)} bytes without dates that can be read: {type(error).__name__}",
            hint="this is not what was asked for: look at what answers under the service's address",
        ) from None
    if not (math.isfinite(found.issued) and math.isfinite(found.expires)):
        raise MalformedAnswerError(f"{kind} without an end")
    return found


def _tdx(content: bytes) -> Validity:
    """JSON of ``dcap_qvl.QuoteCollateralV3``: two signed statements, two revocation lists, three chains."""
    parts: dict[str, Any] = json.loads(content)
    found = [_statement(json.loads(parts[name])) for name in ("tcb_info", "qe_identity")]
    found += [_crl(bytes.fromhex(parts[name])) for name in ("root_ca_crl", "pck_crl")]
    issued = max(part.issued for part in found[:2])
    for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        found += [_certificate(der) for der in pem_certificates(parts[name])]
    return Validity(issued, min(part.expires for part in found))


def _statement(value: Mapping[str, str]) -> Validity:
    return Validity(_iso(value["issueDate"]), _iso(value["nextUpdate"]))


def _iso(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _chain(content: bytes) -> Validity:
    return _all(_certificate(der) for der in pem_certificates(content.decode("ascii")))


def _rim(content: bytes) -> Validity:
    """XML with the signer's certificates in it (XML-DSig, ``X509Certificate``)."""
    return _all(
        _certificate(base64.b64decode(_ARMOUR.sub(b"", found), validate=True))
        for found in _XML_CERTIFICATE.findall(content)
    )


def _ocsp(content: bytes) -> Validity:
    """A response without ``nextUpdate`` holds only now: a newer one is always to be had (RFC 6960, section 4.2.2.1)."""
    response = ocsp.load_der_ocsp_response(content)
    issued = response.this_update_utc.timestamp()
    following = response.next_update_utc
    return Validity(issued, issued if following is None else following.timestamp())


def _crl(content: bytes) -> Validity:
    try:
        crl = x509.load_der_x509_crl(content)
    except x509.InvalidVersion as error:
        raise ValueError("a revocation list of an unknown version") from error
    if crl.next_update_utc is None:
        raise ValueError("a revocation list without nextUpdate")
    return Validity(crl.last_update_utc.timestamp(), crl.next_update_utc.timestamp())


def _all(parts: Iterable[Validity]) -> Validity:
    found = list(parts)
    if not found:
        raise ValueError("no certificate")
    result = found[0]
    for part in found[1:]:
        result = result.joined(part)
    return result


def pem_certificates(text: str) -> list[bytes]:
    """The certificates in a PEM text, as DER.

    Raises:
        ValueError: One of them is not base64.
    """
    try:
        return [base64.b64decode("".join(body.split()), validate=True) for body in _PEM.findall(text)]
    except binascii.Error as error:
        raise ValueError("a certificate that is not base64") from error


def _certificate(der: bytes) -> Validity:
    """The dates of a certificate (RFC 5280, section 4.1).

    Read by hand, since AMD's certificates have the serial number 0, which libraries stop loading.
    """
    fields = _Der(_Der(_Der(der).take(0x30)).take(0x30))
    if fields.peek() == 0xA0:  # version
        fields.take(0xA0)
    for tag in (0x02, 0x30, 0x30):  # serial number, signature, issuer
        fields.take(tag)
    dates = _Der(fields.take(0x30))
    return Validity(dates.time(), dates.time())


class _Der:
    """Takes DER values off the front of some bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def peek(self) -> int:
        return self._data[self._at]

    def take(self, tag: int) -> bytes:
        data, at = self._data, self._at
        if data[at] != tag:
            raise ValueError(f"DER tag {data[at]:#04x}, expected {tag:#04x}")
        length, at = data[at + 1], at + 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise ValueError("DER length of over four bytes")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("DER value longer than what is there")
        self._at = at + length
        return data[at : at + length]

    def time(self) -> float:
        """A UTCTime or a GeneralizedTime (RFC 5280, section 4.1.2.5)."""
        if self.peek() == 0x17:
            text = self.take(0x17).decode("ascii")
            text = ("19" if int(text[:2]) >= 50 else "20") + text
        else:
            text = self.take(0x18).decode("ascii")
        return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()


KINDS: Mapping[str, Callable[[bytes], Validity]] = {
    "tdx": _tdx,
    "snp-vcek": _certificate,
    "snp-chain": _chain,
    "snp-crl": _crl,
    "rim": _rim,
    "ocsp": _ocsp,
}
"""Reader of the dates by kind of content."""
