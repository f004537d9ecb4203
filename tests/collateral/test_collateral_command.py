"""``chrysalis collateral`` against the services of synthetic worlds."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from appliance.cli.main import build
from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.snp_machine import SnpMachine
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation import dcap
from attestation.collateral.disk import DiskCache
from attestation.collateral.offline import OfflineBundle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path / "home" / "collateral"


@pytest.fixture(scope="module")
def tdx() -> SyntheticTdx:
    return SyntheticTdx()


@pytest.fixture(scope="module")
def snp() -> SyntheticSnp:
    """Its reports do not say their product: those of version 2."""
    return SyntheticSnp(machine=SnpMachine(version=2))


@pytest.fixture(scope="module")
def gpus() -> SyntheticGpus:
    return SyntheticGpus()


@pytest.fixture
async def server(tdx: SyntheticTdx, snp: SyntheticSnp, gpus: SyntheticGpus) -> AsyncIterator[CollateralServer]:
    async with CollateralServer(tdx=tdx, snp=snp, gpus=gpus) as running:
        yield running


async def run(*words: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, build("collateral"), ["collateral", *map(str, words)])


def services(server: CollateralServer) -> list[str]:
    url = server.url
    return ["--pcs", url, "--kds", url, "--rim-service", url, "--ocsp", server.ocsp_url, "--proxy", "off"]


def result(answer: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found


async def test_fetch_show_and_export_of_all_that_can_be_named(  # noqa: PLR0917 - three worlds, their server, two places
    server: CollateralServer, tdx: SyntheticTdx, snp: SyntheticSnp, gpus: SyntheticGpus, cache: Path, tmp_path: Path
) -> None:
    fmspc = dcap.platform_of(tdx.quote(bytes(64)))[0]
    (tmp_path / "device").write_bytes((await gpus.collect(lambda _: bytes(32)))[0])
    (tmp_path / "quote").write_bytes(tdx.quote(bytes(64)))
    (tmp_path / "report").write_text(snp.report(bytes(64)).hex() + "\n")
    named = [tmp_path / "device", tmp_path / "quote", "--fmspc", fmspc.lower(), "--snp-report", tmp_path / "report"]
    answer = await run("fetch", *named, *services(server), "--json")
    assert answer.exit_code == 0, answer.output
    kinds = {piece["kind"] for piece in result(answer)["pieces"]}
    assert kinds == {"tdx", "snp-vcek", "snp-chain", "snp-crl", "rim", "ocsp"}
    assert all(piece["state"] == "holds" for piece in result(answer)["pieces"])
    assert server.asked[Service.TCB_INFO] == 1  # the quote and --fmspc mean one platform
    asked = server.asked.total()

    assert (await run("fetch", *named, *services(server))).exit_code == 0
    # Reports of version 2 do not say their product: Milan, which does not know the chip, is asked anew.
    assert server.asked.total() == asked + 1

    table = await run("show")
    assert table.exit_code == 0
    for word in ("kind", "identity", "expires", "age", "source", f"{fmspc}-platform", "127.0.0.1", "holds"):
        assert word in table.stdout
    shown = result(await run("show", "--json"))
    assert {piece["kind"] for piece in shown["pieces"]} == kinds

    exported = await run("export", tmp_path / "bundle", "--json")
    assert exported.exit_code == 0
    bundle = OfflineBundle.parse((tmp_path / "bundle").read_bytes())
    assert {entry.kind for entry in bundle.entries} == kinds
    assert bundle.expires > time.time()
    assert result(await run("show", "--bundle", tmp_path / "bundle", "--json"))["pieces"] == shown["pieces"]

    some = await run("export", tmp_path / "some", "--rim", next(iter(gpus.rims())), *services(server), "--again")
    assert some.exit_code == 0
    assert "asking 127.0.0.1 for rim NV_GPU_" in some.stderr
    assert "1 pieces, complete until" in some.stdout
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert cache.is_dir()


async def test_what_is_missing_is_named_and_the_exit_says_so(
    server: CollateralServer, gpus: SyntheticGpus, cache: Path, tmp_path: Path
) -> None:
    good = next(iter(gpus.rims()))
    answer = await run("fetch", "--rim", good, "--rim", "NV_GPU_VBIOS_0", *services(server), "--json")
    assert answer.exit_code == 1
    found = result(answer)
    assert (found["ok"], [piece["identity"] for piece in found["pieces"]]) == (False, [good])
    assert found["missing"][0]["what"] == "manifest NV_GPU_VBIOS_0"
    assert "status 404" in found["missing"][0]["reason"]
    assert "no reference values" in found["missing"][0]["hint"]
    assert "missing: manifest NV_GPU_VBIOS_0" in answer.stderr
    nobody = await run("fetch", "--rim", "NV_X", "--rim-service", "none", "--json")
    assert "no service for it is configured" in result(nobody)["missing"][0]["reason"]
    junk = tmp_path / "junk"
    junk.write_bytes(b"\x04\x00 no quote")
    assert "TDX collateral" in result(await run("fetch", junk, *services(server), "--json"))["missing"][0]["what"]
    assert cache.is_dir()


async def test_an_old_piece_is_used_and_said_so_while_the_service_is_down(
    server: CollateralServer, gpus: SyntheticGpus, cache: Path
) -> None:
    name = next(iter(gpus.rims()))
    await run("fetch", "--rim", name, *services(server))
    (entry,) = DiskCache(cache).entries()
    DiskCache(cache).write(replace(entry, fetched=entry.fetched - 400 * 86400, expires=time.time() - 60))
    server.fail(Service.RIM, Fault.DOWN)
    kept = await run("fetch", "--rim", name, *services(server), "--json")
    assert kept.exit_code == 0
    assert "the service failed, an older one is used" in kept.stderr
    assert result(kept)["pieces"][0]["state"] == "ended"
    assert result(kept)["pieces"][0]["age"] == "400 d"
    forced = await run("fetch", "--rim", name, *services(server), "--again")
    assert forced.exit_code == 1
    assert "does not answer" in forced.stderr
    assert "nothing to export" in str((await run("export", cache / "x")).exception)
    server.fail(Service.RIM, None)
    assert result(await run("fetch", "--rim", name, *services(server), "--json"))["pieces"][0]["state"] == "holds"


async def test_a_revoked_certificate_is_told_before_any_verdict(
    server: CollateralServer, gpus: SyntheticGpus, cache: Path, tmp_path: Path
) -> None:
    """Control: without the fault each of them is good, and nothing is said."""
    (tmp_path / "device").write_bytes((await gpus.collect(lambda _: bytes(32)))[0])
    good = result(await run("fetch", tmp_path / "device", *services(server), "--json"))["pieces"]
    assert {piece["state"] for piece in good} == {"holds"}
    server.fail(Service.OCSP, Fault.REVOKED)
    bad = result(await run("fetch", tmp_path / "device", *services(server), "--again", "--json"))["pieces"]
    assert {piece["state"] for piece in bad if piece["kind"] == "ocsp"} == {"holds: revoked"}
    assert cache.is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch"], "nothing to fetch is named"),
        (["fetch", "/nowhere"], "No such file"),
        (["fetch", "--rim", "X", "--rim-service", "ftp://x"], "expected an http or https address"),
        (["fetch", "--rim", "X", "--proxy", "socks5://x"], "expected http://host:port"),
        (["export", "/nowhere/file"], "nothing to export"),
        (["show", "--bundle", "/nowhere"], "No such file"),
    ],
)
def test_wrong_use_is_an_error_without_a_traceback(words: list[str], message: str, cache: Path) -> None:
    environment = {**os.environ, "CHRYSALIS_HOME": str(cache.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "collateral", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


async def test_nothing_is_kept_yet(cache: Path) -> None:
    answer = await run("show")
    assert answer.exit_code == 0
    assert f"{cache}: nothing is there" in answer.stdout.replace("\n", "")
