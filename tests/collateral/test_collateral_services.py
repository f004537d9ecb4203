"""The vendors' services of a synthetic world over real HTTP: what is found verifies, and each fault says what it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.snp_machine import SnpAttack, SnpMachine
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation import dcap
from attestation.collateral import CollateralSettings, DiskCache, OfflineBundle, Sources, gather, open_sources
from attestation.collateral.amd import Chip
from attestation.collateral.errors import (
    MalformedAnswerError,
    NotServedError,
    ServiceRefusedError,
    ServiceUnreachableError,
)
from attestation.collateral.machines import report_collateral
from attestation.errors import CollateralError, EvidenceError
from attestation.gpu.chain import load_der
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.judge import judge_device
from attestation.gpu.ocsp import check_response, requests
from attestation.gpu.rim import read_rim, rim_ids
from attestation.snp import reader as snp_reader
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.snp.tcb import Product

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NONCE = bytes(range(32))
BRIEF = {"silence_s": 0.3, "deadline_s": 0.6}
"""For faults that end with our patience; others have time, however busy this machine is."""
INTEL = (Service.PCK_CRL, Service.ROOT_CRL, Service.TCB_INFO, Service.QE_IDENTITY)


@pytest.fixture(scope="module")
def tdx() -> SyntheticTdx:
    return SyntheticTdx()


@pytest.fixture(scope="module")
def snp() -> SyntheticSnp:
    return SyntheticSnp()


@pytest.fixture(scope="module")
def gpus() -> SyntheticGpus:
    return SyntheticGpus(2)


@pytest.fixture
async def server(tdx: SyntheticTdx, snp: SyntheticSnp, gpus: SyntheticGpus) -> AsyncIterator[CollateralServer]:
    async with CollateralServer(tdx=tdx, snp=snp, gpus=gpus) as running:
        yield running


def settings(server: CollateralServer, **more: object) -> CollateralSettings:
    made = CollateralSettings(
        tdx=server.url, kds=server.url, rim=server.url, ocsp=server.ocsp_url, proxy="off", attempts=1, silence_s=20
    )
    return replace(made, **more)  # type: ignore[arg-type]  # what a test names


def sources(server: CollateralServer, **more: object) -> Sources:
    return open_sources(settings(server, **more))


async def test_collateral_of_a_tdx_machine_verifies_its_quote(server: CollateralServer, tdx: SyntheticTdx) -> None:
    quote = tdx.quote(bytes(64))
    collateral = await sources(server).tdx.get(*dcap.platform_of(quote))
    assert dcap.verify_quote(quote, collateral, root_der=tdx.root_der, now=time.time()).status == "UpToDate"
    assert [server.asked[service] for service in INTEL] == [1, 1, 1, 1]


@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
async def test_collateral_of_an_snp_machine_verifies_its_report(product: Product) -> None:
    """Turin's hardware id has eight bytes, and its patch levels an FMC."""
    machine = SyntheticSnp(machine=SnpMachine(product=product))
    evidence = machine.evidence(bytes(64))
    async with CollateralServer(snp=machine) as server:
        found = await gather(evidence, (), sources(server))
    assert found.missing == ()
    claims, checks = snp_reader.read(evidence, found.staple.snp, machine.roots, time.time())
    assert claims is not None, [check for check in checks if not check.passed]


async def test_a_cloud_key_needs_the_hosts_certificate_and_gets_the_rest() -> None:
    machine = SyntheticSnp(machine=SnpMachine(provider="cloud"))
    bare = SnpEvidence(machine.report(bytes(64)))
    given = SnpEvidence(bare.report, {"vlek": SnpCollateral.parse(machine.collateral()).vek})
    async with CollateralServer(snp=machine) as server:
        refused = await gather(bare.encode(), (), sources(server))
        assert server.asked[Service.VEK] == 0
        found = await gather(given.encode(), (), sources(server))
    assert "gives to its cloud alone" in refused.missing[0].reason
    assert "certificate table" in refused.missing[0].hint
    assert found.missing == ()
    assert snp_reader.read(given.encode(), found.staple.snp, machine.roots, time.time())[0] is not None


async def test_a_hosts_certificate_that_is_not_for_this_report_is_left_aside(
    server: CollateralServer, snp: SyntheticSnp
) -> None:
    """A host keeps what it fetched once: after an update of its firmware, or a move, AMD is asked.

    Control: the certificate that fits, which saves the question.
    """
    fitting = SnpCollateral.parse(snp.collateral()).vek
    updated = SyntheticSnp(SnpAttack(outdated_tcb=True), machine=snp.machine, pki=snp.pki)
    updated.chip_id = snp.chip_id
    older = SnpCollateral.parse(updated.collateral()).vek
    another = SnpCollateral.parse(SyntheticSnp(machine=snp.machine, pki=snp.pki).collateral()).vek
    report = snp.report(bytes(64))
    for given, questions in ((fitting, 0), (older, 1), (another, 1), (b"no certificate", 1)):
        server.asked.clear()
        found = await report_collateral(report, sources(server), certificates={"vcek": given})
        assert server.asked[Service.VEK] == questions
        assert snp_reader.read(SnpEvidence(report).encode(), found, snp.roots, time.time())[0] is not None


async def test_without_a_revocation_list_the_rest_comes_and_the_verdict_says_so(
    server: CollateralServer, snp: SyntheticSnp
) -> None:
    server.fail(Service.AMD_CRL, Fault.BROKEN)
    found = SnpCollateral.parse(await report_collateral(snp.report(bytes(64)), sources(server)))
    assert found.crl is None
    server.fail(Service.AMD_CRL, None)
    assert SnpCollateral.parse(await report_collateral(snp.report(bytes(64)), sources(server))).crl is not None


def test_chips_are_read_before_they_become_addresses() -> None:
    levels = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 55}
    turin = Chip.make("Turin", b"\xab" * 8 + bytes(56), levels)
    query = "fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=55"
    assert turin.path == f"/vcek/v1/Turin/{'ab' * 8}?{query}"
    assert Chip.make("Turin", b"\xab" * 8, bytes([1, 2, 3, 4, 0, 0, 0, 55])) == turin
    siena = Chip.make("Siena", b"\xab" * 64, bytes([2, 3, 0, 0, 0, 0, 4, 255]))
    assert siena.path == f"/vcek/v1/Genoa/{'ab' * 64}?blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=255"
    for product, chip_id, tcb, message in (
        ("Rome", b"\xab" * 64, bytes(8), "product 'Rome', expected one of"),
        ("None", b"\xab" * 64, bytes(8), "product 'None'"),
        ("Milan", b"\xab" * 8, bytes(8), "chip id of 8 bytes"),
        ("Milan", bytes(64), bytes(8), "masked"),
        ("Turin", b"\xab" * 64, bytes(8), "another product's"),
        ("Milan", b"\xab" * 64, bytes(7), "7 bytes, expected 8"),
        ("Milan", b"\xab" * 64, {"fmc": 1}, "no patch levels"),
    ):
        with pytest.raises(CollateralError, match=message):
            Chip.make(product, chip_id, tcb)


async def test_a_report_that_names_no_product_is_asked_for_at_each(snp: SyntheticSnp) -> None:
    """Version 2 of the report has no processor model in it."""
    machine = SyntheticSnp(machine=SnpMachine(version=2))
    async with CollateralServer(snp=machine) as server:
        found = await report_collateral(machine.report(bytes(64)), sources(server))
    assert SnpCollateral.parse(found).ark == SnpCollateral.parse(machine.collateral()).ark
    async with CollateralServer(snp=snp) as server:  # of another machine: neither product has it
        with pytest.raises(CollateralError, match="status 404") as caught:
            await report_collateral(machine.report(bytes(64)), sources(server))
        with pytest.raises(NotServedError):
            await report_collateral(machine.report(bytes(64)), sources(server), product="Milan")
    assert "AMD knows no such chip" in caught.value.hint


async def test_everything_for_gpus_is_found_and_the_judge_is_content(
    server: CollateralServer, gpus: SyntheticGpus
) -> None:
    devices = await gpus.collect(lambda _: NONCE)
    found = await gather(None, devices, sources(server))
    assert found.missing == ()
    assert set(found.staple.rims) == set(gpus.rims())
    assert set(found.staple.ocsp) == set(gpus.ocsp())
    for device in devices:
        judged = judge_device(
            device,
            nonce=NONCE,
            roots=gpus.roots(),
            rims=found.staple.rims,
            ocsp=found.staple.ocsp,
            now=time.time(),
        )
        assert judged.claims is not None, [check for check in judged.checks if not check.passed]
    assert server.asked[Service.RIM] == len(gpus.rims())
    assert server.asked[Service.OCSP] == len(gpus.ocsp())  # what two devices share is asked once


async def test_a_manifest_that_nobody_publishes(server: CollateralServer) -> None:
    with pytest.raises(NotServedError, match="reference manifest NV_GPU_VBIOS_1_2_3_4") as caught:
        await sources(server).rim.get("NV_GPU_VBIOS_1_2_3_4")
    assert "no reference values under this name" in caught.value.hint
    for name in ("../../etc/passwd", "", "a" * 300, "a?b", "a/b", ".hidden"):
        with pytest.raises(CollateralError, match="expected a name of letters"):
            await sources(server).rim.get(name)
    assert server.asked[Service.RIM] == 1


async def test_a_certificate_that_the_responder_does_not_know(server: CollateralServer) -> None:
    stranger = requests(DeviceEvidence.parse((await SyntheticGpus().collect(lambda _: NONCE))[0]).chain)[0]
    with pytest.raises(ServiceRefusedError):
        await sources(server).ocsp.get(stranger.certificate, stranger.issuer)
    with pytest.raises(CollateralError, match="cannot be read"):
        await sources(server).ocsp.get(b"no certificate", stranger.issuer)


EXCHANGE = [
    (Fault.SLOW, ServiceUnreachableError, "silent for|not within"),
    (Fault.DRIPPING, ServiceUnreachableError, "not within"),
    (Fault.DOWN, ServiceUnreachableError, "does not answer"),
    (Fault.NOT_FOUND, NotServedError, "status 404"),
    (Fault.TOO_MANY, ServiceRefusedError, "status 429"),
    (Fault.BROKEN, ServiceRefusedError, "status 500"),
    (Fault.UNAVAILABLE, ServiceRefusedError, "status 503"),
    (Fault.REDIRECTED, ServiceRefusedError, "points to 'elsewhere.invalid'"),
    (Fault.GARBAGE, MalformedAnswerError, None),
    (Fault.EMPTY, MalformedAnswerError, None),
    (Fault.PORTAL, MalformedAnswerError, None),
    (Fault.TRUNCATED, MalformedAnswerError, "before its end"),
    (Fault.OVERSIZED, MalformedAnswerError, "with too much"),
    (Fault.ENDLESS, MalformedAnswerError, "with too much"),
]


@pytest.mark.parametrize("service", [Service.TCB_INFO, Service.VEK, Service.RIM, Service.OCSP])
@pytest.mark.parametrize(("fault", "error", "message"), EXCHANGE, ids=[item[0].name for item in EXCHANGE])
async def test_faults_of_the_exchange(  # noqa: PLR0917 - fixtures and a table
    server: CollateralServer,
    tdx: SyntheticTdx,
    snp: SyntheticSnp,
    gpus: SyntheticGpus,
    service: Service,
    fault: Fault,
    error: type[CollateralError],
    message: str | None,
) -> None:
    """Each is refused as what it is; control: the same question without the fault is answered."""
    device = DeviceEvidence.parse((await gpus.collect(lambda _: NONCE))[0])
    question = requests(device.chain)[0]

    async def ask(found: Sources) -> bytes:
        match service:
            case Service.TCB_INFO:
                return await found.tdx.get(*dcap.platform_of(tdx.quote(bytes(64))))
            case Service.VEK:
                return await report_collateral(snp.report(bytes(64)), found)
            case Service.RIM:
                return await found.rim.get(rim_ids(device.report)[0])
            case _:
                return await found.ocsp.get(question.certificate, question.issuer)

    assert await ask(sources(server))
    server.fail(service, fault)
    with pytest.raises(error, match=message):
        await ask(sources(server, **(BRIEF if fault in {Fault.SLOW, Fault.DRIPPING} else {})))


async def test_nobody_is_there(server: CollateralServer) -> None:
    with pytest.raises(ServiceUnreachableError, match="refused"):
        await sources(server, rim=server.nobody_url).rim.get("NV_X")


async def test_a_busy_service_is_asked_until_it_answers(server: CollateralServer, gpus: SyntheticGpus) -> None:
    server.fail(Service.RIM, Fault.UNAVAILABLE, times=2)
    name = next(iter(gpus.rims()))
    assert read_rim(await sources(server, attempts=4).rim.get(name), gpus.roots().rim, time.time())
    assert server.asked[Service.RIM] == 3


async def test_what_is_signed_but_stale_or_wrong_comes_through_for_the_verifier_to_refuse(
    server: CollateralServer, tdx: SyntheticTdx, gpus: SyntheticGpus
) -> None:
    """Here nothing is verified: a reason from the verifier says more than none from a cache."""
    quote = tdx.quote(bytes(64))
    for fault in (Fault.STALE, Fault.WRONG):
        server.fail(Service.TCB_INFO, fault)
        collateral = await sources(server).tdx.get(*dcap.platform_of(quote))
        with pytest.raises(EvidenceError):
            dcap.verify_quote(quote, collateral, root_der=tdx.root_der, now=time.time())
    server.fail(Service.TCB_INFO, Fault.REVOKED)
    collateral = await sources(server).tdx.get(*dcap.platform_of(quote))
    with pytest.raises(EvidenceError, match="TCB"):
        dcap.verify_quote(quote, collateral, root_der=tdx.root_der, now=time.time())
    server.fail(Service.RIM, Fault.STALE)
    name = next(iter(gpus.rims()))
    manifest = await sources(server).rim.get(name)
    with pytest.raises(EvidenceError, match="valid from"):
        read_rim(manifest, gpus.roots().rim, time.time())
    question = requests(DeviceEvidence.parse((await gpus.collect(lambda _: NONCE))[0]).chain)[0]
    certificate, issuer = load_der(question.certificate), load_der(question.issuer)
    server.fail(Service.OCSP, Fault.REVOKED)
    response = await sources(server).ocsp.get(question.certificate, question.issuer)
    assert check_response(response, certificate, issuer, time.time()).status == "revoked"
    server.fail(Service.OCSP, Fault.WRONG)
    with pytest.raises(MalformedAnswerError, match="not about certificate"):
        await sources(server).ocsp.get(question.certificate, question.issuer)


async def test_many_who_ask_at_once_are_one_question(
    server: CollateralServer, tdx: SyntheticTdx, gpus: SyntheticGpus, tmp_path: Path
) -> None:
    found = sources(server, cache=tmp_path)
    platform = dcap.platform_of(tdx.quote(bytes(64)))
    name = next(iter(gpus.rims()))
    answers = await asyncio.gather(*(found.tdx.get(*platform) for _ in range(50)))
    assert len(set(answers)) == 1
    assert len(set(await asyncio.gather(*(found.rim.get(name) for _ in range(50))))) == 1
    assert [server.asked[service] for service in (*INTEL, Service.RIM)] == [1, 1, 1, 1, 1]


async def test_the_disk_saves_a_question_until_the_content_ends(
    server: CollateralServer, snp: SyntheticSnp, gpus: SyntheticGpus, tmp_path: Path
) -> None:
    """A chip's certificate is kept by itself: AMD limits how often it is asked."""
    report = snp.report(bytes(64))
    first = await report_collateral(report, sources(server, cache=tmp_path))
    assert await report_collateral(report, sources(server, cache=tmp_path)) == first
    amd = (Service.VEK, Service.AMD_CHAIN, Service.AMD_CRL)
    assert [server.asked[service] for service in amd] == [1, 1, 1]
    await gather(None, await gpus.collect(lambda _: NONCE), sources(server, cache=tmp_path))
    kinds = {entry.kind for entry in DiskCache(tmp_path).entries()}
    assert kinds == {"snp-vcek", "snp-chain", "snp-crl", "rim", "ocsp"}
    for entry in DiskCache(tmp_path).entries():
        assert entry.issued <= time.time() < entry.expires
        assert entry.source == "127.0.0.1"
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert SnpCollateral.parse(await report_collateral(report, sources(server, cache=tmp_path)))
    assert [server.asked[service] for service in amd] == [2, 2, 2]  # damaged pieces are fetched again


async def test_offline_all_of_it_comes_from_one_file(
    server: CollateralServer, tdx: SyntheticTdx, snp: SyntheticSnp, gpus: SyntheticGpus, tmp_path: Path
) -> None:
    devices = await gpus.collect(lambda _: NONCE)
    quote, report = tdx.quote(bytes(64)), snp.evidence(bytes(64))
    online = sources(server, cache=tmp_path / "cache")
    expected = (await gather(quote, devices, online)).staple, (await gather(report, (), online)).staple
    path = tmp_path / "bundle"
    path.write_bytes(OfflineBundle.of(DiskCache(tmp_path / "cache").entries()).encode())
    before = server.asked.total()
    offline = open_sources(replace(CollateralSettings.none(), offline=path))
    found = await gather(quote, devices, offline), await gather(report, (), offline)
    assert (found[0].staple, found[1].staple) == expected
    assert server.asked.total() == before
    stranger = await gather(None, await SyntheticGpus(vbios="96.00.AA.00.01").collect(lambda _: NONCE), offline)
    assert {item.what.split()[0] for item in stranger.missing} == {"manifest", "revocation"}
    assert "no service for it is configured" in stranger.missing[0].reason


async def test_evidence_that_cannot_be_read_is_a_reason_not_an_error(server: CollateralServer) -> None:
    for quote, devices in ((b"\xa1\x00", ()), (b"\x04\x00" + bytes(700), ()), (None, (b"junk",)), (b"", ())):
        found = await gather(quote, devices, sources(server))
        assert not found.staple
        assert found.missing
    empty = await gather(None, (), Sources())
    assert (bool(empty.staple), empty.missing) == (False, ())


async def test_what_is_not_configured_says_how_to(gpus: SyntheticGpus, snp: SyntheticSnp) -> None:
    found = await gather(snp.evidence(bytes(64)), await gpus.collect(lambda _: NONCE), Sources())
    hints = {item.hint for item in found.missing}
    assert {"configure kds", "configure rim", "configure ocsp"} == hints
    assert not found.staple
