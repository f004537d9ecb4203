"""Certificate chains, firmware identifiers and revocation: genuine ones, and one thing wrong at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from gpu_evidence_support import DEVICE_DAY, RIM_DAY, TOOLS_PROJECT
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu.chain import device_identity, fingerprint, load_der, load_pem, spki, verify_path
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.fwid import COMPOSITE_DEVICE_ID, TCB_INFO, certified_fwid
from attestation.gpu.ocsp import asked, check_response, requests
from attestation.gpu.rim_xml import certificates_of, parse_tag
from attestation.gpu.roots import NVIDIA_ROOTS

if TYPE_CHECKING:
    from conftest import SampleTable
    from gpu_evidence_support import Samples

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEYS = {
    name: ec.generate_private_key(ec.SECP384R1()) for name in ("root", "middle", "device", "leaf", "other", "responder")
}
SHA384_OID = bytes.fromhex("0609608648016503040202")
FWID = bytes(range(48))


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = (
        bytes([size]) if size < 0x80 else b"\x81" + bytes([size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + content


def fwid_item(value: bytes = FWID) -> bytes:
    return der(0x30, SHA384_OID + der(0x04, value))


def composite(device: bytes, *, fwid: bytes | None = None) -> bytes:
    return der(0x30, der(0x02, b"\x01") + device + (fwid_item() if fwid is None else fwid))


def certificate(name: str, issuer: str, **changed: Any) -> x509.Certificate:
    """A certificate of this file's chain; ``changed`` says what is wrong with it."""
    leaf = name == "leaf"
    start, end = changed.get("dates", (NOW - timedelta(days=1), NOW + timedelta(days=1)))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, changed.get("called", f"GH100 {name}"))]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"GH100 {issuer}")]))
        .public_key(changed.get("key", KEYS[name]).public_key())
        .serial_number(changed.get("serial", 0x41_0102030405060708 if name == "device" else 7))
        .not_valid_before(start)
        .not_valid_after(end)
    )
    authority = changed.get("ca", not leaf)
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, changed.get("length")), critical=True)
    usage = changed.get("usage", "sign" if leaf else "certify")
    if usage:
        builder = builder.add_extension(key_usage(usage), critical=True)
    for extension, critical in changed.get("more", ()):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(changed.get("signer", KEYS[issuer]), hashes.SHA384())


def key_usage(what: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=what == "sign",
        key_cert_sign=what == "certify",
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


ROOT = certificate("root", "root")
ROOT_DER = ROOT.public_bytes(Encoding.DER)
PARENTS = {"leaf": "device", "device": "middle", "middle": "root"}


def chain(**changed: dict[str, Any]) -> list[x509.Certificate]:
    """Leaf, device, middle and root, each with what is changed of it."""
    return [*(certificate(name, issuer, **changed.get(name, {})) for name, issuer in PARENTS.items()), ROOT]


def pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def test_the_chain_of_a_genuine_gpu(samples: Samples) -> None:
    """test_gpu_attestation_certificate_chain.dat (google/go-nvattest-tools), valid until the year 9999."""
    certificates = load_pem(samples.read("test_gpu_attestation_certificate_chain.dat"))
    path = verify_path(certificates, NVIDIA_ROOTS.device, DEVICE_DAY)
    assert len(path.certificates) == 5
    assert path.expires_at == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    identity = device_identity(path)
    assert (identity.chip, identity.model, identity.pdi.hex()) == ("GH100", "GH100 A01 GSP BROM", "431d480fe5e87274")
    assert certified_fwid(path.leaf, path.certificates[1]).hex().startswith("f5c384aebb579217")
    without_root = verify_path(certificates[:4], NVIDIA_ROOTS.device, DEVICE_DAY)
    assert without_root == path


def test_both_layouts_of_firmware_identifiers_are_met_in_the_field(samples: Samples) -> None:
    """Hopper and LS10 carry TCG's older extension, Blackwell the newer."""
    for evidence, layout in (
        (samples.h100(), COMPOSITE_DEVICE_ID),
        (samples.hgx_switches()[0], COMPOSITE_DEVICE_ID),
        (samples.blackwells()[0], TCB_INFO),
    ):
        leaf, device, *_ = load_pem(DeviceEvidence.parse(evidence).chain)
        assert layout in {item.oid for item in leaf.extensions}
        assert len(certified_fwid(leaf, device)) == 48


def test_an_honest_chain_holds() -> None:
    path = verify_path(load_pem(pem(chain())), (ROOT_DER,), NOW.timestamp())
    assert path.leaf == path.certificates[0]
    assert device_identity(path).pdi == bytes(range(1, 9))


DAY = timedelta(days=1)
CRITICAL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
RESPONDER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"leaf": {"signer": KEYS["other"]}}, "was not issued by"),
        ({"device": {"signer": KEYS["other"]}}, "was not issued by"),
        ({"middle": {"signer": KEYS["other"]}}, "was not issued by"),
        ({"leaf": {"dates": (NOW - 2 * DAY, NOW - DAY)}}, "is valid from"),
        ({"middle": {"dates": (NOW + DAY, NOW + 2 * DAY)}}, "is valid from"),
        ({"device": {"ca": False}}, "is not an authority's"),
        ({"device": {"ca": None}}, "is not an authority's"),
        ({"device": {"usage": "sign"}}, "is not an authority's"),
        ({"device": {"usage": None}}, "is not an authority's"),
        ({"middle": {"length": 0}}, "allows no chain of this length"),
        ({"leaf": {"ca": True}}, "is not for signing"),
        ({"leaf": {"usage": "certify"}}, "is not for signing"),
        ({"leaf": {"usage": None}}, "is not for signing"),
        ({"leaf": {"more": [(RESPONDER, False)]}}, "has an extended key usage"),
        ({"leaf": {"more": [(CRITICAL, True)]}}, "unknown critical extensions 1.2.3.4"),
    ],
)
def test_a_chain_with_one_thing_wrong_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        verify_path(chain(**changed), (ROOT_DER,), NOW.timestamp())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "without certificates"),
        (b"text", "something else than 1 to 8"),
        (pem([ROOT]) + b"text", "something else than 1 to 8"),
        (b"text\n" + pem([ROOT]), "something else than 1 to 8"),
        (pem([ROOT]) * 9, "something else than 1 to 8"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\n" * 3, "something else than 1 to 8"),
    ],
)
def test_text_that_is_no_chain_is_refused(data: bytes, said: str) -> None:
    assert len(load_pem(pem(chain()) + b"\0\0\n")) == 4
    with pytest.raises(EvidenceError, match=said):
        load_pem(data)


@given(st.binary(max_size=300), st.integers(0, 3000), st.integers(0, 255))
def test_any_bytes_are_a_chain_or_refused(data: bytes, place: int, value: int) -> None:
    whole = bytearray(pem(CHAIN))
    whole[place % len(whole)] = value
    for text in (data, bytes(whole), b"-----BEGIN CERTIFICATE-----\n" + data):
        try:
            verify_path(load_pem(text), (ROOT_DER,), NOW.timestamp())
        except EvidenceError:
            continue
        assert text != data


CHAIN = chain()


@pytest.mark.parametrize("moment", [float("nan"), float("inf"), -1e30, 1e30])
def test_a_clock_that_is_none_is_refused(moment: float) -> None:
    with pytest.raises(EvidenceError, match="no time of day"):
        verify_path(CHAIN, (ROOT_DER,), moment)


def test_a_root_alone_an_empty_chain_and_bytes_that_are_none_are_refused() -> None:
    for certificates, said in (([ROOT], "a root alone"), ([], "chain of 0"), (CHAIN * 3, "chain of 12")):
        with pytest.raises(EvidenceError, match=said):
            verify_path(certificates, (ROOT_DER,), NOW.timestamp())
    with pytest.raises(EvidenceError, match="cannot be read"):
        load_der(b"\x30\x00")


def with_fwid(layout: x509.ObjectIdentifier, *values: bytes) -> x509.Certificate:
    return certificate("leaf", "device", more=[(x509.UnrecognizedExtension(layout, value), False) for value in values])


def test_a_firmware_identifier_is_read_in_both_layouts() -> None:
    device = CHAIN[1]
    assert certified_fwid(with_fwid(COMPOSITE_DEVICE_ID, composite(spki(device))), device) == FWID
    info = der(0x30, der(0x80, b"NVIDIA") + der(0xA6, fwid_item() + fwid_item(bytes(48))) + der(0x87, b"\x00"))
    assert certified_fwid(with_fwid(TCB_INFO, info), device) == FWID


@pytest.mark.parametrize(
    ("layout", "value", "said"),
    [
        (COMPOSITE_DEVICE_ID, b"", "not one DER item"),
        (COMPOSITE_DEVICE_ID, b"\x30", "cut off"),
        (COMPOSITE_DEVICE_ID, b"\x30\x05\x02", "announces 5 bytes where 1 are left"),
        (COMPOSITE_DEVICE_ID, b"\x30\x81\x01\x05", "not the shortest"),
        (COMPOSITE_DEVICE_ID, b"\x30\x83\x00\x00\x01\x05", "not the shortest"),
        (COMPOSITE_DEVICE_ID, b"\x30\x80", "not the shortest"),
        (COMPOSITE_DEVICE_ID, b"\x3f\x81\x00", "DER tag"),
        (COMPOSITE_DEVICE_ID, der(0x30, b"") + b"\x05\x00", "not one DER item"),
        (COMPOSITE_DEVICE_ID, der(0x30, der(0x02, b"\x01")), "not a version, a key and a digest"),
        (COMPOSITE_DEVICE_ID, composite(spki(ROOT)), "names another device key"),
        (COMPOSITE_DEVICE_ID, composite(spki(CHAIN[1]), fwid=fwid_item(bytes(47))), "not one SHA-384 digest"),
        (COMPOSITE_DEVICE_ID, composite(spki(CHAIN[1]), fwid=fwid_item() + fwid_item()), "not a version, a key"),
        (TCB_INFO, der(0x30, b""), "0 lists"),
        (TCB_INFO, der(0x30, der(0xA6, fwid_item()) * 2), "2 lists"),
        (TCB_INFO, der(0x30, der(0xA6, b"")), "without a firmware identifier"),
        (TCB_INFO, bytes(3000), "at most 2048 are read"),
    ],
)
def test_a_firmware_identifier_of_another_form_is_refused(
    layout: x509.ObjectIdentifier, value: bytes, said: str
) -> None:
    with pytest.raises(EvidenceError, match=said):
        certified_fwid(with_fwid(layout, value), CHAIN[1])


def test_two_or_no_firmware_identifiers_are_refused() -> None:
    value = x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, composite(spki(CHAIN[1])))
    other = x509.UnrecognizedExtension(TCB_INFO, der(0x30, der(0xA6, fwid_item())))
    for more in ((), ((value, False), (other, False))):
        with pytest.raises(EvidenceError, match=f"{len(more)} firmware identifiers"):
            certified_fwid(certificate("leaf", "device", more=more), CHAIN[1])


@given(st.binary(max_size=300))
def test_any_extension_is_read_or_refused(value: bytes) -> None:
    for layout in (COMPOSITE_DEVICE_ID, TCB_INFO):
        try:
            certified_fwid(with_fwid(layout, value), CHAIN[1])
        except EvidenceError:
            continue


def test_the_genuine_responses_hold_on_their_day(samples: Samples, sample_table: SampleTable) -> None:
    """The seven ocsp/*.dat (google/go-nvattest-tools)."""
    responses = samples.ocsp()
    pairs = list(asked(load_pem(samples.read("test_gpu_attestation_certificate_chain.dat")), device=True))
    good = sum(check_response(responses[fingerprint(item)], item, issuer, DEVICE_DAY).good for item, issuer in pairs)
    sample_table("OCSP responses about an H100's chain", TOOLS_PROJECT, "3 of 3 good", f"{good} of {len(pairs)} good")
    assert (good, len(pairs)) == (3, 3)
    names = {}
    for document in samples.rims().values():
        for item, issuer in asked(certificates_of(parse_tag(document)), device=False):
            names[fingerprint(item)] = check_response(responses[fingerprint(item)], item, issuer, RIM_DAY).status
    statuses = sorted(names.values())
    sample_table(
        "OCSP responses about the manifests' signers",
        TOOLS_PROJECT,
        "4 of 4 good",
        f"{statuses.count('good')} of {len(statuses)} good",
    )
    assert statuses == ["good"] * 4
    assert len(samples.ocsp_files()) == 7
    first, issuer = pairs[0]
    for day in (DEVICE_DAY - 86400, DEVICE_DAY + 86400):
        with pytest.raises(EvidenceError, match="OCSP response holds from"):
            check_response(responses[fingerprint(first)], first, issuer, day)


def test_questions_name_every_certificate_but_leaf_and_root() -> None:
    found = requests(pem(CHAIN), nonce=b"n" * 32)
    assert [load_der(item.certificate).subject for item in found] == [item.subject for item in CHAIN[1:3]]
    assert [load_der(item.issuer).subject for item in found] == [item.subject for item in CHAIN[2:]]
    request = ocsp.load_der_ocsp_request(found[0].der)
    assert request.serial_number == CHAIN[1].serial_number
    assert request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert found[0].fingerprint == fingerprint(CHAIN[1])
    assert found[0].url == ""
    assert len(requests(pem(CHAIN), device=False)) == 3


def response(**changed: Any) -> bytes:
    """A response about the device certificate; ``changed`` says what is wrong with it."""
    start, end = changed.get("dates", (NOW - timedelta(hours=1), NOW + timedelta(hours=23)))
    revoked = changed.get("revoked")
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=changed.get("about", CHAIN[1]),
        issuer=changed.get("issuer", CHAIN[2]),
        algorithm=changed.get("algorithm", hashes.SHA384()),
        cert_status=changed.get("status", ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD),
        this_update=start,
        next_update=end,
        revocation_time=NOW - DAY if revoked else None,
        revocation_reason=revoked,
    )
    responder = changed.get(
        "responder", certificate("responder", "middle", usage="sign", ca=False, more=[(RESPONDER, True)])
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder).certificates([responder])
    if "nonce" in changed:
        builder = builder.add_extension(x509.OCSPNonce(changed["nonce"]), critical=False)
    made = builder.sign(changed.get("signer", KEYS["responder"]), hashes.SHA384())
    data, signature = made.public_bytes(Encoding.DER), made.signature
    return data.replace(signature, signature[:-1] + bytes([signature[-1] ^ 1])) if changed.get("flipped") else data


def check(data: bytes, nonce: bytes | None = None) -> Any:
    return check_response(data, CHAIN[1], CHAIN[2], NOW.timestamp(), nonce=nonce)


@pytest.mark.parametrize(
    "algorithm",
    [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()],  # noqa: S303 - RFC 6960 lets responders name certificates by it
    ids=lambda item: item.name,
)
def test_an_honest_response_is_believed(algorithm: hashes.HashAlgorithm) -> None:
    answer = check(response(algorithm=algorithm))
    assert answer.good
    assert answer.expires_at == (NOW + timedelta(hours=23)).timestamp()
    by_issuer = response(responder=CHAIN[2], signer=KEYS["middle"])
    assert check(by_issuer).good
    assert check(response(nonce=b"n" * 16), b"n" * 16).good


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dates": (NOW - 3 * DAY, NOW - 2 * DAY)}, "OCSP response holds from"),
        ({"dates": (NOW + timedelta(minutes=6), NOW + DAY)}, "OCSP response holds from"),
        ({"dates": (NOW - DAY, None)}, "without an end"),
        ({"about": CHAIN[0], "issuer": CHAIN[1]}, "speaks of serial number"),
        ({"issuer": ROOT}, "speaks of serial number"),
        ({"flipped": True}, "did not make"),
        ({"responder": certificate("responder", "middle", usage="sign", ca=False)}, "no authority allowed"),
        (
            {"responder": certificate("responder", "middle", ca=False, signer=KEYS["other"], more=[(RESPONDER, True)])},
            "was not issued by",
        ),
        (
            {"responder": certificate("responder", "root", ca=False, more=[(RESPONDER, True)])},
            "was not issued by",
        ),
        (
            {
                "responder": certificate(
                    "responder", "middle", ca=False, more=[(RESPONDER, True)], dates=(NOW - 2 * DAY, NOW - DAY)
                )
            },
            "is valid from",
        ),
    ],
)
def test_a_response_with_one_thing_wrong_is_not_believed(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        check(response(**changed))


def test_an_odd_name_of_a_responder_is_no_fault_of_the_verifier() -> None:
    """The library warns of a country of three letters; bytes from outside must not become noise or a fault."""
    good = response()
    oid = bytes.fromhex("0603550403")  # common name
    assert oid in good
    odd = good.replace(oid, bytes.fromhex("0603550406"))
    with pytest.raises(EvidenceError):
        check(odd)


def test_a_responders_clock_may_be_minutes_ahead() -> None:
    assert check(response(dates=(NOW + timedelta(minutes=4), NOW + DAY))).good


def test_suspension_and_revocation_are_told_apart() -> None:
    held, leaked = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.key_compromise
    hold, revoked = check(response(revoked=held)), check(response(revoked=leaked))
    assert (hold.status, hold.reason, hold.good) == ("revoked", "certificateHold", False)
    assert "on hold" in hold.hint
    assert (revoked.status, revoked.reason) == ("revoked", "keyCompromise")
    assert "whoever holds it" in revoked.hint
    unknown = check(response(status=ocsp.OCSPCertStatus.UNKNOWN))
    assert (unknown.status, unknown.good) == ("unknown", False)


def test_a_nonce_that_was_asked_for_has_to_come_back() -> None:
    for data, said in ((response(), "without the nonce"), (response(nonce=b"m" * 16), "nonce is another")):
        with pytest.raises(EvidenceError, match=said):
            check(data, b"n" * 16)


def test_a_refusal_of_the_responder_is_no_answer() -> None:
    busy = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)
    for data, said in ((busy, "answered try_later"), (b"", "of 0 bytes"), (bytes(20000), "expected 1 to 16384")):
        with pytest.raises(EvidenceError, match=said):
            check(data)


def test_a_key_of_another_curve_signs_no_reports() -> None:
    other = certificate("leaf", "device", key=ec.generate_private_key(ec.SECP256R1()))
    path = verify_path([other, *CHAIN[1:]], (ROOT_DER,), NOW.timestamp())
    with pytest.raises(EvidenceError, match="not of curve P-384"):
        _ = path.key


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255))
def test_any_bytes_are_an_answer_or_refused(data: bytes, place: int, value: int) -> None:
    whole = bytearray(RESPONSE)
    whole[place % len(whole)] = value
    for text in (data, bytes(whole)):
        try:
            check(text)
        except EvidenceError:
            continue


RESPONSE = response()
