"""What each kind of machine gets at boot, and which policies it fits."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from boot_machine import ME, machine

from appliance.boot import keys, platform
from appliance.boot.platform import DIRECTORY, TSM, Found
from appliance.config.models import TrustConfig
from appliance.errors import StageError
from appliance.lab.snp_machine import SnpMachine
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx

if TYPE_CHECKING:
    from pathlib import Path

USERS = {"worker": ME, "status": ME}
ROOT = "MAAA"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tdx", TSM),
        ("snp", TSM),
        ("azure", f"{DIRECTORY}/worker"),
        ("gcp", f"{DIRECTORY}/worker"),
        ("tpm", f"{DIRECTORY}/worker"),
        ("none", None),
    ],
)
def test_where_each_platform_makes_its_evidence(name: str, source: str | None) -> None:
    assert Found(name).source("worker") == source


@pytest.mark.parametrize("name", ["azure", "gcp"])
async def test_a_cloud_certifies_its_tpm_itself(tmp_path: Path, name: str) -> None:
    """Each service gets a directory for its key; no authority is asked, though one is named."""
    system = machine(tmp_path)
    base = tmp_path / DIRECTORY.lstrip("/")
    base.mkdir()
    await keys.make(system, Found(name), authority="http://127.0.0.1:1", users=USERS)
    assert {entry.name for entry in base.iterdir()} == {*keys.SERVICES, "logs.cbor"}
    for service in keys.SERVICES:
        assert stat.S_IMODE((base / service).stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["tdx", "snp"])
@pytest.mark.parametrize("has", [True, False])
async def test_a_machine_may_have_the_older_interface_alone(tmp_path: Path, has: bool, name: str) -> None:
    system = machine(tmp_path)
    entries = tmp_path / TSM.lstrip("/")
    if has:
        entries.mkdir(parents=True, exist_ok=True)
    await keys.make(system, Found(name), authority=None, users=USERS)
    assert not entries.exists() or stat.S_IMODE(entries.stat().st_mode) == 0o1777


class Machine:
    """A platform that answers in this process, launched with a value."""

    def __init__(self, name: str, carried: bytes) -> None:
        self.name = name
        self._snp = SyntheticSnp(machine=SnpMachine(host_data=carried)) if name == "snp" else None
        self._tdx = SyntheticTdx(registers={"mr_config_id": carried}) if name == "tdx" else None

    async def collect(self, report_data: bytes) -> bytes:
        if self._snp is not None:
            return self._snp.evidence(report_data)
        assert self._tdx is not None
        return self._tdx.quote(report_data)


DIGEST = bytes(range(32))


@pytest.mark.parametrize(
    ("name", "carried", "fits"),
    [
        ("tdx", bytes(48), True),
        ("tdx", DIGEST + bytes(16), True),
        ("tdx", DIGEST + bytes(15) + b"x", False),
        ("tdx", DIGEST[::-1] + bytes(16), False),
        ("snp", bytes(32), True),
        ("snp", DIGEST, True),
        ("snp", DIGEST[::-1], False),
    ],
)
async def test_a_machine_is_launched_for_its_configuration(
    monkeypatch: pytest.MonkeyPatch, name: str, carried: bytes, fits: bool
) -> None:
    monkeypatch.setattr(platform, "open_platform", lambda name: Machine(name, carried))
    if fits:
        await platform.launched_for(Found(name), DIGEST)
        return
    with pytest.raises(StageError, match={"tdx": "MRCONFIGID is", "snp": "HOST_DATA is"}[name]):
        await platform.launched_for(Found(name), DIGEST)


@pytest.mark.parametrize("name", ["azure", "gcp", "tpm", "none"])
async def test_other_machines_launches_carry_nothing_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(platform, "open_platform", lambda name: pytest.fail(f"{name} was asked"))
    await platform.launched_for(Found(name), DIGEST)


@pytest.mark.parametrize(
    ("trust", "fits"),
    [
        ({"policy": "tdx"}, {"tdx"}),
        ({"policy": "hardware"}, {"tdx", "snp", "azure", "gcp"}),
        ({"policy": "simulated", "development": True, "simulated_roots": [ROOT]}, {"tdx"}),
        ({"policy": "simulated", "development": True, "tpm_roots": [ROOT], "snp_roots": [ROOT]}, {"tpm", "snp"}),
    ],
)
def test_which_machines_fit_a_policy(trust: dict[str, object], fits: set[str]) -> None:
    known = TrustConfig.model_validate(trust)
    for name in ("tdx", "snp", "azure", "gcp", "tpm", "none"):
        if name in fits:
            platform.judge(Found(name), known)
        else:
            with pytest.raises(StageError, match=f"platform {name}"):
                platform.judge(Found(name), known)


@pytest.mark.parametrize(
    "trust",
    [
        {"policy": "hardware", "simulated_roots": [ROOT]},
        {"policy": "simulated", "development": True, "simulated_roots": [ROOT], "gpu_roots": [ROOT]},
        {"policy": "tdx", "gpu_roots": [ROOT], "rim_roots": [ROOT]},
        {"policy": "simulated", "development": True, "gpu_roots": [ROOT], "rim_roots": [ROOT]},
    ],
)
def test_roots_that_do_not_fit_the_policy_are_refused(trust: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="simulated"):
        TrustConfig.model_validate(trust)
    good = {"policy": "simulated", "development": True, "simulated_roots": [ROOT]}
    TrustConfig.model_validate(good | {"gpu_roots": [ROOT], "rim_roots": [ROOT]})
