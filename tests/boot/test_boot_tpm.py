"""A real software TPM: register 14 before anything else, a certified key for each service, logs that replay."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from boot_machine import ME, machine, members
from tpm_support import software_tpm, verifier

from appliance.boot import configuration, keys
from appliance.boot.configuration import Handed
from appliance.boot.platform import DIRECTORY, Found
from appliance.lab.tpm_world import TpmWorld
from attestation.platforms import Tpm
from attestation.platforms.tpm import CHAIN_FILE
from attestation.ratls import Identity
from attestation.tpm import logs, references
from measurements.tpm import REFUSED_CONFIGURATION, configuration_register, replay

if TYPE_CHECKING:
    from pathlib import Path

USERS = {"worker": ME, "status": ME}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TpmWorld:
    return TpmWorld(tmp_path_factory.mktemp("world"))


async def test_a_boot_on_a_tpm_ends_in_evidence_that_verifies(tmp_path: Path, world: TpmWorld) -> None:
    system = machine(tmp_path)
    base = tmp_path / DIRECTORY.lstrip("/")
    base.mkdir()
    config = configuration.check(Handed("volume", members()))
    with software_tpm(world) as tpm:
        own_log = logs.LogFiles(own=system.path(str(logs.OWN_LOG)))
        await configuration.bind(Tpm(tpm.tcti, base / "boot", files=own_log), config)
        async with world.serve() as port:
            authority = f"http://127.0.0.1:{port}"
            await keys.make(system, Found("tpm"), authority=authority, users=USERS, tcti=tpm.tcti)
        assert not (base / "boot").exists()
        snapshot = logs.BootLogs.decode((base / "logs.cbor").read_bytes())
        assert [event.register for event in snapshot.system] == [14]
        assert replay([event.digest for event in snapshot.system]) == configuration_register(config.measured.digest())
        for service in keys.SERVICES:
            assert stat.S_IMODE((base / service).stat().st_mode) == 0o700
            assert (base / service / CHAIN_FILE).exists()
            # No authority: what the boot left is enough for evidence.
            platform = Tpm(tpm.tcti, base / service, snapshot=base / "logs.cbor")
            registers = await platform.registers()
            assert registers[14] == configuration_register(config.measured.digest())
            identity = await Identity.create(platform)
            verdict = await verifier(world).verify_certificate(identity.certificate)
            assert [check.name for check in verdict.failed] == []
            assert verdict.image_hash == references.image_hash(registers)


async def test_a_refused_configuration_is_in_the_register_too(tmp_path: Path, world: TpmWorld) -> None:
    """Whoever breaks into a service of such a machine cannot give it another's register afterwards."""
    config = configuration.check(Handed("volume", members()))
    wanted = configuration_register(config.measured.digest())
    with software_tpm(world) as tpm:
        platform = Tpm(tpm.tcti, tmp_path / "keys", files=logs.LogFiles(own=tmp_path / "log"))
        await configuration.bind(platform, None)
        first = (await platform.registers())[14]
        assert first == replay([REFUSED_CONFIGURATION])
        await configuration.bind(platform, config)
        assert (await platform.registers())[14] not in {wanted, first}
