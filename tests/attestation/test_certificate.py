"""Certificates of section 5.5, and who they let in by section 5.6."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pytest
from attest_support import NOW, Lab, Recorder
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from attestation import certificate as certs
from attestation import claims, policy
from attestation.certificate import build_certificate, parse_certificate
from attestation.errors import CertificateError, CollectionError
from attestation.platforms import FakeTdx
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.ratls.identity import tls_context
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

KEY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
FAKE = claims.certificate_report_data(PUBLIC)
FAKE_POLICY = policy.for_name("fake_tdx")


def _fake(now: float = NOW) -> Verifier:
    return Verifier(FAKE_POLICY, clock=lambda: now)


def test_it_has_the_references_fields_in_the_references_order() -> None:
    der = build_certificate(KEY, FAKE, now=NOW, bundle_digest=b"\x05" * 32)
    loaded = x509.load_der_x509_certificate(der)
    assert loaded.subject.rfc4514_string() == "CN=localhost,OU=Security,O=TDLib Development,ST=DUBAI,C=AE"
    assert loaded.subject == loaded.issuer
    assert [(item.oid.dotted_string, item.critical) for item in loaded.extensions] == [
        ("1.3.6.1.4.1.12345.1", True),
        ("1.3.6.1.4.1.12345.2", True),
        ("2.5.29.19", True),
        ("2.5.29.15", True),
        ("2.5.29.37", False),
        ("2.5.29.14", False),
        ("2.5.29.17", False),
        (certs.OID_BUNDLE.dotted_string, False),
    ]
    assert loaded.not_valid_after_utc - loaded.not_valid_before_utc == dt.timedelta(seconds=86400)
    assert loaded.serial_number.bit_length() > 64
    parsed = parse_certificate(der)
    assert parsed.public_key == PUBLIC
    assert parsed.quote == FAKE
    assert parsed.bundle_digest == b"\x05" * 32
    assert parsed.dns_names == ("localhost", "127.0.0.1")
    assert parsed.names_server
    KEY.public_key().verify(loaded.signature, loaded.tbs_certificate_bytes)


def test_without_attestation_both_private_extensions_are_absent() -> None:
    parsed = parse_certificate(build_certificate(KEY, None, now=NOW))
    assert parsed.quote is None
    assert parsed.bundle_digest is None


async def test_the_certificate_of_the_vectors(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["ra_tls"]
    der = x509.load_pem_x509_certificate(vectors["fake_cert_pem"].encode()).public_bytes(serialization.Encoding.DER)
    parsed = parse_certificate(der)
    assert parsed.public_key.hex() == vectors["public_key_hex"]
    assert parsed.quote is not None
    assert parsed.quote.hex() == vectors["fake_quote_hex"]
    assert certs.OID_QUOTE.dotted_string == vectors["oid_quote"]
    assert certs.OID_CLAIMS.dotted_string == vectors["oid_claims"]
    assert claims.certificate_report_data(parsed.public_key).hex() == vectors["report_data_hex"]
    at = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC).timestamp()
    assert (await _fake(at).verify_certificate(der, role="server")).accepted
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(vectors["private_key_base64"]))
    made = parse_certificate(build_certificate(key, parsed.quote, now=parsed.not_before))
    assert made == parsed


def as_version_1(der: bytes, key: Ed25519PrivateKey) -> bytes:
    """The same certificate without its version field, as the reference with OpenSSL 3.0 makes it, signed again."""
    tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    head = 4  # SEQUENCE with a two-byte length
    assert tbs[head : head + 5] == b"\xa0\x03\x02\x01\x02"
    body = tbs[head + 5 :]
    new = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    content = new + b"\x30\x05\x06\x03\x2b\x65\x70" + b"\x03\x41\x00" + key.sign(new)
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


async def test_version_1_with_extensions_is_read() -> None:
    der = as_version_1(build_certificate(KEY, FAKE, now=NOW - 60), KEY)
    assert x509.load_der_x509_certificate(der).version is x509.Version.v1
    assert (await _fake().verify_certificate(der, role="server")).accepted


async def test_version_1_peers_meet_in_both_roles() -> None:
    old, new = await Identity.create(FakeTdx()), await Identity.create(FakeTdx())
    old._context = tls_context(old._key, old.certificate)
    old._context.use_certificate(x509.load_der_x509_certificate(as_version_1(old.certificate, old._key)))
    verifier = Verifier(FAKE_POLICY)
    for server, client in ((old, new), (new, old)):
        served = await RatlsListener(server, verifier, 0).serve(lambda: Recorder(echo=True), "127.0.0.1", 0)
        port = served.sockets[0].getsockname()[1]
        transport, protocol = await RatlsDialer(client, verifier).connect(Recorder, "127.0.0.1", port)
        assert isinstance(protocol, Recorder)
        transport.write(b"hello")
        assert await protocol.wait_for(5) == b"hello"
        transport.close()
        await protocol.lost.wait()
        served.close()


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(
    ("offset", "accepted"), [(-3600, True), (0, True), (1, False), (3600, False), (-86400, True), (-86401, False)]
)
async def test_dates_are_looked_at_every_time(role: Any, offset: int, accepted: bool) -> None:
    der = build_certificate(KEY, FAKE, now=NOW + offset)
    verdict = await _fake().verify_certificate(der, role=role)
    assert verdict.accepted is accepted
    if not accepted:
        assert [item.name for item in verdict.failed] == ["certificate dates"]
        assert "clock" in verdict.failed[0].hint


def _custom(
    *,
    names: list[x509.GeneralName] | None = None,
    common_name: str = "localhost",
    issuer: str | None = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    authority: bool = False,
    signs: bool = True,
    extra: x509.ExtensionType | None = None,
    extra_critical: bool = True,
    key: Any = KEY,
) -> bytes:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    start = dt.datetime.fromtimestamp(NOW - 60, dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(issuer or common_name))
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(certs.OID_QUOTE, FAKE), critical=True)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(signs, not signs, False, False, False, False, False, False, False), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if extra:
        builder = builder.add_extension(extra, critical=extra_critical)
    algorithm = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


LOCAL = x509.DNSName("127.0.0.1")
SERVER, CLIENT = x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.mark.parametrize(
    ("arguments", "role", "failed"),
    [
        ({"names": [LOCAL]}, "server", []),
        ({"names": [x509.DNSName("localhost")]}, "server", ["certificate name"]),
        ({"names": [x509.DNSName("localhost")]}, "client", []),
        ({"names": [x509.DNSName("localhost")], "common_name": "127.0.0.1"}, "server", ["certificate name"]),
        ({"common_name": "127.0.0.1"}, "server", []),
        ({}, "server", ["certificate name"]),
        ({"names": [LOCAL], "issuer": "another"}, "server", ["certificate issuer"]),
        ({"names": [LOCAL], "usages": [CLIENT]}, "server", ["certificate purpose"]),
        ({"names": [LOCAL], "usages": [CLIENT]}, "client", []),
        ({"names": [LOCAL], "usages": [SERVER]}, "client", ["certificate purpose"]),
        ({"names": [LOCAL], "signs": False}, "client", ["certificate purpose"]),
        ({"names": [LOCAL], "authority": True}, "client", ["certificate purpose"]),
    ],
)
async def test_name_issuer_and_purpose(arguments: dict[str, Any], role: Any, failed: list[str]) -> None:
    verdict = await _fake().verify_certificate(_custom(**arguments), role=role)
    assert [item.name for item in verdict.failed] == failed


def _unknown(value: bytes = b"x", oid: str = "1.2.3.4") -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


@pytest.mark.parametrize(
    ("der", "message"),
    [
        (lambda: _custom(extra=_unknown()), "unknown critical"),
        (lambda: _custom(key=ec.generate_private_key(ec.SECP256R1())), "expected Ed25519"),
        (lambda: _custom(extra=_unknown(bytes(33), certs.OID_BUNDLE.dotted_string), extra_critical=False), "33 bytes"),
        (lambda: b"\x30\x03\x02\x01\x00", "cannot be read"),
        (lambda: b"", "cannot be read"),
        (lambda: bytes(64 * 1024), "at most"),
    ],
)
async def test_certificates_that_cannot_be(der: Any, message: str) -> None:
    parse_certificate(_custom(extra=_unknown(), extra_critical=False))
    bad = der()
    with pytest.raises(CertificateError, match=message):
        parse_certificate(bad)
    assert [item.name for item in (await _fake().verify_certificate(bad)).failed] == ["certificate"]


def test_a_quote_over_32_kib_is_refused_when_made_and_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (0, 32 * 1024 + 1):
        with pytest.raises(CertificateError, match="carries 1 to"):
            build_certificate(KEY, bytes(size), now=NOW)
    assert len(parse_certificate(build_certificate(KEY, bytes(32 * 1024), now=NOW)).quote or b"") == 32 * 1024
    with monkeypatch.context() as patch:
        patch.setattr(certs, "MAX_QUOTE", 33 * 1024)
        big = build_certificate(KEY, bytes(32 * 1024 + 1), now=NOW)
    with pytest.raises(CertificateError, match="at most 32768"):
        parse_certificate(big)
    with pytest.raises(CertificateError, match="digest"):
        build_certificate(KEY, None, now=NOW, bundle_digest=b"")


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 700), st.integers(1, 255))
def test_no_bytes_break_the_parser(data: bytes, at: int, flip: int) -> None:
    whole = bytearray(build_certificate(KEY, FAKE, now=NOW))
    whole[at % len(whole)] ^= flip
    for der in (data, bytes(whole), bytes(whole[:at])):
        try:
            parse_certificate(der)
        except CertificateError:
            continue


async def test_a_failed_refresh_keeps_the_old_certificate(lab: Lab) -> None:
    identity = await lab.identity()
    before = identity.certificate

    async def fail(_: bytes) -> bytes:
        raise CollectionError("no quote")

    identity._platform.collect = fail  # type: ignore[union-attr,method-assign]  # a platform that stopped working
    with pytest.raises(CollectionError):
        await identity.refresh()
    assert identity.certificate == before


def test_no_session_is_ever_resumed() -> None:
    """A resumed session would skip the certificate: the second handshake is as long as the first."""
    context = tls_context(KEY, build_certificate(KEY, None, now=NOW))

    def handshake(session: Any = None) -> tuple[Any, int]:
        client, server = SSL.Connection(context, None), SSL.Connection(context, None)
        client.set_connect_state()
        server.set_accept_state()
        if session is not None:
            client.set_session(session)
        moved = 0
        for _ in range(6):
            for near, far in ((client, server), (server, client)):
                for step in (near.do_handshake, lambda end=near: end.recv(1)):
                    try:
                        step()
                    except SSL.WantReadError:
                        continue
                try:
                    data = near.bio_read(1 << 16)
                except SSL.WantReadError:
                    continue
                moved += len(data)
                far.bio_write(data)
        return client.get_session(), moved

    session, first = handshake()
    assert handshake(session)[1] == first
