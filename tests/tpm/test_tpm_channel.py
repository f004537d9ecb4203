"""TPM evidence where it is used: certificates, handshakes, fresh bundles, the command line, the configuration."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING

import pytest
import tpm_support as support
from tpm_images import IMAGE, OTHER_KERNEL
from typer.testing import CliRunner

from appliance import assembly
from appliance.cli.main import build
from appliance.config import HostConfig, TpmReference, TrustConfig
from appliance.lab.tee import SyntheticTdx
from attestation import policy
from attestation.batch import EvidenceMaker
from attestation.certificate import MAX_CERTIFICATE
from attestation.claims import WorkloadStatement
from attestation.collateral import StaticCollateral
from attestation.errors import RefusedError
from attestation.evidence import parse_bundle
from attestation.platforms import FakeTdx, Tpm
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.tpm import references
from attestation.verifier import Verifier
from measurements import tpm as predictor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.lab.tpm_world import TpmWorld
    from measurements.tpm import TpmPrediction


@pytest.fixture
async def platform(world: TpmWorld, made: support.Made) -> AsyncIterator[Tpm]:
    async with support.platform(world, made.tpm) as opened:
        yield opened


def statement(prediction: TpmPrediction) -> WorkloadStatement:
    registers = {**prediction.registers, 14: predictor.configuration_register(support.MEASURED)}
    return WorkloadStatement(image=references.image_hash(registers), measured_config=support.MEASURED)


async def test_a_certificate_carries_tpm_evidence(world: TpmWorld, platform: Tpm, prediction: TpmPrediction) -> None:
    identity = await Identity.create(platform)
    assert len(identity.certificate) < 6144 < MAX_CERTIFICATE
    judge = support.verifier(world, support.reference(prediction))
    verdict = await judge.verify_certificate(identity.certificate, role="client")
    verdict.require()
    assert verdict.image_hash == statement(prediction).image
    assert verdict.assurance == "none"
    lines = verdict.explain()
    assert lines[0].startswith("no assurance")
    assert any(line.startswith("--   firmware (PCR 0 to 3, 5 to 7)") for line in lines)
    listed = json.loads(verdict.to_json())["checks"]
    assert {check["checked"] for check in listed} == {True, False}
    # Another peer's certificate over this quote: the key is bound.
    stranger = await Identity.create(FakeTdx())
    assert not (await judge.verify_certificate(stranger.certificate, role="client")).accepted


async def test_a_fresh_bundle_carries_the_logs(world: TpmWorld, platform: Tpm, prediction: TpmPrediction) -> None:
    identity = await Identity.create(platform)
    maker = EvidenceMaker(platform, identity, statement=lambda: statement(prediction), block_hash=lambda: b"")
    first, second = await asyncio.gather(maker.bundle(b"1" * 32), maker.bundle(b"2" * 32))
    await maker.close()
    judge = support.verifier(world, support.reference(prediction))
    verdict = await judge.verify_bundle(first, nonce=b"1" * 32, public_key=identity.public_key)
    verdict.require()
    assert parse_bundle(first).platform == "tpm"
    assert next(check.seen for check in verdict.checks if check.name == "event log") == "replays"
    assert verdict.expires_at < time.time() + 8 * 86400
    assert (await judge.verify_bundle(second, nonce=b"2" * 32, public_key=identity.public_key)).accepted
    replayed = await judge.verify_bundle(first, nonce=b"2" * 32, public_key=identity.public_key)
    assert [check.name for check in replayed.failed] == ["nonce"]


async def test_two_tpm_machines_shake_hands_and_a_changed_one_is_refused(
    world: TpmWorld, platform: Tpm, prediction: TpmPrediction
) -> None:
    identity = await Identity.create(platform)
    judge = support.verifier(world, support.reference(prediction))
    listener = RatlsListener(identity, judge, 4)
    server = await listener.serve(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await RatlsDialer(identity, judge).connect(asyncio.Protocol, "127.0.0.1", port)
    assert transport.get_extra_info("peer").image_hash == statement(prediction).image
    transport.abort()
    other = predictor.predict(OTHER_KERNEL, boot="disk")
    stricter = support.verifier(world, support.reference(other))
    with pytest.raises(RefusedError, match=r"PCR 4 \(what firmware started") as caught:
        await RatlsDialer(identity, stricter).connect(asyncio.Protocol, "127.0.0.1", port)
    assert [check.name[:6] for check in caught.value.verdict.failed] == ["PCR 4 ", "PCR 11"]
    server.close()
    await asyncio.sleep(0.05)


async def test_one_policy_takes_both_kinds_of_machine(world: TpmWorld, platform: Tpm) -> None:
    machine = SyntheticTdx()

    class Simulated:
        name = "simulated"

        async def collect(self, report_data: bytes) -> bytes:
            return machine.quote(report_data)

    both = policy.for_name("simulated", simulated_roots=(machine.root_der,), tpm_roots=world.roots)
    judge = Verifier(both, StaticCollateral(machine.collateral_json()))
    for kind in (platform, Simulated()):
        identity = await Identity.create(kind)
        assert (await judge.verify_certificate(identity.certificate)).accepted


async def test_the_command_line_shows_every_check(
    world: TpmWorld, platform: Tpm, tmp_path: Path, prediction: TpmPrediction
) -> None:
    identity = await Identity.create(platform)
    maker = EvidenceMaker(platform, identity, statement=lambda: statement(prediction), block_hash=lambda: b"")
    files = {
        "bundle": await maker.bundle(bytes(32)),
        "root.der": world.roots[0],
        "good.efi": IMAGE,
        "bad.efi": OTHER_KERNEL,
    }
    await maker.close()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = ["verify", str(tmp_path / "bundle"), "--policy", "simulated", "--tpm-root", str(tmp_path / "root.der")]

    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(build(), [*options, *more])
        return result.exit_code, result.output

    code, said = await asyncio.to_thread(run, "--uki", str(tmp_path / "good.efi"))
    assert code == 0, said
    code, said = await asyncio.to_thread(run, "--uki", str(tmp_path / "bad.efi"), "--json")
    answer = json.loads(said.splitlines()[-1])
    assert (code, answer["ok"]) == (1, False)
    assert [check["name"][:6] for check in answer["checks"] if not check["passed"]] == ["PCR 4 ", "PCR 11"]
    code, _ = await asyncio.to_thread(run, "--uki", str(tmp_path / "good.efi"), "--boot", "direct")
    assert code == 1


def test_configuration_becomes_policy_and_platform(
    world: TpmWorld, made: support.Made, tmp_path: Path, prediction: TpmPrediction
) -> None:
    values = {f"pcr{register}": value.hex() for register, value in prediction.registers.items()}
    trust = TrustConfig(
        policy="simulated",
        development=True,
        tpm_roots=tuple(base64.b64encode(root).decode() for root in world.roots),
        tpm_references=(TpmReference(name="release 1", **values),),
    )
    host = HostConfig.model_validate(
        {
            "state_dir": tmp_path,
            "liteservers": [{"address": "127.0.0.1:1", "key": ""}],
            "platform": "tpm",
            "attestation_ca": "http://127.0.0.1:1",
        }
    )
    assert isinstance(assembly.own_platform(trust, host), Tpm)
    appraisal = assembly.open_verifier(trust, host).policy.appraise(
        made.certificate_form, None, report_data=made.report_data, now=time.time()
    )
    assert all(check.passed for check in appraisal.checks)
    assert "release 1" in next(check.expected for check in appraisal.checks if check.name.startswith("PCR 4"))
    assert assembly.own_platform(trust, host.model_copy(update={"platform": "none"})) is None
    reference = trust.tpm_references[0]
    assert 14 not in assembly.tpm_reference(reference).registers
    pinned = reference.model_copy(update={"pcr14": "0" * 64})
    assert assembly.tpm_reference(pinned).registers[14] == bytes(32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "tdx", "tpm_roots": ("AA==",)},
        {"policy": "simulated", "development": True},
        {"policy": "simulated", "tpm_roots": ("AA==",)},
        {"policy": "simulated", "development": True, "simulated_roots": ("AA==",), "tpm_references": ("REFERENCE",)},
        {"policy": "simulated", "development": True, "tpm_roots": ("AA==",), "tpm_references": ("SHORT",)},
    ],
)
def test_trust_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    good = {"name": "r", "pcr4": "0" * 64, "pcr9": "0" * 64, "pcr11": "0" * 64}
    kinds = {"REFERENCE": good, "SHORT": {**good, "pcr4": "0"}}
    filled = {
        key: tuple(kinds.get(item, item) for item in value) if isinstance(value, tuple) else value
        for key, value in wrong.items()
    }
    right = {"policy": "simulated", "development": True, "tpm_roots": ("AA==",), "tpm_references": (good,)}
    assert TrustConfig.model_validate(right).tpm_references[0].pcr12 == "0" * 64
    with pytest.raises(ValueError, match=r"root|development|pcr4"):
        TrustConfig.model_validate(filled)
