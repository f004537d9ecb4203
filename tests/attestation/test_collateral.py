from __future__ import annotations

import asyncio
import errno
import http.server
import json
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attest_support import NOW

from appliance.lab import tee_service
from attestation import claims, dcap, policy, quoting
from attestation.collateral import (
    CachedCollateral,
    FileCollateral,
    FirstOf,
    PccsCollateral,
    StaticCollateral,
    open_source,
)
from attestation.errors import CollateralError, CollectionError
from attestation.platforms import ConfigfsTdx, FakeTdx, SimulatedTdx, Tpm, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.lab.tee import SyntheticTdx

PLATFORM = ("00C06F112233", "platform")


async def test_files_are_read_by_platform_and_again_when_they_change(tmp_path: Path) -> None:
    single = tmp_path / "collateral.json"
    single.write_bytes(b"one")
    source = FileCollateral(single)
    assert await source.get(*PLATFORM) == b"one"
    single.write_bytes(b"another")
    assert await source.get(*PLATFORM) == b"another"
    (tmp_path / "00C06F112233-platform.json").write_bytes(b"two")
    folder = FileCollateral(tmp_path)
    assert await folder.get(*PLATFORM) == b"two"
    with pytest.raises(CollateralError, match="no collateral in"):
        await folder.get("00C06F112234", "platform")
    single.write_bytes(bytes(dcap.MAX_COLLATERAL + 1))
    with pytest.raises(CollateralError, match="at most"):
        await source.get(*PLATFORM)


@pytest.mark.parametrize(
    "platform", [("../../etc/pwd", "platform"), ("00C06F112233", "x/y"), ("00c06f112233", "platform")]
)
async def test_platforms_are_checked_before_they_become_paths(tmp_path: Path, platform: tuple[str, str]) -> None:
    for source in (FileCollateral(tmp_path), StaticCollateral(b""), PccsCollateral("http://127.0.0.1:9")):
        with pytest.raises(CollateralError, match="expected 12 hex digits"):
            await source.get(*platform)


class _Flaky:
    def __init__(self) -> None:
        self.calls = 0
        self.broken = False

    async def get(self, fmspc: str, ca: str) -> bytes:
        self.calls += 1
        if self.broken:
            raise CollateralError("down")
        return f"{fmspc}{ca}{self.calls}".encode()


async def test_a_cache_asks_again_when_old_and_survives_an_outage() -> None:
    clock = [NOW]
    flaky = _Flaky()
    cache = CachedCollateral(flaky, max_age=10, retry=5, limit=1, clock=lambda: clock[0])
    first = await cache.get(*PLATFORM)
    assert await cache.get(*PLATFORM) == first
    clock[0] += 11
    second = await cache.get(*PLATFORM)
    assert second != first
    clock[0] += 11
    flaky.broken = True
    assert await cache.get(*PLATFORM) == second
    flaky.broken = False
    clock[0] += 6
    await cache.get("00C06F112234", "platform")
    flaky.broken = True
    with pytest.raises(CollateralError, match="down"):
        await cache.get(*PLATFORM)
    flaky.broken = False
    calls = flaky.calls
    with pytest.raises(CollateralError, match="down"):  # remembered for five seconds
        await cache.get(*PLATFORM)
    assert flaky.calls == calls
    clock[0] += 6
    await cache.get(*PLATFORM)


class _Slow:
    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked: list[str] = []

    async def get(self, fmspc: str, ca: str) -> bytes:
        self.asked.append(fmspc + ca)
        if fmspc.startswith("F"):
            await self.release.wait()
        return b"x"


async def test_a_strangers_platform_makes_nobody_else_wait() -> None:
    slow = _Slow()
    cache = CachedCollateral(slow, max_asked=3)
    waiting = [asyncio.ensure_future(cache.get(f"F00000000{i % 2:03}", "platform")) for i in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(slow.asked) == 2  # six askers, two platforms
    assert await cache.get(*PLATFORM) == b"x"
    third = asyncio.ensure_future(cache.get("F00000000009", "platform"))
    await asyncio.sleep(0)
    with pytest.raises(CollateralError, match="being fetched"):
        await cache.get("F00000000010", "platform")
    waiting[0].cancel()  # one asker goes; the others still get their answer
    slow.release.set()
    assert await asyncio.gather(*waiting[1:], third) == [b"x"] * 6


async def test_sources_are_asked_in_order() -> None:
    flaky = _Flaky()
    flaky.broken = True
    assert await FirstOf((flaky, StaticCollateral(b"x"))).get(*PLATFORM) == b"x"
    with pytest.raises(CollateralError, match="down"):
        await FirstOf((flaky,)).get(*PLATFORM)
    with pytest.raises(CollateralError, match="none is configured"):
        await open_source(None).get(*PLATFORM)


@pytest.fixture
def service(world: SyntheticTdx) -> Iterator[tuple[str, dict[str, tuple[int, dict[str, str], bytes]]]]:
    """A caching service that serves the synthetic world in Intel's form; the table can be altered."""
    parts = json.loads(world.collateral_json())

    def chain(name: str) -> str:
        return urllib.parse.quote(parts[name])

    def signed(member: str, text: str, signature: str) -> bytes:
        return b'{"%s":%s,"signature":"%s"}' % (member.encode(), text.encode(), signature.encode())

    table: dict[str, tuple[int, dict[str, str], bytes]] = {
        "/base/sgx/certification/v4/pckcrl": (
            200,
            {"SGX-PCK-CRL-Issuer-Chain": chain("pck_crl_issuer_chain")},
            bytes.fromhex(parts["pck_crl"]),
        ),
        "/base/sgx/certification/v4/rootcacrl": (200, {}, parts["root_ca_crl"].encode()),
        "/base/tdx/certification/v4/tcb": (
            200,
            {"TCB-Info-Issuer-Chain": chain("tcb_info_issuer_chain")},
            signed("tcbInfo", parts["tcb_info"], parts["tcb_info_signature"]),
        ),
        "/base/tdx/certification/v4/qe/identity": (
            200,
            {"SGX-Enclave-Identity-Issuer-Chain": chain("qe_identity_issuer_chain")},
            signed("enclaveIdentity", parts["qe_identity"], parts["qe_identity_signature"]),
        ),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = table[self.path.partition("?")[0]]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/base", table
    server.shutdown()
    server.server_close()
    thread.join()


async def test_collateral_of_a_service_verifies_a_quote(
    world: SyntheticTdx, service: tuple[str, dict[str, tuple[int, dict[str, str], bytes]]]
) -> None:
    address, table = service
    source = open_source(address)
    quote = world.quote(bytes(64))
    collateral = await source.get(*dcap.platform_of(quote))
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    appraisal = chosen.appraise(quote, collateral, report_data=bytes(64), now=NOW)
    assert all(item.passed for item in appraisal.checks)
    tcb = "/base/tdx/certification/v4/tcb"
    good = table[tcb]
    for bad, message in (
        ((404, {}, b""), "status 404"),
        ((200, {}, good[2]), "without issuer chain"),
        ((200, good[1], b"{"), "not a signed"),
        ((200, good[1], b'{"signature":"00"}'), "holds no tcbInfo"),
        ((200, good[1], b'{"signature":"zz"}'), "not a signed"),
        ((200, good[1], bytes(dcap.MAX_COLLATERAL + 1)), "too much"),
    ):
        table[tcb] = bad
        with pytest.raises(CollateralError, match=message):
            await PccsCollateral(address).get(*PLATFORM)


async def test_a_service_out_of_reach_and_addresses_that_are_none() -> None:
    with pytest.raises(CollateralError, match="does not answer"):
        await PccsCollateral("http://127.0.0.1:9", timeout=1).get(*PLATFORM)
    for address in ("ftp://host", "http://", "file"):
        with pytest.raises(CollateralError, match="expected an http"):
            PccsCollateral(address)


async def test_the_quoting_service_answers_many_and_leaves_what_verifiers_need(
    world: SyntheticTdx, tmp_path: Path
) -> None:
    socket = tmp_path / "run" / "quote.sock"
    server = await tee_service.start(socket, world)
    assert socket.stat().st_mode & 0o777 == 0o600
    assert tee_service.root_path(socket).read_bytes() == world.root_der
    source = FileCollateral(tee_service.collateral_path(socket))
    platform = SimulatedTdx(socket)
    datas = [claims.certificate_report_data(bytes([i])) for i in range(8)]
    quotes = await asyncio.gather(*(platform.collect(data) for data in datas))
    collateral = await source.get(*dcap.platform_of(quotes[0]))
    for data, quote in zip(datas, quotes, strict=True):
        found = dcap.verify_quote(quote, collateral, root_der=world.root_der, now=NOW)
        assert found.quote.report.report_data == data
    for request in (b"GET / HTTP/1.1" + bytes(54), b"CQR2" + bytes(64)):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(request)
        with pytest.raises(CollectionError, match="not a request"):
            await quoting.read_answer(reader)
        writer.close()
    server.close()
    await asyncio.sleep(0.05)
    with pytest.raises(CollectionError, match="gives no quote"):
        await SimulatedTdx(tmp_path / "absent").collect(bytes(64))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\x02\x00\x00\x00\x00", "status 2"),
        (b"\x00\xff\xff\xff\x00", "at most 32768"),
        (b"\x01\x00\x10\x00\x00", "at most 1024"),
        (quoting.encode_refusal("go away"), "go away"),
    ],
)
async def test_answers_of_a_quoting_service_are_bounded(answer: bytes, message: str) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer)
    reader.feed_eof()
    with pytest.raises(CollectionError, match=message):
        await quoting.read_answer(reader)


async def test_platforms_by_policy(tmp_path: Path) -> None:
    assert open_platform("any") is None
    assert isinstance(open_platform("fake_tdx"), FakeTdx)
    assert isinstance(open_platform("simulated", str(tmp_path / "s")), SimulatedTdx)
    assert isinstance(open_platform("tdx"), ConfigfsTdx)
    assert open_platform("none") is None
    assert isinstance(open_platform("tpm", directory=tmp_path), Tpm)
    assert isinstance(open_platform("tpm", str(tmp_path), tcti="swtpm"), Tpm)
    for policy_name, source in (("simulated", None), ("tpm", None), ("sgx", None)):
        with pytest.raises(CollectionError):
            open_platform(policy_name, source)
    for platform in (FakeTdx(), SimulatedTdx(tmp_path / "s"), ConfigfsTdx(tmp_path)):
        with pytest.raises(CollectionError, match="expected 64"):
            await platform.collect(b"short")


class Configfs:
    """A directory that behaves as configfs does: an entry comes and goes with its attributes, writes are counted."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, quote: bytes) -> None:
        self.root, self.quote, self.provider = root, quote, "tdx_guest"
        self.generation: int | str = 0
        self.strangers = 0
        """Writes of others between ours and the answer."""
        self.busy = dict.fromkeys(("inblob", "outblob"), 0)
        self.written: list[bytes] = []
        real, real_rmdir = Path.mkdir, Path.rmdir

        def mkdir(path: Path, *args: object) -> None:
            real(path)
            (path / "provider").write_text(self.provider + "\n")

        def rmdir(path: Path) -> None:
            for entry in path.iterdir():
                entry.unlink()
            real_rmdir(path)

        real_text = Path.read_text

        def read_text(path: Path, *args: Any, **options: Any) -> str:
            return f"{self.generation}\n" if path.name == "generation" else real_text(path, *args, **options)

        def write_bytes(path: Path, data: bytes) -> int:
            self._wait("inblob")
            self.written.append(data)
            if isinstance(self.generation, int):
                self.generation += 1 + self.strangers
            return len(data)

        def read_bytes(path: Path) -> bytes:
            self._wait("outblob")
            return self.quote

        for name, replaced in (
            ("mkdir", mkdir), ("rmdir", rmdir), ("read_text", read_text),
            ("write_bytes", write_bytes), ("read_bytes", read_bytes),
        ):  # fmt: skip
            patch.setattr(Path, name, replaced)

    def _wait(self, name: str) -> None:
        if self.busy[name]:
            self.busy[name] -= 1
            raise OSError(errno.EBUSY, "Device or resource busy")

    async def collect(self, **options: Any) -> bytes:
        return await ConfigfsTdx(self.root, **options).collect(bytes(64))


QUOTE = bytes(632) + b"\x04\0\0\0" + b"abcd"


@pytest.fixture
def configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configfs:
    return Configfs(tmp_path, monkeypatch, QUOTE + bytes(70))


async def test_the_kernels_interface(configfs: Configfs) -> None:
    assert await configfs.collect() == QUOTE
    assert configfs.written == [bytes(64)]
    assert not list(configfs.root.iterdir())


async def test_a_busy_kernel_is_asked_again_without_another_request(configfs: Configfs) -> None:
    configfs.busy = {"inblob": 2, "outblob": 3}
    assert await configfs.collect() == QUOTE
    assert configfs.written == [bytes(64)]
    configfs.busy["outblob"] = 10**6
    with pytest.raises(CollectionError, match="no quote within"):
        await configfs.collect(timeout=0.1)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("provider", "sev_guest", "provider 'sev_guest'"),
        ("strangers", 1, "in generation 2, expected 1 to .* in 1"),
        ("generation", "x", "generation 'x', expected a number"),
        ("quote", b"", "0 bytes"),
    ],
)
async def test_what_the_kernels_interface_may_not_say(configfs: Configfs, name: str, value: object, words: str) -> None:
    setattr(configfs, name, value)
    with pytest.raises(CollectionError, match=words):
        await configfs.collect()


async def test_no_kernels_interface_at_all(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="takes no request"):
        await ConfigfsTdx(tmp_path / "absent").collect(bytes(64))
