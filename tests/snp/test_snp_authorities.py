"""Authorities and revocation lists that are almost right: each differs from a control in one property."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from snp_support import NOW, pki, world

from attestation.errors import EvidenceError
from attestation.snp import Product, SnpCollateral
from attestation.snp.chain import RevokedError, verify_chain
from attestation.snp.evidence import LIMITS, SnpEvidence
from attestation.snp.vek import parse_vek

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
DER = serialization.Encoding.DER


def ask(*, ca: bool = True, signs: bool = True, bits: int = 0, pss: padding.PSS | padding.PKCS1v15 = PSS) -> bytes:
    """Genoa's signing key, certified once more by the same root."""
    genoa = pki(Product.GENOA)
    known = genoa.ask.certificate
    key = rsa.generate_private_key(65537, bits).public_key() if bits else genoa.ask.key.public_key()
    usage = x509.KeyUsage(not signs, False, False, False, False, signs, False, False, False)
    builder = (
        x509.CertificateBuilder(known.issuer, known.subject, key, 7, genoa.valid[0], genoa.valid[1])
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(genoa.ark.key, hashes.SHA384(), rsa_padding=pss).public_bytes(DER)


def verify(**changes: bytes | None) -> None:
    machine = world()
    verify_chain(replace(SnpCollateral.parse(machine.collateral()), **changes), machine.roots, NOW)


def test_an_authority_says_so_in_both_extensions() -> None:
    verify(ask=ask())
    for wrong in (ask(ca=False), ask(signs=False)):
        with pytest.raises(EvidenceError, match="is not an authority's"):
            verify(ask=wrong)


def test_short_keys_and_other_paddings_are_refused() -> None:
    for wrong in (ask(bits=1024), ask(pss=padding.PKCS1v15())):
        with pytest.raises(EvidenceError, match="is not RSA signed with PSS"):
            verify(ask=wrong)


def crl(issuer: x509.Name, scheme: padding.PSS | padding.PKCS1v15 = PSS) -> bytes:
    now = dt.datetime.fromtimestamp(NOW, dt.UTC)
    day = dt.timedelta(days=1)
    builder = x509.CertificateRevocationListBuilder(issuer, now - day, now + day)
    return builder.sign(pki(Product.GENOA).ark.key, hashes.SHA384(), rsa_padding=scheme).public_bytes(DER)


def test_a_revocation_list_has_the_roots_name_and_padding() -> None:
    genoa = pki(Product.GENOA)
    verify(crl=crl(genoa.ark.certificate.subject))
    for wrong in (crl(genoa.ask.certificate.subject), crl(genoa.ark.certificate.subject, padding.PKCS1v15())):
        with pytest.raises(RevokedError, match="was not signed by"):
            verify(crl=wrong)


def test_a_signature_is_whole_bytes() -> None:
    vek = bytearray(SnpCollateral.parse(world().collateral()).vek)
    unused = len(vek) - pki(Product.GENOA).ask.key.key_size // 8 - 1
    assert vek[unused] == 0
    vek[unused] = 1
    with pytest.raises(EvidenceError, match="not whole bytes"):
        parse_vek(bytes(vek))


def test_a_host_may_keep_every_kind_of_certificate() -> None:
    everything = SnpEvidence(bytes(1184), dict.fromkeys(LIMITS, b"\x30"))
    assert SnpEvidence.parse(everything.encode()) == everything
