"""Collection in the guest, on a real software TPM that holds what the clouds' vTPMs hold."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tpm"))

import tpm_support
from cloud_support import MEASURED, PREDICTION, Booted, judge_azure, judge_gcp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.lab.cloud_world_azure import PARAVISOR, AzureAttack, AzureWorld
from appliance.lab.cloud_world_gcp import GcpWorld
from appliance.lab.paper_tpm import PaperTpm
from appliance.lab.snp_world import SyntheticSnp
from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.azure.runtime import parse_runtime
from attestation.errors import CollectionError
from attestation.gcp.evidence import parse_gcp
from attestation.platforms.azure import KEY_HANDLE, REPORT_INDEX, USER_DATA_INDEX, Azure, ask_certificates
from attestation.platforms.gcp import ISSUERS_FILE, Gcp, fetch_certificate
from attestation.tpm.keys import parse_public
from attestation.tpm.primary import quote_by_template

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from appliance.lab.snp_world import SnpPki
    from appliance.lab.tee import SyntheticTdx

ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
BOOTED = Booted(PREDICTION, MEASURED)


@pytest.fixture(scope="module")
def machine() -> Iterator[tpm_support.SoftwareTpm]:
    """A software TPM that booted the image, with a paravisor's key at its handle."""
    with tpm_support.software_tpm(None) as tpm:
        tpm.boot(PREDICTION, MEASURED)
        kind = ("-C", "e", "-g", "sha256", "-G", "rsa2048:rsassa-sha256:null", "-a", ATTRIBUTES)
        tpm.tool("tpm2_createprimary", *kind, "-c", "ak.ctx")
        tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "ak.ctx", f"{KEY_HANDLE:#x}")
        tpm.tool("tpm2_flushcontext", "-t")
        yield tpm


@pytest.fixture(scope="module")
def azure_key(machine: tpm_support.SoftwareTpm) -> rsa.RSAPublicKey:
    machine.tool("tpm2_readpublic", "-c", f"{KEY_HANDLE:#x}", "-f", "pem", "-o", "ak.pem")
    key = serialization.load_pem_public_key((machine.directory / "ak.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    return key


@pytest.fixture(scope="module")
def azure_world(azure_key: rsa.RSAPublicKey, genoa: SnpPki) -> AzureWorld:
    return AzureWorld(BOOTED, SyntheticSnp(machine=PARAVISOR, pki=genoa), key=azure_key)


def put(machine: tpm_support.SoftwareTpm, index: int, content: bytes) -> None:
    """What a cloud leaves in an NV index."""
    (machine.directory / "content").write_bytes(content)
    machine.tool("tpm2_nvundefine", "-C", "o", f"{index:#x}", check=False)
    machine.tool("tpm2_nvdefine", "-C", "o", f"{index:#x}", "-s", str(len(content)))
    machine.tool("tpm2_nvwrite", "-C", "o", f"{index:#x}", "-i", machine.directory / "content")


def show(machine: tpm_support.SoftwareTpm, world: AzureWorld, user_data: bytes) -> None:
    put(machine, REPORT_INDEX, world.report(user_data).ljust(2000, b"\0"))


def azure(machine: tpm_support.SoftwareTpm, folder: Path, **more: object) -> Azure:
    settings = {"metadata": "", "snapshot": folder / "none", "files": machine.files, **more}
    return Azure(machine.tcti, folder, **settings)  # type: ignore[arg-type] # a few keywords, for brevity


@contextlib.asynccontextmanager
async def paravisor(machine: tpm_support.SoftwareTpm, world: AzureWorld) -> AsyncIterator[None]:
    """Renews the report whenever the guest's data is other than what the report is over."""
    over = bytes(64)

    def renew() -> None:
        nonlocal over
        data = machine.tool("tpm2_nvread", "-C", "o", f"{USER_DATA_INDEX:#x}", check=False)
        if len(data) == 64 and data != over:
            show(machine, world, data)
            over = data

    async def forever() -> None:
        while True:
            await asyncio.to_thread(renew)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_azure_machine_shows_what_a_verifier_takes(
    machine: tpm_support.SoftwareTpm, azure_world: AzureWorld, tmp_path: Path, question: bytes
) -> None:
    show(machine, azure_world, bytes(64))
    platform = azure(machine, tmp_path)
    certificate_form = await platform.collect(question)
    assert parse_azure(certificate_form).tpm.logs is None
    assert judge_azure(azure_world, question, data=certificate_form, fresh=False).failed == []
    async with paravisor(machine, azure_world):
        fresh_form = await platform.collect_with_logs(question)
    assert parse_runtime(parse_hcl(parse_azure(fresh_form).report).runtime).user_data == question
    assert judge_azure(azure_world, question, data=fresh_form).failed == []
    assert judge_azure(azure_world, bytes(64), data=fresh_form).failed == ["user data", "report data"]
    assert not list(tmp_path.iterdir()), "no file of a tool is left"


async def test_a_report_that_is_never_renewed_is_told(
    machine: tpm_support.SoftwareTpm, azure_world: AzureWorld, tmp_path: Path, question: bytes
) -> None:
    show(machine, azure_world, bytes(64))
    with pytest.raises(CollectionError, match="no new report of the processor"):
        await azure(machine, tmp_path, renewal=0.0).collect_with_logs(question)


async def test_a_machine_under_tdx_is_told_so(
    machine: tpm_support.SoftwareTpm, azure_key: rsa.RSAPublicKey, genoa: SnpPki, tmp_path: Path, question: bytes
) -> None:
    snp = SyntheticSnp(machine=PARAVISOR, pki=genoa)
    show(machine, AzureWorld(BOOTED, snp, key=azure_key, attack=AzureAttack(tdx=True)), bytes(64))
    with pytest.raises(CollectionError, match="SEPT_VE_DISABLE"):
        await azure(machine, tmp_path).collect(question)


async def test_a_machine_without_a_paravisor_is_told_so(
    machine: tpm_support.SoftwareTpm, tmp_path: Path, question: bytes
) -> None:
    machine.tool("tpm2_nvundefine", "-C", "o", f"{REPORT_INDEX:#x}", check=False)
    with pytest.raises(CollectionError, match="no report of a paravisor"):
        await azure(machine, tmp_path).collect(question)
    put(machine, REPORT_INDEX, b"HCLB".ljust(1300, b"\0"))
    with pytest.raises(CollectionError, match="cannot be read"):
        await azure(machine, tmp_path).collect(question)


@contextlib.contextmanager
def serving(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """A loopback server; what is asked of it with the wrong headers gets 400."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            if self.path.startswith("/metadata") and self.headers["Metadata"] != "true":
                status, body = 400, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


THIM = "/metadata/THIM/amd/certification"


async def test_amds_certificates_come_from_the_metadata_service(
    machine: tpm_support.SoftwareTpm, azure_world: AzureWorld, tmp_path: Path, question: bytes
) -> None:
    show(machine, azure_world, bytes(64))
    with serving({THIM: (200, azure_world.certification)}) as address:
        platform = azure(machine, tmp_path, metadata=address)
        shown = await platform.collect(question)
        wanted = ask_certificates(address)
    assert parse_azure(shown).certificates == wanted
    judged = judge_azure(azure_world, question, data=shown, fresh=False, collateral=None)
    assert judged.failed == ["revocation"], "Azure keeps no revocation list"
    assert parse_azure(await platform.collect(question)).certificates == wanted, "kept while nobody answers"


async def test_without_the_metadata_service_there_is_evidence_all_the_same(
    machine: tpm_support.SoftwareTpm, azure_world: AzureWorld, tmp_path: Path, question: bytes
) -> None:
    show(machine, azure_world, bytes(64))
    with serving({}) as address:
        shown = await azure(machine, tmp_path, metadata=address).collect(question)
    assert parse_azure(shown).certificates == {}
    assert judge_azure(azure_world, question, data=shown, fresh=False).failed == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param((500, b"{}"), "status 500", id="an error"),
        pytest.param((200, b"{"), "no certificates", id="no JSON"),
        pytest.param((200, b"[]"), "no certificates", id="a list"),
        pytest.param((200, b'{"vcekCert": 5, "certificateChain": ""}'), "no certificates", id="a number"),
        pytest.param((200, b'{"vcekCert": "", "certificateChain": ""}'), "0 certificates", id="none"),
        pytest.param((200, bytes(70_000)), "status 200 and", id="too long"),
    ],
)
def test_a_metadata_service_that_answers_nonsense_is_told(answer: tuple[int, bytes], reason: str) -> None:
    with serving({THIM: answer}) as address, pytest.raises(CollectionError, match=reason):
        ask_certificates(address)


def test_a_metadata_service_needs_an_http_address() -> None:
    with pytest.raises(CollectionError, match="expected an http address"):
        ask_certificates("https://127.0.0.1")


@pytest.fixture(scope="module", params=[True, False], ids=["p-256", "rsa"])
def google(
    request: pytest.FixtureRequest, machine: tpm_support.SoftwareTpm, tdx: SyntheticTdx
) -> Iterator[tuple[GcpWorld, tpm_support.SoftwareTpm]]:
    """The same TPM with what Google leaves in one: a template, and a certificate of the key that it makes."""
    world = GcpWorld(BOOTED, tdx, ecc=True)
    template = PaperTpm(BOOTED.logs, ecc=request.param).public[2:]
    blank = template[: -68 if request.param else -258] + (bytes(4) if request.param else bytes(2))
    made = quote_by_template(machine.tcti, blank, (0,), b"")
    certificate = world.certify(parse_public(made.key).key)
    indexes = (0x01C10002, 0x01C10003) if request.param else (0x01C10000, 0x01C10001)
    for index, content in zip(indexes, (certificate.ljust(len(certificate) + 40, b"\0"), blank), strict=True):
        put(machine, index, content)
    yield world, machine
    for index in indexes:
        machine.tool("tpm2_nvundefine", "-C", "o", f"{index:#x}")


def gcp(world: GcpWorld, machine: tpm_support.SoftwareTpm, folder: Path, tdx: SyntheticTdx | None) -> Gcp:
    class Quoting:
        name = "tdx"

        async def collect(self, report_data: bytes) -> bytes:
            assert tdx is not None
            return tdx.quote(report_data)

        async def event_log(self) -> bytes | None:
            assert tdx is not None
            return tdx.event_log()

    return Gcp(
        machine.tcti,
        folder,
        tdx=Quoting() if tdx else None,
        snapshot=folder / "none",
        files=machine.files,
        fetch=lambda address: world.published[address],
    )


async def test_a_google_machine_shows_what_a_verifier_takes(
    google: tuple[GcpWorld, tpm_support.SoftwareTpm], tdx: SyntheticTdx, tmp_path: Path, question: bytes
) -> None:
    world, machine = google
    platform = gcp(world, machine, tmp_path, tdx)
    certificate_form = await platform.collect(question)
    assert parse_gcp(certificate_form).tpm.logs is None
    assert judge_gcp(world, tdx, question, data=certificate_form, fresh=False).failed == []
    fresh_form = await platform.collect_with_logs(question)
    assert judge_gcp(world, tdx, question, data=fresh_form).failed == []
    assert await platform.event_log() == tdx.event_log()
    assert [path.name for path in tmp_path.iterdir()] == [ISSUERS_FILE]


async def test_a_google_machine_that_is_no_tdx_guest(
    google: tuple[GcpWorld, tpm_support.SoftwareTpm], tmp_path: Path, question: bytes
) -> None:
    world, machine = google
    platform = gcp(world, machine, tmp_path, None)
    assert judge_gcp(world, None, question, data=await platform.collect_with_logs(question)).failed == []
    assert await platform.event_log() is None


async def test_issuers_that_were_fetched_are_kept(
    google: tuple[GcpWorld, tpm_support.SoftwareTpm], tmp_path: Path, question: bytes
) -> None:
    world, machine = google
    await gcp(world, machine, tmp_path, None).collect(question)
    offline = Gcp(machine.tcti, tmp_path, files=machine.files, fetch=_unreachable)
    assert parse_gcp(await offline.collect(question)).tpm.chain[1:] == world.chain[1:]
    with pytest.raises(CollectionError, match="nobody is there"):
        await Gcp(machine.tcti, tmp_path / "empty", files=machine.files, fetch=_unreachable).collect(question)


def _unreachable(address: str) -> bytes:
    raise CollectionError(f"nobody is there to ask for {address}")


async def test_a_tpm_that_is_not_googles_is_told_so(tmp_path: Path, question: bytes) -> None:
    with tpm_support.software_tpm(None) as empty:
        with pytest.raises(CollectionError, match="without a key that Google certified"):
            await Gcp(empty.tcti, tmp_path, files=empty.files).collect(question)
        put(empty, 0x01C10000, b"no certificate at all")
        put(empty, 0x01C10001, b"no template")
        with pytest.raises(CollectionError, match="not DER"):
            await Gcp(empty.tcti, tmp_path, files=empty.files).collect(question)


def test_certificates_are_fetched_within_bounds() -> None:
    with serving({"/ca.crt": (200, b"certificate"), "/big.crt": (200, bytes(20_000))}) as address:
        assert fetch_certificate(f"{address}/ca.crt") == b"certificate"
        with pytest.raises(CollectionError, match="8193 bytes"):
            fetch_certificate(f"{address}/big.crt")
        with pytest.raises(CollectionError, match="status 404"):
            fetch_certificate(f"{address}/none.crt")
    with pytest.raises(CollectionError, match="cannot be fetched"):
        fetch_certificate(f"{address}/ca.crt")
    with pytest.raises(CollectionError, match="expected an http or https address"):
        fetch_certificate("file:///etc/passwd")


@pytest.mark.parametrize("tcti", ["mssim:port=1", "device:/nowhere/tpm", "swtpm:path=/nowhere/tpm", "swtpm:port=5"])
def test_a_tpm_that_cannot_be_reached_is_told(tcti: str) -> None:
    with pytest.raises(CollectionError, match="TPM at"):
        quote_by_template(tcti, b"", (0,), b"")


def test_a_template_that_is_none_is_refused_by_the_tpm(machine: tpm_support.SoftwareTpm) -> None:
    with pytest.raises(CollectionError, match="TPM refuses command 0x131"):
        quote_by_template(machine.tcti, b"\0\1\0\x0b", (0,), b"")
