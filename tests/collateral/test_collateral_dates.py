"""The dates that a cache goes by, of what was made here and of what real machines showed."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import TYPE_CHECKING

import pytest
from collateral_support import DAY, HOUR, NOW, certificate, pem, revocation_list
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation.collateral.dates import KINDS, Validity, validity
from attestation.collateral.errors import MalformedAnswerError
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.ocsp import requests
from attestation.gpu.rim_xml import certificates_of, parse_tag

if TYPE_CHECKING:
    from pathlib import Path


def unix(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def test_certificates_chains_and_revocation_lists() -> None:
    young, old = certificate(begins=NOW - HOUR, ends=NOW + 9 * DAY), certificate(begins=NOW - DAY, ends=NOW + DAY)
    assert validity("snp-vcek", young) == Validity(NOW - HOUR, NOW + 9 * DAY)
    assert validity("snp-chain", pem(young, old)) == Validity(NOW - HOUR, NOW + DAY)
    assert validity("snp-crl", revocation_list()) == Validity(NOW - HOUR, NOW + DAY)


@pytest.mark.parametrize(
    "begins", [unix("1970-01-02T00:00:00"), unix("2049-12-31T23:59:59"), unix("2050-01-01T00:00:00")]
)
def test_both_forms_of_time_are_read(begins: float) -> None:
    """UTCTime until 2049, GeneralizedTime from 2050 on."""
    assert validity("snp-vcek", certificate(begins=begins, ends=begins + DAY)) == Validity(begins, begins + DAY)


def test_collateral_of_a_tdx_world_ends_with_its_first_part() -> None:
    collateral = json.loads(SyntheticTdx(clock=lambda: NOW).collateral_json())
    found = validity("tdx", json.dumps(collateral).encode())
    info = json.loads(collateral["tcb_info"])
    assert found.issued == dt.datetime.fromisoformat(info["issueDate"]).timestamp()
    assert NOW < found.expires <= dt.datetime.fromisoformat(info["nextUpdate"]).timestamp()
    collateral["pck_crl"] = revocation_list(following=NOW + 60).hex()
    assert validity("tdx", json.dumps(collateral).encode()).expires == NOW + 60
    collateral["tcb_info_issuer_chain"] = pem(certificate(ends=NOW + 30)).decode()
    assert validity("tdx", json.dumps(collateral).encode()).expires == NOW + 30


async def test_a_worlds_manifests_and_responses() -> None:
    world = SyntheticGpus()
    for document in world.rims().values():
        signers = certificates_of(parse_tag(document))
        assert validity("rim", document).expires == min(item.not_valid_after_utc.timestamp() for item in signers)
    question = requests(DeviceEvidence.parse((await world.collect(lambda _: bytes(32)))[0]).chain)[0]
    found = validity("ocsp", world.ocsp()[question.fingerprint])
    assert 0 < found.expires - found.issued <= DAY


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(st.binary(max_size=200))
def test_any_bytes_have_dates_or_are_refused(kind: str, data: bytes) -> None:
    try:
        found = validity(kind, data)
    except MalformedAnswerError:
        return
    assert found.issued <= found.expires


@given(st.data())
def test_a_cut_or_altered_certificate_has_dates_or_is_refused(data: st.DataObject) -> None:
    der = bytearray(CERTIFICATE)
    at = data.draw(st.integers(0, len(der) - 1))
    der[at] = data.draw(st.integers(0, 255))
    for content in (bytes(der), bytes(CERTIFICATE[:at])):
        try:
            validity("snp-vcek", content)
        except MalformedAnswerError:
            continue


CERTIFICATE = certificate()


def test_what_has_no_end_is_refused() -> None:
    for kind, content in (("snp-chain", b""), ("rim", b"<x/>"), ("tdx", b"{}"), ("tdx", b"[" * 100_000)):
        with pytest.raises(MalformedAnswerError, match="without dates"):
            validity(kind, content)


GPU = "google__go-nvattest-tools/testing/testdata"


@pytest.mark.parametrize(
    ("kind", "path", "issued", "expires"),
    [
        # Phala-Network/dcap-qvl, sample/tdx_quote_collateral.json
        ("tdx", "Phala-Network__dcap-qvl/sample/tdx_quote_collateral.json", None, None),
        # virtee/sev, tests/certs_data: certificates with serial number 0
        ("snp-vcek", "virtee__sev/tests/certs_data/vcek_milan.der", None, None),
        ("snp-vcek", "virtee__sev/tests/certs_data/vcek_turin.der", None, None),
        ("snp-chain", "virtee__sev/tests/certs_data/cert_chain_milan", "2020-10-22T18:24:20", "2045-10-22T17:23:05"),
        ("snp-chain", "virtee__sev/tests/certs_data/cert_chain_turin", None, None),
        # google/go-nvattest-tools, testing/testdata: manifests and responses of a real H100
        ("rim", f"{GPU}/rim/NV_GPU_DRIVER_GH100_550.90.07.xml", None, None),
        ("rim", f"{GPU}/rim/NV_GPU_VBIOS_1010_0200_882_96009F0001.xml", None, None),
        ("ocsp", f"{GPU}/ocsp/test_gpu_certificate_l2_base64encoded_ocsp_response.dat", None, None),
        ("ocsp", f"{GPU}/ocsp/test_gpu_driver_rim_l4_base64encoded_ocsp_response.dat", None, None),
    ],
)
def test_samples_of_real_machines(shared: Path, kind: str, path: str, issued: str | None, expires: str | None) -> None:
    content = (shared / "samples" / path).read_bytes()
    if path.endswith("response.dat"):
        content = base64.b64decode(content)
    found = validity(kind, content)
    assert found.issued < found.expires
    if kind == "ocsp":
        assert found.expires - found.issued == DAY
    if issued and expires:
        assert found == Validity(unix(issued), unix(expires))
    if kind == "snp-vcek":
        assert found.expires - found.issued > 6 * 365 * DAY
    if kind == "rim":
        signers = certificates_of(parse_tag(content))
        assert found.expires == min(item.not_valid_after_utc.timestamp() for item in signers)
