"""Synthetic GPUs behind a socket, and a verdict over them with collateral by HTTP, as in the field."""

from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab import gpu_world_service, tee_service
from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import GpuAttack, Mode
from appliance.lab.tee import SyntheticTdx
from appliance.lab.world import World
from attestation import claims, policy
from attestation.claims import WorkloadStatement
from attestation.collateral.opening import open_sources
from attestation.collateral.settings import CollateralSettings
from attestation.errors import CollectionError
from attestation.evidence import MAX_DEVICES, build_bundle, parse_bundle
from attestation.gpu.evidence import MAX_EVIDENCE
from attestation.gpu.rules import GpuCount, gpu_rules
from attestation.material import stapling
from attestation.platforms import SimulatedTdx
from attestation.platforms.simulated_gpus import (
    SimulatedGpus,
    decode_request,
    devices_path,
    encode_answer,
    encode_request,
    read_answer,
)
from attestation.ratls import Identity
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from attestation.collateral.sources import Sources
    from attestation.verdict import Verdict

NONCES = [bytes([index + 1]) * 32 for index in range(MAX_DEVICES)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The development policies warn; that is not what these tests are about."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def gpus() -> SyntheticGpus:
    return SyntheticGpus(2, switches=1)


async def ended(*servers: asyncio.Server) -> None:
    """Close servers, after their far ends noticed that connections are closed."""
    await asyncio.sleep(0.05)
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Callable[[Any], Any]]:
    servers: list[asyncio.Server] = []

    async def serve(devices: Any) -> Path:
        path = tmp_path / f"{len(servers)}.devices"
        servers.append(await gpu_world_service.start(path, devices))
        return path

    yield serve
    await ended(*servers)


async def test_evidence_comes_in_order_over_its_nonces(gpus: SyntheticGpus, served: Any) -> None:
    path = await served(gpus)
    assert path.stat().st_mode & 0o777 == 0o600
    found = await SimulatedGpus(path).collect(NONCES.__getitem__)
    own = await gpus.collect(NONCES.__getitem__)
    assert [len(item) for item in found] == [len(item) for item in own]
    assert all(nonce in item for item, nonce in zip(found, NONCES, strict=False))


async def test_a_refusal_says_why(served: Any) -> None:
    path = await served(SyntheticGpus(attack=GpuAttack(mode=Mode.OFF)))
    with pytest.raises(CollectionError, match="refused: the GPU is not in confidential-computing mode"):
        await SimulatedGpus(path).collect(NONCES.__getitem__)


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="gives no evidence: FileNotFoundError"):
        await SimulatedGpus(tmp_path / "none").collect(NONCES.__getitem__)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\0\1\0\0", "IncompleteReadError"),
        (b"\0\x11", "17 devices"),
        (b"\2\0", "status 2"),
        (b"\0\1" + (MAX_EVIDENCE + 1).to_bytes(4, "little"), f"{MAX_EVIDENCE + 1} bytes"),
        (b"\1\2no", "refused: no"),
        (b"", "IncompleteReadError"),
    ],
)
async def test_answers_that_are_none(tmp_path: Path, answer: bytes, words: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(handle, path=tmp_path / "s")
    with pytest.raises(CollectionError, match=words):
        await SimulatedGpus(tmp_path / "s").collect(NONCES.__getitem__)
    await ended(server)


async def test_a_silent_service_is_given_up(tmp_path: Path) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(handle, path=tmp_path / "s")
    with pytest.raises(CollectionError, match="TimeoutError"):
        await SimulatedGpus(tmp_path / "s", timeout=0.05).collect(NONCES.__getitem__)
    await ended(server)


async def test_a_request_that_is_none_is_refused(gpus: SyntheticGpus, served: Any) -> None:
    reader, writer = await asyncio.open_unix_connection(await served(gpus))
    writer.write(b"GET / HTTP/1.1\r\n".ljust(4 + MAX_DEVICES * 32))
    with pytest.raises(CollectionError, match="refused: not a request"):
        await read_answer(reader)
    writer.close()


def test_what_does_not_fit_is_not_sent() -> None:
    with pytest.raises(CollectionError, match="not 16 of 32 bytes"):
        encode_request(NONCES[:-1])
    with pytest.raises(CollectionError, match="at most 16 fit"):
        encode_answer([b""] * 17)
    assert decode_request(encode_request(NONCES)) == NONCES


@given(devices=st.lists(st.binary(max_size=300), max_size=MAX_DEVICES), cut=st.integers(0, 5000))
async def test_answers_survive_and_cut_ones_do_not(devices: list[bytes], cut: int) -> None:
    whole = encode_answer(devices)
    reader = asyncio.StreamReader()
    reader.feed_data(whole)
    reader.feed_eof()
    assert await read_answer(reader) == devices
    if cut < len(whole):
        reader = asyncio.StreamReader()
        reader.feed_data(whole[:cut])
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError):
            await read_answer(reader)


class Site:
    """A machine behind its two sockets, and the vendors' services behind HTTP."""

    def __init__(self, directory: Path, gpus: SyntheticGpus) -> None:
        self.tdx, self.gpus = SyntheticTdx(), gpus
        self.socket = directory / "quotes"
        self.server = CollateralServer(tdx=self.tdx, gpus=gpus)

    def sources(self, **settings: Any) -> Sources:
        url = self.server.url
        asked = {"tdx": url, "kds": None, "rim": url, "ocsp": self.server.ocsp_url, "proxy": "off", "attempts": 1}
        return open_sources(CollateralSettings(**{**asked, **settings}))

    async def verdict(self, *, stapled: bool) -> Verdict:
        """A bundle as a worker makes it, judged as a client does: with its own sources, or with what was stapled."""
        platform = SimulatedTdx(self.socket)
        identity = await Identity.create(platform)
        image = claims.image_hash(parse_quote(await platform.collect(bytes(64))).report.measurements)
        nonce = os.urandom(32)
        bundle = await build_bundle(
            platform,
            identity,
            WorkloadStatement(image=image, measured_config=bytes(32)),
            nonce,
            b"",
            devices=SimulatedGpus(devices_path(self.socket)),
            staple=stapling(self.sources()) if stapled else None,
        )
        assert bool(parse_bundle(bundle).collateral.rims) is stapled or self.server.asked[Service.RIM]
        chosen = policy.for_name("simulated", simulated_roots=(self.tdx.root_der,), gpu_roots=self.gpus.roots())
        rules = gpu_rules(count=GpuCount(2, 2))
        own = self.sources(tdx=None, rim=None, ocsp=None) if stapled else self.sources()
        return await Verifier(chosen.demanding(*rules), own).verify_bundle(
            bundle, nonce=nonce, public_key=identity.public_key
        )


@pytest.fixture
async def site(tmp_path: Path, gpus: SyntheticGpus) -> AsyncIterator[Site]:
    made = Site(tmp_path, gpus)
    async with made.server:
        quotes = await tee_service.start(made.socket, made.tdx)
        devices = await gpu_world_service.start(devices_path(made.socket), gpus)
        yield made
        await ended(quotes, devices)


@pytest.mark.parametrize("stapled", [True, False])
async def test_a_machine_with_gpus_is_accepted(site: Site, *, stapled: bool) -> None:
    verdict = await site.verdict(stapled=stapled)
    assert not verdict.failed
    assert verdict.devices is not None
    assert tuple(device.device_id for device in verdict.devices) == site.gpus.device_ids


@pytest.mark.parametrize(
    ("service", "fault", "check"),
    [
        (Service.RIM, Fault.STALE, "gpu driver manifest"),
        (Service.RIM, Fault.WRONG, "gpu driver manifest"),
        (Service.RIM, Fault.NOT_FOUND, "gpu driver manifest"),
        (Service.RIM, Fault.DOWN, "gpu driver manifest"),
        (Service.RIM, Fault.GARBAGE, "gpu driver manifest"),
        (Service.OCSP, Fault.STALE, "gpu certificate revocation"),
        (Service.OCSP, Fault.WRONG, "gpu certificate revocation"),
        (Service.OCSP, Fault.REVOKED, "gpu certificate revocation"),
        (Service.OCSP, Fault.DOWN, "gpu certificate revocation"),
        (Service.OCSP, Fault.TRUNCATED, "gpu certificate revocation"),
    ],
    ids=lambda row: getattr(row, "name", None),
)
async def test_a_bad_service_refuses_the_machine(site: Site, service: Service, fault: Fault, check: str) -> None:
    """Control: the test before this one. Collateral comes by the production client, whatever it makes of the fault."""
    site.server.fail(service, fault)
    verdict = await site.verdict(stapled=False)
    assert check in {one.name for one in verdict.failed}
    assert not verdict.accepted


async def test_a_network_runs_machines_with_gpus(tmp_path: Path, gpus: SyntheticGpus) -> None:
    """What the demonstration's world starts: both sockets of a machine, and the vendors' services."""
    (tmp_path / "network.json").write_text(json.dumps({"liteservers": []}))
    world = World(tmp_path, tmp_path / "network.json", "http://127.0.0.1:1")
    measured: Any = SimpleNamespace(digest=lambda: bytes(32))
    try:
        await world.machine("worker", measured, gpus)
        await world.machine("gateway", measured)
        found = await SimulatedGpus(devices_path(world.quotes("worker"))).collect(NONCES.__getitem__)
        assert len(found) == 3
        assert not devices_path(world.quotes("gateway")).exists()
        assert (await world.services(gpus)).port
        await asyncio.sleep(0.05)
    finally:
        await world.__aexit__(None, None, None)
