"""The attested status port over real TLS: stages, posture, evidence for a nonce, the worker's page for its owner."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import secrets
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from boot_machine import ME, MEASURED, eventually, machine, members, write
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from appliance.boot import configuration, evidence, pages, platform, posture
from appliance.boot.configuration import Handed, Owners
from appliance.boot.platform import Attestable
from appliance.boot.posture.checks import PostureCheck
from appliance.boot.stages import STAGES, StageTable
from appliance.boot.status import StatusPort
from attestation.evidence import parse_bundle
from attestation.policy import for_name
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.boot.stages import StageRecord
    from appliance.boot.system import System


class Running:
    """The port in this process."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.table = StageTable(system.stages, STAGES)
        self.said: list[StageRecord] = []
        self.port = StatusPort(system, self.said.append, host="127.0.0.1", port=0)
        self.certificate = b""

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return await asyncio.to_thread(self._get, path, headers)

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, Any]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port.port, timeout=30, context=context)
        try:
            connection.request("GET", path, headers=headers)
            self.certificate = connection.sock.getpeercert(binary_form=True)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(raw) if "json" in answer.headers["Content-Type"] else raw

    async def until(self, path: str, status: int) -> Any:
        while True:
            seen, body = await self.get(path)
            if seen == status:
                return body
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr("appliance.boot.status.POLL_S", 0.02)
    found = Running(machine(root))
    stopped = asyncio.Event()
    task = asyncio.create_task(found.port.run(stopped))
    await eventually(lambda: found.port.port != 0)
    try:
        yield found
    finally:
        stopped.set()
        await task


def configured(system: System) -> None:
    """As the boot leaves a machine whose quotes are the protocol's fake ones."""
    trust = {"trust": {"policy": "fake_tdx", "development": True}}
    handed = Handed("volume", members(measured=MEASURED | trust))
    config = configuration.check(handed)
    configuration.hand_on(system, handed, Owners(ME, ME, ME))
    configuration.publish(system, config, gas_key=False, platform="fake_tdx", quote_source=None)
    platform.publish(system, Attestable("fake_tdx", None, None))


def end_keys(table: StageTable) -> None:
    with table.stage("keys"):
        pass


async def test_stages_are_seen_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        status, body = await port.get("/v1/stages")
        assert status == 200
        assert [(stage["name"], stage["state"]) for stage in body["stages"]] == [(name, "pending") for name in STAGES]
        port.table.begin("configuration")
        port.table.fail("configuration", "no configuration", "attach one")
        status, body = await port.get("/health")
        assert (status, body) == (503, {"ready": False, "failed": "configuration", "reason": "no configuration"})
        for path in ("/v1/posture", "/v1/attestation?nonce=" + "00" * 32):
            assert (await port.get(path))[0] == 503
        for name in STAGES:
            port.table.begin(name)
            port.table.done(name)
        assert (await port.get("/health"))[0] == 200


async def test_the_console_hears_of_the_worker_s_stages_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        port.table.begin("clock")
        port.table.begin("chain", "no liteserver answers")
        await eventually(lambda: bool(port.said))
        assert [record.name for record in port.said] == ["chain"]


async def test_evidence_is_of_the_port_s_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        configured(port.system)
        end_keys(port.table)
        nonce = secrets.token_bytes(32)
        await port.until(f"/v1/attestation?nonce={nonce.hex()}", 200)
        status, bundle = await port.get(f"/v1/attestation?nonce={nonce.hex()}")
        assert status == 200
        key = x509.load_der_x509_certificate(port.certificate).public_key()
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        verifier = Verifier(for_name("fake_tdx"), None)
        assert (await verifier.verify_bundle(bundle, nonce=nonce, public_key=raw)).accepted
        assert (await verifier.verify_certificate(port.certificate, role="server")).accepted
        assert not (await verifier.verify_bundle(bundle, nonce=bytes(32), public_key=raw)).accepted
        statement = parse_bundle(bundle).statement
        config = evidence.read_machine(port.system)
        assert config is not None
        assert (statement.role, statement.measured_config) == ("status", config.measured.digest())
        assert statement.model == config.measured.model


async def test_who_asks_nothing_gets_the_bundle_that_the_certificate_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as port:
        configured(port.system)
        assert (await port.get("/v1/attestation"))[0] == 400, "control: there is none yet, and no nonce"
        end_keys(port.table)
        verifier = Verifier(for_name("fake_tdx"), None)

        async def names_one() -> bool:
            await port.get("/health")
            return (await verifier.verify_certificate(port.certificate, role="server")).bundle_digest is not None

        async with asyncio.timeout(10):
            while not await names_one():  # noqa: ASYNC110 - a test looks
                await asyncio.sleep(0.05)
        bundle = await port.until("/v1/attestation", 200)
        verdict = await verifier.verify_certificate(port.certificate, role="server")
        given = {"nonce": None, "public_key": verdict.public_key, "digest": verdict.bundle_digest}
        assert (await verifier.verify_bundle(bundle, **given)).accepted
        fresh = await port.until(f"/v1/attestation?nonce={'07' * 32}", 200)
        other = await verifier.verify_bundle(fresh, **given)
        assert [check.name for check in other.failed] == ["bundle digest"]


async def test_a_machine_whose_configuration_was_refused_can_be_attested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as port:
        platform.publish(port.system, Attestable("fake_tdx", None, None))
        end_keys(port.table)
        bundle = await port.until("/v1/attestation?nonce=" + "07" * 32, 200)
        statement = parse_bundle(bundle).statement
        assert (statement.measured_config, statement.model, statement.role) == (bytes(32), "", "status")


@pytest.mark.parametrize("nonce", ["", "00" * 31, "00" * 33, "zz" * 32])
async def test_a_nonce_is_32_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonce: str) -> None:
    async with running(tmp_path, monkeypatch) as port:
        assert (await port.get(f"/v1/attestation?nonce={nonce}"))[0] == 400


async def test_posture_with_who_listens_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        check = PostureCheck("swap", True, "none", "only none")
        write(tmp_path, posture.FILE, json.dumps([check.to_dict()]))
        status, body = await port.get("/v1/posture")
        assert status == 200
        assert body["checks"] == [check.to_dict()]
        assert [found["passed"] for found in body["now"]] == [True]


async def test_the_worker_s_page_is_its_owner_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        assert (await port.get("/v1/worker/status"))[0] == 401
        key = "owner's key"
        digest = hashlib.sha256(key.encode()).hexdigest()
        write(tmp_path, f"/run/chrysalis/config/{configuration.OWNER_PAGE_FILE}", digest)
        assert (await port.get("/v1/worker/status", Authorization="Bearer other"))[0] == 401
        assert (await port.get("/v1/worker/control", Authorization=f"Bearer {key}"))[0] == 404
        monkeypatch.setattr(pages, "STATUS_PORT", 1)
        assert (await port.get("/v1/worker/status", Authorization=f"Bearer {key}"))[0] == 503


async def test_only_tls_1_3_and_only_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as port:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port.port.port, ssl=old)
        new = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        new.check_hostname, new.verify_mode = False, ssl.CERT_NONE
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"https://127.0.0.1:{port.port.port}/v1/stages", ssl=new, data=b"x") as answer,
        ):
            assert answer.status == 405
