"""What the services really answered, through our clients: to the verdict on a real quote, and for a real H100.

Sources: automata-network/dcap-rs, ``data/`` (collateral of FMSPC 00806F050000, 2025-02, and a quote);
google/go-nvattest-tools, ``testing/testdata`` (an H100's report, its manifests, responses about its certificates).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from collateral_support import Answering, Asked, http, serving
from cryptography.x509 import ocsp

from attestation import dcap
from attestation.collateral import CollateralSettings, PccsCollateral, gather, open_sources
from attestation.collateral.dates import validity
from attestation.collateral.machines import report_collateral
from attestation.collateral.proxy import Proxies
from attestation.collateral.web import WebClient
from attestation.errors import EvidenceError
from attestation.gpu.chain import load_der
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.ocsp import check_response, requests
from attestation.snp import reader as snp_reader
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import parse_report
from attestation.snp.roots import AMD_ROOTS
from attestation.snp.vek import parse_vek

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from pathlib import Path

FMSPC = "00806F050000"
THEN = dt.datetime(2025, 2, 20, tzinfo=dt.UTC).timestamp()
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "samples" / "automata-network__dcap-rs" / "data"


def intel(data: Path) -> Answering:
    """Intel's answers, byte for byte; the chains come in headers, percent-encoded."""
    quote = (data / "quote_tdx_00806f050000.dat").read_bytes()
    pck_chain = b"".join(_PEM.findall(quote)[1:]).decode()
    root = (data / "Intel_SGX_Provisioning_Certification_RootCA.pem").read_text()
    signer = _PEM.findall((data / "tcb_signing_cert.pem").read_bytes())[0].decode() + root

    def chain(name: str, text: str) -> Mapping[str, str]:
        return {name: urllib.parse.quote(text)}

    table = {
        "/sgx/certification/v4/pckcrl": ("pck_platform_crl.der", chain("SGX-PCK-CRL-Issuer-Chain", pck_chain)),
        "/sgx/certification/v4/rootcacrl": ("intel_root_ca_crl.der", {}),
        "/tdx/certification/v4/tcb": ("tcbinfov3_00806f050000.json", chain("TCB-Info-Issuer-Chain", signer)),
        "/tdx/certification/v4/qe/identity": (
            "qeidentityv2_apiv4.json",
            chain("SGX-Enclave-Identity-Issuer-Chain", signer),
        ),
    }

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        name, headers = table[asked.path]
        writer.write(http(200, (data / name).read_bytes(), headers))

    return answering


async def test_intels_own_answers_verify_a_real_quote_at_their_time(data: Path) -> None:
    quote = (data / "quote_tdx_00806f050000.dat").read_bytes()
    async with serving(intel(data)) as service:
        source = PccsCollateral(service.address, client=WebClient(Proxies("off")))
        collateral = await source.get(FMSPC, "platform")
    targets = {asked.path: asked.target for asked in service.asked}
    assert targets["/tdx/certification/v4/tcb"].endswith(f"?fmspc={FMSPC}")
    assert targets["/sgx/certification/v4/pckcrl"].endswith("?ca=platform&encoding=der")
    info = json.loads(json.loads(collateral)["tcb_info"])
    dates = validity("tdx", collateral)
    assert dates.issued <= THEN < dates.expires
    assert dates.expires <= dt.datetime.fromisoformat(info["nextUpdate"]).timestamp()
    found = dcap.verify_quote(_exact(quote), collateral, root_der=None, now=THEN)
    assert found.fmspc.hex().upper() == FMSPC
    assert found.root_key_id == dcap.INTEL_ROOT_KEY_ID
    with pytest.raises(EvidenceError):  # the same answers, when their time is over
        dcap.verify_quote(_exact(quote), collateral, root_der=None, now=dates.expires + 1)


def _exact(quote: bytes) -> bytes:
    """Without the zeros that the sample's machine put behind its quote."""
    return quote[: 636 + int.from_bytes(quote[632:636], "little")]


def nvidia(data: Path) -> Answering:
    """NVIDIA's manifests in the service's JSON, and its responses by the serial number that is asked for."""
    responses = {}
    for path in sorted((data / "ocsp").glob("*.dat")):
        response = base64.b64decode(path.read_bytes())
        responses[ocsp.load_der_ocsp_response(response).serial_number] = response

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "POST":
            serial = ocsp.load_der_ocsp_request(asked.body).serial_number
            writer.write(http(200, responses[serial]) if serial in responses else http(404))
            return
        name = asked.path.rpartition("/")[2]
        document = (data / "rim" / f"{name}.xml").read_bytes()
        answer = {
            "id": name,
            "rim": base64.b64encode(document).decode(),
            "sha256": hashlib.sha256(document).hexdigest(),
            "last_updated": "2025-03-14T15:09:03.011000",
            "rim_format": "TCG",
        }
        writer.write(http(200, json.dumps(answer).encode()))

    return answering


async def test_a_real_h100_finds_its_manifests_and_its_revocation_status(shared: Path) -> None:
    data = shared / "samples" / "google__go-nvattest-tools" / "testing" / "testdata"
    device = DeviceEvidence(
        kind="gpu",
        architecture="hopper",
        report=(data / "test_raw_gpu_attestation_report.dat").read_bytes(),
        chain=(data / "test_gpu_attestation_certificate_chain.dat").read_bytes(),
    )
    async with serving(nvidia(data)) as service:
        address = service.address
        settings = CollateralSettings(tdx=None, kds=None, rim=address, ocsp=address, proxy="off")
        found = await gather(None, [device.encode()], open_sources(settings))
    rims = {"NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001"}
    assert set(found.staple.rims) == rims
    for name, document in found.staple.rims.items():
        assert document == (data / "rim" / f"{name}.xml").read_bytes()
    assert len(found.staple.ocsp) == len(list((data / "ocsp").glob("*.dat")))
    assert found.missing == ()
    for question in requests(device.chain):
        response = found.staple.ocsp[question.fingerprint]
        then = validity("ocsp", response).issued + 60
        answer = check_response(response, load_der(question.certificate), load_der(question.issuer), then)
        assert answer.good


async def test_a_real_milan_gets_its_own_certificate_by_its_own_address(shared: Path) -> None:
    """virtee/sev, tests/certs_data: the address is made of the report alone, and the certificate there signed it."""
    data = shared / "samples" / "virtee__sev" / "tests" / "certs_data"
    report = bytes.fromhex((data / "report_milan.hex").read_text())
    parsed = parse_report(report)
    chip = f"/vcek/v1/Milan/{parsed.chip_id.hex()}"
    table = {chip: "vcek_milan.der", "/vcek/v1/Milan/cert_chain": "cert_chain_milan"}

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = table.get(asked.path)
        writer.write(http(404) if name is None else http(200, (data / name).read_bytes()))

    async with serving(answering) as service:
        settings = CollateralSettings(tdx=None, kds=service.address, rim=None, ocsp=None, proxy="off")
        collateral = await report_collateral(report, open_sources(settings))
    query = urllib.parse.parse_qs(next(asked for asked in service.asked if asked.path == chip).target.partition("?")[2])
    levels = parse_vek((data / "vcek_milan.der").read_bytes()).tcb.levels
    names = {"blSPL": "bootloader", "teeSPL": "tee", "snpSPL": "snp", "ucodeSPL": "microcode"}
    assert {names[name]: int(values[0]) for name, values in query.items()} == levels
    assert SnpCollateral.parse(collateral).crl is None  # the sample has none
    then = validity("snp-vcek", (data / "vcek_milan.der").read_bytes()).issued + 60
    claims, checks = snp_reader.read(SnpEvidence(report).encode(), collateral, AMD_ROOTS, then)
    assert claims is not None, [check for check in checks if not check.passed]
    assert claims.report.chip_id == parsed.chip_id
