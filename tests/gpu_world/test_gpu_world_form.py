"""The synthetic GPU world by other means than our verifier: cryptography, lxml and the prototype recipes alone."""

from __future__ import annotations

import base64
import datetime as dt
import importlib
import itertools
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from lxml import etree

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_pki import COMPOSITE_ID
from attestation.gpu.evidence import DeviceEvidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

NONCES = [bytes([index + 1]) * 32 for index in range(16)]
SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
SHA384 = "{http://www.w3.org/2001/04/xmlenc#sha384}"
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
SAMPLES = "samples/google__go-nvattest-tools/testing/testdata"


@pytest.fixture(scope="module")
def world() -> SyntheticGpus:
    return SyntheticGpus(2, switches=2)


@pytest.fixture(scope="module")
def recipes(shared: Path) -> Iterator[ModuleType]:
    """The prototype's parser of reports, as it stands: an oracle that shares no line with us."""
    folder = str(shared / "prototypes" / "attestation")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("gpuspdm")
    finally:
        sys.path.remove(folder)


async def gathered(world: SyntheticGpus) -> list[DeviceEvidence]:
    return [DeviceEvidence.parse(item) for item in await world.collect(NONCES.__getitem__)]


def opaque_fields(report: bytes) -> list[tuple[int, bytes]]:
    at = 37 + 8 + int.from_bytes(report[42:45], "little") + 32
    (length,) = struct.unpack_from("<H", report, at)
    found, at, end = [], at + 2, at + 2 + length
    while at < end:
        kind, size = struct.unpack_from("<HH", report, at)
        found.append((kind, report[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


async def test_every_signature_holds_under_the_worlds_root(world: SyntheticGpus) -> None:
    root = x509.load_der_x509_certificate(world.roots().device[0])
    for evidence, nonce in zip(await gathered(world), NONCES, strict=False):
        chain = x509.load_pem_x509_certificates(evidence.chain)
        assert chain[-1] == root
        for below, above in itertools.pairwise(chain):
            below.verify_directly_issued_by(above)
        signed, signature = evidence.report[:-96], evidence.report[-96:]
        r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
        key = chain[0].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
        assert signed[4:36] == nonce


async def test_a_certificate_names_the_reports_firmware(world: SyntheticGpus) -> None:
    evidence = (await gathered(world))[0]
    leaf = x509.load_pem_x509_certificates(evidence.chain)[0]
    extension = leaf.extensions.get_extension_for_oid(COMPOSITE_ID).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    assert extension.value[-48:] == dict(opaque_fields(evidence.report))[20]


def test_manifests_are_signed_by_the_chain_they_carry(world: SyntheticGpus) -> None:
    """Digest and signature by hand, as canonical XML and ECDSA: without the library that made them."""
    for text in world.rims().values():
        document = etree.fromstring(text)
        signature = document.find(f"{DSIG}Signature")
        assert signature is not None
        info, value = signature.find(f"{DSIG}SignedInfo"), signature.findtext(f"{DSIG}SignatureValue")
        assert info is not None
        certificates = [
            x509.load_der_x509_certificate(base64.b64decode(item.text or ""))
            for item in signature.iter(f"{DSIG}X509Certificate")
        ]
        assert certificates[-1].public_bytes(Encoding.DER) == world.roots().rim[0]
        for below, above in itertools.pairwise(certificates):
            below.verify_directly_issued_by(above)
        raw = base64.b64decode(value or "")
        r, s = int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big")
        key = certificates[0].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(encode_dss_signature(r, s), etree.tostring(info, method="c14n"), ec.ECDSA(hashes.SHA384()))
        document.remove(signature)
        digest = hashes.Hash(hashes.SHA384())
        digest.update(etree.tostring(document, method="c14n"))
        claimed = info.findtext(f".//{DSIG}DigestValue")
        assert base64.b64encode(digest.finalize()).decode() == claimed


async def test_golden_values_are_what_devices_measure(world: SyntheticGpus) -> None:
    evidence = (await gathered(world))[0]
    measured = {
        index: evidence.report[start + 7 : start + 55] for index, start in enumerate(range(45, 45 + 64 * 55, 55))
    }
    compared = 0
    for name, text in world.rims().items():
        if "SWITCH" in name:
            continue
        for entry in etree.fromstring(text).iter(f"{SWID}Resource"):
            if entry.get("active") != "True":
                continue
            values = [entry.get(f"{SHA384}Hash{number}") for number in range(int(entry.get("alternatives") or 0))]
            assert measured[int(entry.get("index") or -1)].hex() in values
            compared += 1
    assert compared == 33, "31 of 64 indices are in no manifest"


async def test_every_certificate_that_is_not_a_root_or_leaf_has_an_answer(world: SyntheticGpus) -> None:
    now = dt.datetime.fromtimestamp(time.time(), dt.UTC)
    answers = world.ocsp()
    for evidence in await gathered(world):
        chain = x509.load_pem_x509_certificates(evidence.chain)
        for certificate, issuer in itertools.pairwise(chain[1:]):
            response = ocsp.load_der_ocsp_response(answers[certificate.fingerprint(hashes.SHA256())])
            assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
            assert response.serial_number == certificate.serial_number
            assert response.this_update_utc <= now
            assert response.next_update_utc is not None
            assert response.next_update_utc - response.this_update_utc == dt.timedelta(hours=24)
            assert response.next_update_utc >= now
            delegate = response.certificates[0]
            delegate.verify_directly_issued_by(issuer)
            key = delegate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA384()))


async def test_a_request_is_answered_as_by_the_service(world: SyntheticGpus) -> None:
    chain = x509.load_pem_x509_certificates((await gathered(world))[0].chain)
    builder = ocsp.OCSPRequestBuilder().add_certificate(chain[2], chain[3], hashes.SHA384())
    request = builder.add_extension(x509.OCSPNonce(b"n" * 16), critical=False).build()
    answer = world.answer_ocsp(request.public_bytes(Encoding.DER))
    assert answer is not None
    response = ocsp.load_der_ocsp_response(answer)
    assert response.serial_number == chain[2].serial_number
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 16
    elsewhere = ocsp.OCSPRequestBuilder().add_certificate(chain[0], chain[1], hashes.SHA384()).build()
    assert world.answer_ocsp(elsewhere.public_bytes(Encoding.DER)) is None
    with pytest.raises(ValueError, match="parsing"):
        world.answer_ocsp(b"not DER")


def test_two_worlds_share_no_root() -> None:
    assert SyntheticGpus().roots() != SyntheticGpus().roots()


async def test_the_prototype_recipes_accept_the_evidence(recipes: Any, world: SyntheticGpus) -> None:
    """Source: prototypes/attestation/gpuspdm.py, run as it is."""
    root = x509.load_der_x509_certificate(world.roots().device[0]).public_bytes(Encoding.PEM)
    for evidence, nonce in zip(await gathered(world), NONCES, strict=False):
        seen, _ = recipes.verify(evidence.report, evidence.chain, root, nonce)
        assert (seen["chain_to_pinned_root"], seen["sig"], seen["nonce_ok"], seen["trailing"]) == (True, True, True, 0)
        if evidence.kind == "gpu":
            assert (seen["fwid_match"], seen["driver"], seen["vbios"]) == (True, "550.90.07", "96.00.9F.00.01")
            assert (seen["project"], seen["project_sku"], seen["chip_sku"]) == ("1010", "0200", "882")


async def test_reports_have_the_shape_of_real_ones(shared: Path) -> None:
    """Sources: google/go-nvattest-tools, test_raw_gpu_… and test_raw_switch_attestation_report.dat."""
    gpu = (shared / SAMPLES / "test_raw_gpu_attestation_report.dat").read_bytes()
    switch = (shared / SAMPLES / "test_raw_switch_attestation_report.dat").read_bytes()
    alone, linked = await gathered(SyntheticGpus()), await gathered(SyntheticGpus(switches=1))
    for made, real in ((alone[0], gpu), (linked[1], switch)):
        assert len(made.report) == len(real)
        assert made.report[:4] == real[:4]
        assert made.report[36:45] == real[36:45]
        shape = [(kind, len(value)) for kind, value in opaque_fields(made.report)]
        assert shape == [(kind, len(value)) for kind, value in opaque_fields(real)]


def test_manifests_have_the_shape_of_real_ones(shared: Path) -> None:
    """Source: google/go-nvattest-tools, both manifests: the same names, entries and alternatives."""
    for name, text in SyntheticGpus().rims().items():
        real = etree.parse(shared / SAMPLES / "rim" / f"{name}.xml").getroot()
        assert outline(etree.fromstring(text)) == outline(real)


def outline(document: etree._Element) -> list[object]:
    """Elements, which entries are active and how many alternatives they have."""
    found: list[object] = [
        (item.tag, sorted(item.attrib))
        for item in document.iter()
        if isinstance(item.tag, str) and item.tag != f"{SWID}Resource"
    ]
    keys = ("type", "index", "active", "alternatives", "size")
    found += [tuple(entry.get(key) for key in keys) for entry in document.iter(f"{SWID}Resource")]
    found += [item.get("Algorithm") for item in document.iter() if item.get("Algorithm")]
    return found
