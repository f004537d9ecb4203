"""The XML side of a reference manifest: a document from outside in, the signed element out.

The document is bounded before it is parsed, has no document type (so no entities and no expansion), reaches for no
network and no file, and nests no deeper than the parser's own limit of 256 elements. Compressed input is refused: its
first byte is no ``<``. The signature is verified by signxml under the certificate whose chain was verified first, over
exactly one reference to the whole document, and only the canonical form of what was signed is read afterwards.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from attestation.errors import EvidenceError
from attestation.gpu.chain import MAX_CERTIFICATES, load_der, moment_of, verify_path
from attestation.staple import MAX_RIM

if TYPE_CHECKING:
    from cryptography import x509
    from lxml.etree import _Element

    from attestation.gpu.chain import Path
    from attestation.gpu.memory import Memory

NS_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
NS_SHA384: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
NS_DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"

MAX_ELEMENTS: Final = 4096
MAX_ATTRIBUTES: Final = 128
"""Of one element. Canonical form sorts them, and takes seconds over tens of thousands."""

MAX_NAMESPACES: Final = 64
"""Declarations in the whole document; NVIDIA's have six."""

_MAX_CERTIFICATE: Final = 16 * 1024
_FORBIDDEN: Final = re.compile(rb"<!DOCTYPE|<!ENTITY|<\?xml-stylesheet|\0", re.IGNORECASE)
_PEM_LINES: Final = re.compile(r"-----(?:BEGIN|END) CERTIFICATE-----")


def signed_tag(
    data: bytes, roots: tuple[bytes, ...], now: float, memory: Memory | None = None
) -> tuple[_Element, Path]:
    """Verify a signed SWID tag.

    Args:
        data: The document.
        roots: Roots of signers, DER.
        now: Unix time at which the signer's certificates have to be valid.
        memory: Remembers signatures of certificates; without it every one is verified.

    Returns:
        The tag as it was signed, and its signer's chain.

    Raises:
        EvidenceError: It is none, or its signature or its signer does not hold.
    """
    tag = parse_tag(data)
    certificates = certificates_of(tag)
    path = verify_path(certificates, roots, now, memory)
    return _verified(tag, path, now), path


def parse_tag(data: bytes) -> _Element:
    """Parse a document that nobody has verified.

    Raises:
        EvidenceError: Too long, not XML in UTF-8, with a document type, or not a SWID tag.
    """
    from lxml import etree  # noqa: PLC0415 - a guest without GPUs never loads it

    if not 0 < len(data) <= MAX_RIM:
        raise EvidenceError(f"manifest of {len(data)} bytes, expected 1 to {MAX_RIM}")
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or _FORBIDDEN.search(data):
        raise EvidenceError("manifest is compressed, not UTF-8, or has a document type, which none has")
    if data.count(b"xmlns") > MAX_NAMESPACES:
        raise EvidenceError(f"manifest that declares over {MAX_NAMESPACES} namespaces")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        tag = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise EvidenceError(f"manifest is not XML: {str(error)[:120]}") from None
    if tag.getroottree().docinfo.internalDTD is not None:
        raise EvidenceError("manifest has a document type, which none has")
    for count, item in enumerate(tag.iter(), start=1):
        if count > MAX_ELEMENTS or len(item.attrib) > MAX_ATTRIBUTES:
            raise EvidenceError(
                f"manifest with over {MAX_ELEMENTS} elements, or an element with over {MAX_ATTRIBUTES} attributes"
            )
    if tag.tag != f"{{{NS_SWID}}}SoftwareIdentity":
        raise EvidenceError(f"manifest is a {str(tag.tag)[-60:]!r}, expected a SWID tag (SoftwareIdentity)")
    return tag


def certificates_of(tag: _Element) -> tuple[x509.Certificate, ...]:
    """The certificates that a tag's signature carries, leaf first.

    Raises:
        EvidenceError: Not exactly one signature with one list of certificates, or one that cannot be read.
    """
    signatures = tag.findall(f".//{{{NS_DSIG}}}Signature")
    if len(signatures) != 1 or signatures[0].getparent() is not tag:
        raise EvidenceError(f"manifest with {len(signatures)} signatures, expected one, below the tag itself")
    infos = signatures[0].findall(f"{{{NS_DSIG}}}KeyInfo")
    parts = [part for info in infos for part in info]
    if len(infos) != 1 or len(parts) != 1 or parts[0].tag != f"{{{NS_DSIG}}}X509Data":
        raise EvidenceError("manifest whose signature names its key by something else than certificates")
    if not 0 < len(parts[0]) <= MAX_CERTIFICATES or any(
        item.tag != f"{{{NS_DSIG}}}X509Certificate" for item in parts[0]
    ):
        raise EvidenceError(f"manifest without 1 to {MAX_CERTIFICATES} certificates")
    return tuple(load_der(_decode(item.text or "")) for item in parts[0])


def _decode(text: str) -> bytes:
    body = "".join(_PEM_LINES.sub("", text).split())
    try:
        if len(body) > _MAX_CERTIFICATE:
            raise EvidenceError(f"manifest with a certificate of {len(body)} characters")
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceError("manifest with a certificate that is not base64") from None


def _verified(tag: _Element, path: Path, now: float) -> _Element:
    from lxml import etree  # noqa: PLC0415 - see parse_tag
    from signxml.algorithms import DigestAlgorithm, SignatureMethod  # noqa: PLC0415 - as above
    from signxml.exceptions import SignXMLException  # noqa: PLC0415 - as above
    from signxml.verifier import SignatureConfiguration, XMLVerifier  # noqa: PLC0415 - as above

    configuration = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=moment_of(now),
    )
    try:
        result = XMLVerifier().verify(tag, x509_cert=path.leaf, expect_config=configuration)
    except (
        SignXMLException,
        InvalidSignature,
        UnsupportedAlgorithm,
        etree.LxmlError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        raise EvidenceError(
            f"manifest whose signature does not hold: {str(error)[:120] or type(error).__name__}",
            hint="the manifest was altered, or is not the one its signer made: fetch it again",
        ) from None
    signed = None if isinstance(result, list) else result.signed_xml
    if signed is None or signed.tag != tag.tag:
        raise EvidenceError("manifest whose signature covers a part of it only")
    return signed
