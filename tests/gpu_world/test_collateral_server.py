"""The vendors' services of synthetic worlds over real HTTP, asked by a client of another library than our fetchers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import urllib.parse
from typing import TYPE_CHECKING

import aiohttp
import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import OVERSIZED_BYTES, CollateralServer
from appliance.lab.errors import LabError
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import OcspFault
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation.gpu.evidence import DeviceEvidence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = float(int(time.time()))
NONCE = b"n" * 32
RIM = "NV_GPU_DRIVER_GH100_550.90.07"
WORLD = SyntheticGpus()
PCK_CRL = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"


@pytest.fixture(scope="module")
def tdx() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


@pytest.fixture(scope="module")
def gpus() -> SyntheticGpus:
    return WORLD


@pytest.fixture
async def server(tdx: SyntheticTdx, gpus: SyntheticGpus) -> AsyncIterator[CollateralServer]:
    async with CollateralServer(tdx=tdx, gpus=gpus) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def tcb_path(world: SyntheticTdx) -> str:
    return f"/tdx/certification/v4/tcb?fmspc={world.fmspc.hex().upper()}"


def rom_and_issuer(world: SyntheticGpus) -> tuple[x509.Certificate, x509.Certificate]:
    chain = x509.load_pem_x509_certificates(DeviceEvidence.parse(world.gpu_evidence(0, NONCE)).chain)
    return chain[1], chain[2]


def ocsp_request(world: SyntheticGpus) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(*rom_and_issuer(world), hashes.SHA384())
    return builder.build().public_bytes(Encoding.DER)


async def test_intels_answers_make_collateral(
    server: CollateralServer, http: aiohttp.ClientSession, tdx: SyntheticTdx
) -> None:
    """Put together by hand from the four answers, the collateral verifies a quote with the bare library."""
    async with http.get(server.url + PCK_CRL) as answer:
        crl, crl_chain = await answer.read(), urllib.parse.unquote(answer.headers["SGX-PCK-CRL-Issuer-Chain"])
    async with http.get(f"{server.url}/sgx/certification/v4/rootcacrl") as answer:
        root_crl = await answer.text()
    async with http.get(server.url + tcb_path(tdx)) as answer:
        tcb, tcb_chain = await answer.text(), urllib.parse.unquote(answer.headers["TCB-Info-Issuer-Chain"])
    async with http.get(f"{server.url}/tdx/certification/v4/qe/identity") as answer:
        identity, chain = await answer.text(), urllib.parse.unquote(answer.headers["SGX-Enclave-Identity-Issuer-Chain"])
    collateral = {
        "pck_crl_issuer_chain": crl_chain,
        "root_ca_crl": root_crl,
        "pck_crl": crl.hex(),
        "tcb_info_issuer_chain": tcb_chain,
        "tcb_info": tcb.removeprefix('{"tcbInfo":').rpartition(',"signature"')[0],
        "tcb_info_signature": json.loads(tcb)["signature"],
        "qe_identity_issuer_chain": chain,
        "qe_identity": identity.removeprefix('{"enclaveIdentity":').rpartition(',"signature"')[0],
        "qe_identity_signature": json.loads(identity)["signature"],
    }
    issued = json.loads(collateral["tcb_info"])["issueDate"]
    assert issued.endswith("Z")
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral))
    assert parsed.tcb_info == collateral["tcb_info"]
    assert json.loads(tdx.collateral_json()).keys() == collateral.keys()


def levels(world: SyntheticSnp) -> str:
    names = {"bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
    return "&".join(f"{names[level]}={value:02}" for level, value in world.tcb.levels.items())


@pytest.fixture(scope="module")
def snp() -> SyntheticSnp:
    return SyntheticSnp()


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # AMD's certificates have number 0
async def test_amds_answers_make_collateral(snp: SyntheticSnp, http: aiohttp.ClientSession) -> None:
    """Chain, revocation list and the chip's certificate, each under the one above it; and each with its faults."""
    async with CollateralServer(snp=snp) as server:
        base, chip = f"{server.url}/vcek/v1/Genoa", snp.chip_id.hex()

        async def get(path: str, status: int = 200) -> bytes:
            async with http.get(f"{base}/{path}") as answer:
                assert answer.status == status
                return await answer.read()

        vek = x509.load_der_x509_certificate(await get(f"{chip}?{levels(snp)}"))
        ask, ark = x509.load_pem_x509_certificates(await get("cert_chain"))
        crl = x509.load_der_x509_crl(await get("crl"))
        vek.verify_directly_issued_by(ask)
        ask.verify_directly_issued_by(ark)
        assert ark.public_bytes(Encoding.DER) == snp.root_der
        assert crl.issuer == ark.subject
        assert crl.get_revoked_certificate_by_serial_number(ask.serial_number) is None
        await get(f"{'00' * 64}?{levels(snp)}", 404)
        server.fail(Service.AMD_CRL, Fault.REVOKED)
        revoked = x509.load_der_x509_crl(await get("crl"))
        assert revoked.get_revoked_certificate_by_serial_number(ask.serial_number) is not None
        server.fail(Service.AMD_CRL, Fault.STALE)
        stale = x509.load_der_x509_crl(await get("crl"))
        assert stale.next_update_utc is not None
        assert crl.next_update_utc is not None
        assert stale.next_update_utc < crl.last_update_utc
        server.fail(Service.AMD_CHAIN, Fault.WRONG)
        other = x509.load_pem_x509_certificates(await get("cert_chain"))
        assert other[1].subject == ark.subject
        assert other[1] != ark
        server.fail(Service.VEK, Fault.WRONG)
        assert x509.load_der_x509_certificate(await get(f"{chip}?{levels(snp)}")).public_key() != vek.public_key()
        server.fail(Service.VEK, Fault.TOO_MANY, times=1)
        await get(f"{chip}?{levels(snp)}", 429)
        await get(f"{chip}?{levels(snp)}")
        assert not snp.attack.foreign_chain


@pytest.mark.parametrize(
    "path",
    [
        "/tdx/certification/v4/tcb?fmspc=000000000000",
        "/tdx/certification/v4/tcb",
        "/sgx/certification/v4/pckcrl?ca=processor",
        "/v1/rim/NV_GPU_DRIVER_GH100_1.0",
        "/vcek/v1/Genoa/crl",
        "/elsewhere",
    ],
)
async def test_what_nobody_knows_is_not_found(server: CollateralServer, http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(server.url + path) as answer:
        assert answer.status == 404


async def test_a_revocation_list_comes_as_it_is_asked_for(
    server: CollateralServer, http: aiohttp.ClientSession
) -> None:
    async with http.get(server.url + PCK_CRL) as answer:
        der = x509.load_der_x509_crl(await answer.read())
    async with http.get(f"{server.url}/sgx/certification/v4/pckcrl?ca=platform") as answer:
        pem = x509.load_pem_x509_crl(await answer.read())
    assert (pem.issuer, pem.next_update_utc) == (der.issuer, der.next_update_utc)


async def test_manifests_are_listed_and_given(
    server: CollateralServer, http: aiohttp.ClientSession, gpus: SyntheticGpus
) -> None:
    async with http.get(f"{server.url}/v1/rim/ids") as answer:
        assert set((await answer.json())["ids"]) == set(gpus.rims())
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        found = await answer.json()
    document = base64.b64decode(found["rim"])
    assert (found["id"], found["rim_format"]) == (RIM, "TCG")
    assert found["sha256"] == hashlib.sha256(document).hexdigest()
    assert document.startswith(b"<SoftwareIdentity")


async def test_revocation_is_answered_by_post_and_get(
    server: CollateralServer, http: aiohttp.ClientSession, gpus: SyntheticGpus
) -> None:
    request = ocsp_request(gpus)
    headers = {"Content-Type": "application/ocsp-request"}
    async with http.post(server.ocsp_url, data=request, headers=headers) as answer:
        assert answer.content_type == "application/ocsp-response"
        posted = ocsp.load_der_ocsp_response(await answer.read())
    escaped = urllib.parse.quote(base64.b64encode(request).decode(), safe="")
    async with http.get(f"{server.ocsp_url}/{escaped}") as answer:
        gotten = ocsp.load_der_ocsp_response(await answer.read())
    for response in (posted, gotten):
        assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
        assert response.serial_number == rom_and_issuer(gpus)[0].serial_number


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"not DER", "application/ocsp-request", ocsp.OCSPResponseStatus.MALFORMED_REQUEST),
        (None, "text/plain", ocsp.OCSPResponseStatus.MALFORMED_REQUEST),
        (ocsp_request(SyntheticGpus()), "application/ocsp-request", ocsp.OCSPResponseStatus.UNAUTHORIZED),
    ],
    ids=["not a request", "another type", "another world's"],
)
async def test_revocation_of_anything_else_is_refused(
    server: CollateralServer,
    http: aiohttp.ClientSession,
    data: bytes | None,
    kind: str,
    status: ocsp.OCSPResponseStatus,
) -> None:
    body = ocsp_request(WORLD) if data is None else data
    async with http.post(server.ocsp_url, data=body, headers={"Content-Type": kind}) as answer:
        assert ocsp.load_der_ocsp_response(await answer.read()).response_status is status


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.NOT_FOUND, 404),
        (Fault.TOO_MANY, 429),
        (Fault.BROKEN, 500),
        (Fault.UNAVAILABLE, 503),
        (Fault.REDIRECTED, 302),
    ],
    ids=lambda row: getattr(row, "name", None),
)
async def test_statuses(server: CollateralServer, http: aiohttp.ClientSession, fault: Fault, status: int) -> None:
    """Control: the service beside it is well."""
    server.fail(Service.RIM, fault)
    async with http.get(f"{server.url}/v1/rim/{RIM}", allow_redirects=False) as answer:
        assert answer.status == status
    async with http.get(f"{server.url}/v1/rim/ids") as answer:
        assert answer.status == 200


async def test_a_fault_ends_after_its_times(server: CollateralServer, http: aiohttp.ClientSession) -> None:
    server.fail(Service.RIM, Fault.TOO_MANY, times=2)
    seen = []
    for _ in range(3):
        async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
            seen.append((answer.status, answer.headers.get("Retry-After")))
    assert seen == [(429, "1"), (429, "1"), (200, None)]
    assert server.asked[Service.RIM] == 3
    server.fail_all(Fault.BROKEN)
    async with http.get(server.url + PCK_CRL) as answer:
        assert answer.status == 500
    server.fail_all(None)
    async with http.get(server.url + PCK_CRL) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("fault", [Fault.GARBAGE, Fault.EMPTY, Fault.PORTAL], ids=lambda one: one.name)
async def test_bodies_that_are_none(server: CollateralServer, http: aiohttp.ClientSession, fault: Fault) -> None:
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        good = await answer.read()
    server.fail(Service.RIM, fault)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert answer.status == 200
        body = await answer.read()
    assert json.loads(good)["id"] == RIM
    assert not body.startswith(b"{")


async def test_a_connection_is_reset(server: CollateralServer, http: aiohttp.ClientSession) -> None:
    server.fail(Service.RIM, Fault.DOWN)
    with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
        await http.get(f"{server.url}/v1/rim/{RIM}")
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.get(f"{server.nobody_url}/v1/rim/{RIM}")


async def test_a_body_is_cut_off(server: CollateralServer, http: aiohttp.ClientSession) -> None:
    server.fail(Service.RIM, Fault.TRUNCATED)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_bodies_without_measure(server: CollateralServer, http: aiohttp.ClientSession) -> None:
    server.fail(Service.RIM, Fault.OVERSIZED)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert answer.content_length == OVERSIZED_BYTES
        assert len(await answer.content.readexactly(1 << 20)) == 1 << 20
    server.fail(Service.RIM, Fault.ENDLESS)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert answer.content_length is None
        assert len(await answer.content.readexactly(1 << 20)) == 1 << 20
    server.fail(Service.RIM, Fault.DRIPPING)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert await answer.content.readexactly(2) == b"  "


async def test_a_slow_answer_ends_with_the_server(gpus: SyntheticGpus, http: aiohttp.ClientSession) -> None:
    async with CollateralServer(gpus=gpus) as server:
        server.fail(Service.RIM, Fault.SLOW)
        waiting = asyncio.create_task(http.get(f"{server.url}/v1/rim/{RIM}"))
        async with asyncio.timeout(20):
            while not server.asked[Service.RIM]:  # noqa: ASYNC110 - the server counts, and tells nobody
                await asyncio.sleep(0.01)
        assert not waiting.done()
    done = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(done[0], aiohttp.ClientError | aiohttp.ClientResponse)
    with pytest.raises(LabError, match="does not run"):
        _ = server.port


async def test_slow_answers_come(gpus: SyntheticGpus, http: aiohttp.ClientSession) -> None:
    async with CollateralServer(gpus=gpus, slow_s=0.05) as server:
        server.fail(Service.RIM, Fault.SLOW)
        async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
            assert (await answer.json())["id"] == RIM


async def test_a_services_clock_can_be_behind(server: CollateralServer, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        right = answer.headers["Date"]
    server.fail(Service.RIM, Fault.SKEWED)
    async with http.get(f"{server.url}/v1/rim/{RIM}") as answer:
        assert answer.headers["Date"][:16] != right[:16]


async def test_stale_wrong_and_revoked_tcb_info_is_signed(
    server: CollateralServer, http: aiohttp.ClientSession, tdx: SyntheticTdx
) -> None:
    async def tcb_info() -> dict[str, object]:
        async with http.get(server.url + tcb_path(tdx)) as answer:
            found: dict[str, object] = json.loads(await answer.text())["tcbInfo"]
            return found

    good = await tcb_info()
    assert good["fmspc"] == tdx.fmspc.hex().upper()
    server.fail(Service.TCB_INFO, Fault.STALE)
    assert str((await tcb_info())["nextUpdate"]) < str(good["issueDate"])
    server.fail(Service.TCB_INFO, Fault.WRONG)
    assert (await tcb_info())["fmspc"] != good["fmspc"]
    server.fail(Service.TCB_INFO, Fault.REVOKED)
    levels = (await tcb_info())["tcbLevels"]
    assert isinstance(levels, list)
    assert levels[-1]["tcbStatus"] == "Revoked"
    server.fail(Service.TCB_INFO, None)
    assert await tcb_info() == good
    assert tdx.faults.tcb_status == "UpToDate"


@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, "GOOD"), (Fault.STALE, "GOOD"), (Fault.REVOKED, "REVOKED"), (Fault.WRONG, "GOOD")],
    ids=lambda row: getattr(row, "name", None),
)
async def test_stale_wrong_and_revoked_revocation(
    server: CollateralServer, http: aiohttp.ClientSession, gpus: SyntheticGpus, fault: Fault | None, status: str
) -> None:
    server.fail(Service.OCSP, fault)
    headers = {"Content-Type": "application/ocsp-request"}
    async with http.post(server.ocsp_url, data=ocsp_request(gpus), headers=headers) as answer:
        response = ocsp.load_der_ocsp_response(await answer.read())
    assert response.certificate_status.name == status
    right = response.serial_number == rom_and_issuer(gpus)[0].serial_number
    assert right is (fault is not Fault.WRONG)
    assert response.next_update_utc is not None
    assert gpus.attack.ocsp is OcspFault.NONE


def test_a_service_without_such_a_fault_says_so(gpus: SyntheticGpus) -> None:
    server = CollateralServer(gpus=gpus)
    with pytest.raises(LabError, match="rim has no answer that is revoked"):
        server.fail(Service.RIM, Fault.REVOKED)
    with pytest.raises(LabError, match="no world answers for service vek"):
        server.fail(Service.VEK, Fault.STALE)
