"""From a configuration to sources; what a verifier without a network loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from collateral_support import always, http, serving
from pydantic import ValidationError

import attestation.collateral
from appliance.assembly import collateral_sources
from appliance.boot.gpu import own_sources
from appliance.config.guest import GuestHost
from appliance.config.models import HostConfig, WorkerHost
from appliance.lab.collateral_faults import Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.gpu_world import SyntheticGpus
from attestation.collateral import (
    CachedCollateral,
    CollateralSettings,
    DiskCache,
    Entry,
    FileCollateral,
    OfflineBundle,
    RimService,
    open_collateral,
    open_sources,
)
from attestation.collateral.intel import PccsCollateral
from attestation.collateral.sources import FirstOf
from attestation.collateral.vendors import AMD_KDS, INTEL_PCS, INTEL_ROOT_CRL
from attestation.errors import CollateralError

ROOT = Path(__file__).resolve().parents[2]
LITESERVER = {"address": "127.0.0.1:1", "key": "AAAA"}


def host(**more: object) -> HostConfig:
    return HostConfig.model_validate({"state_dir": "/nowhere", "liteservers": [LITESERVER], **more})


async def test_a_hosts_table_says_how_services_are_reached(tmp_path: Path) -> None:
    gpus = SyntheticGpus()
    name = next(iter(gpus.rims()))
    async with CollateralServer(gpus=gpus) as server:
        configured = host(state_dir=str(tmp_path), rim=server.url, collateral_access={"proxy": "off"})
        await collateral_sources(configured).rim.get(name)
        await collateral_sources(configured).rim.get(name)  # kept in the state directory
        assert server.asked[Service.RIM] == 1
        assert [entry.identity for entry in DiskCache(tmp_path / "collateral").entries()] == [name]
        elsewhere = {"proxy": "off", "cache_dir": str(tmp_path / "elsewhere")}
        await collateral_sources(host(rim=server.url, collateral_access=elsewhere)).rim.get(name)
        assert (tmp_path / "elsewhere").is_dir()
    with pytest.raises(CollateralError, match="no service for it is configured"):
        await collateral_sources(host()).rim.get(name)


def test_proxies_are_checked_when_they_are_configured_and_a_guest_names_no_place() -> None:
    assert host().collateral_access.proxy == "environment"
    for table in ({"proxy": "socks5://x"}, {"proxy": ""}, {"root_crl": "file:///x"}, {"else": 1}):
        with pytest.raises(ValidationError):
            host(collateral_access=table)
    guest = {"liteservers": [LITESERVER], "collateral_access": {"proxy": "http://10.0.2.2:3128"}}
    dumped = GuestHost.model_validate(guest).model_dump(mode="json", exclude={"time_authority", "owner_page_sha256"})
    worker = WorkerHost.model_validate({**dumped, "state_dir": "/x"})
    assert worker.collateral_access.proxy == "http://10.0.2.2:3128"
    for place in ({"cache_dir": "/etc"}, {"offline": "/etc/passwd"}):
        with pytest.raises(ValidationError):
            GuestHost.model_validate({**guest, "collateral_access": place})


async def test_a_guest_asks_for_its_gpus_through_its_hosts_proxy() -> None:
    async with serving(always(http(200, b"{}"))) as proxy:
        access = {"proxy": f"http://127.0.0.1:{proxy.port}"}
        guest = {"liteservers": [LITESERVER], "rim": "http://rim.test", "collateral_access": access}
        with pytest.raises(CollateralError):  # the answer is no manifest
            await own_sources(GuestHost.model_validate(guest)).rim.get("NV_X")
    assert [asked.target for asked in proxy.asked] == ["http://rim.test/v1/rim/NV_X"]


def test_defaults_are_the_vendors_and_intel_serves_its_roots_list_elsewhere() -> None:
    made = CollateralSettings()
    assert (made.tdx, made.kds) == (INTEL_PCS, AMD_KDS)
    assert made.rim is not None
    assert made.ocsp is not None
    assert PccsCollateral(INTEL_PCS)._root_crl == INTEL_ROOT_CRL
    assert PccsCollateral(INTEL_PCS + "/")._root_crl == INTEL_ROOT_CRL
    assert PccsCollateral("http://c:1/b/")._root_crl == "http://c:1/b/sgx/certification/v4/rootcacrl"
    assert PccsCollateral("http://c", root_crl="http://d/x")._root_crl == "http://d/x"


async def test_a_file_a_directory_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "00C06F112233-platform.json").write_bytes(b"in a file")
    settings = CollateralSettings(tdx=str(tmp_path), kds=None, rim=None, ocsp=None)
    found = open_sources(settings).tdx
    assert isinstance(found, FileCollateral)
    assert await found.get("00C06F112233", "platform") == b"in a file"
    nothing = open_sources(CollateralSettings.none())
    with pytest.raises(CollateralError, match="no service for it is configured"):
        await nothing.tdx.get("00C06F112233", "platform")
    with pytest.raises(CollateralError, match="expected 12 hex digits"):
        await nothing.tdx.get("../../etc", "platform")
    with pytest.raises(CollateralError, match="expected an address, a file"):
        open_sources(CollateralSettings(tdx=""))
    with pytest.raises(CollateralError):
        open_sources(CollateralSettings(kds="ftp://x"))
    assert isinstance(FirstOf(()), FirstOf)


async def test_one_text_means_a_service_a_file_a_bundle_or_the_makers(tmp_path: Path) -> None:
    entry = Entry(kind="rim", identity="NV_X", source="s", fetched=1, issued=1, expires=2, content=b"<xml/>")
    bundle, single = tmp_path / "bundle", tmp_path / "single.json"
    bundle.write_bytes(OfflineBundle.of([entry]).encode())
    single.write_bytes(b'{"tcb_info": 1}')
    assert await open_collateral(str(bundle)).rim.get("NV_X") == b"<xml/>"
    with pytest.raises(CollateralError, match="no service for it is configured"):
        await open_collateral(str(bundle)).tdx.get("00C06F112233", "platform")
    assert await open_collateral(str(single)).tdx.get("00C06F112233", "platform") == b'{"tcb_info": 1}'
    for text in (None, str(single), "http://127.0.0.1:9"):
        with pytest.raises(CollateralError, match="no source of reference manifests"):
            await open_collateral(text).rim.get("NV_X")
    assert isinstance(open_collateral("http://127.0.0.1:9").tdx, CachedCollateral)
    assert isinstance(open_collateral("vendors").rim, RimService)
    assert isinstance(open_collateral(str(tmp_path / "absent")).tdx, FileCollateral)
    bundle.write_bytes(b"\xa3junk")
    with pytest.raises(CollateralError, match="bundle of collateral cannot be read"):
        open_collateral(str(bundle))


SURFACE = """
    CachedCollateral CollateralSettings CollateralSource DiskCache Entry FileCollateral FirstOf Gathered KdsCollateral
    Keeper MalformedAnswerError Missing NotServedError OcspService OcspSource OfflineBundle OfflineCollateral
    PccsCollateral RimService RimSource ServiceRefusedError ServiceUnreachableError SnpCollateralSource Sources
    StaticCollateral gather open_collateral open_source open_sources
"""


def test_the_names_of_the_package_are_these_and_what_types_see_is_what_runs() -> None:
    assert sorted(attestation.collateral.__all__) == SURFACE.split()
    source = Path(attestation.collateral.__file__).read_text()
    seen = {
        alias.name: (node.module or "").rpartition(".")[2]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attestation.collateral.")
        for alias in node.names
    }
    assert seen == attestation.collateral._HOMES


def test_the_names_of_the_package_exist_and_an_unknown_one_is_none() -> None:
    for name in attestation.collateral.__all__:
        assert getattr(attestation.collateral, name).__module__.startswith("attestation")
    assert set(attestation.collateral.__all__) <= set(dir(attestation.collateral))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        attestation.collateral.nothing  # noqa: B018 - the attempt is the test


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import attestation.collateral", {"cryptography", "structlog", "http.client", "cbor2"}),
        ("from attestation.collateral import FileCollateral, Sources", {"http.client", "lxml"}),
        ("from attestation.collateral import open_sources, CollateralSettings", {"lxml", "signxml", "aiohttp"}),
        ("import appliance.cli.collateral", {"aiohttp", "pytoniq", "signxml"}),
    ],
)
def test_a_verifier_with_stapled_collateral_loads_no_client(code: str, absent: set[str]) -> None:
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())
