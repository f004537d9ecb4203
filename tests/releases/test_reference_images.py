"""The image hashes that a manifest gives are those that a verifier computes from a machine's evidence."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases_support import manifest, sha256, sha384, tdx_values

from appliance.lab.cloud_world_azure import AzureWorld
from appliance.lab.cloud_world_gcp import GcpWorld
from appliance.lab.paper_tpm import Booted, PaperTpm
from appliance.lab.snp_world import SnpMachine, SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation import claims
from attestation.errors import EvidenceError
from attestation.own_image import own_image
from attestation.policies.reference_images import UNBOUND, Configuration, image_hash, image_hashes
from attestation.tdx import parse_quote, without_padding
from measurements.manifest import Registers
from measurements.prediction import PredictedEvent
from measurements.tpm import PHASES, TpmPrediction

if TYPE_CHECKING:
    from pathlib import Path


DIGEST = hashlib.sha256(b"a measured configuration").digest()
CONFIGURATION = Configuration("measured.toml", DIGEST)
OTHER = Configuration("other.toml", hashlib.sha256(b"another one").digest())
ASKED = bytes(range(64))


def booted(digest: bytes = DIGEST) -> Booted:
    """A machine with a TPM after an image booted."""
    events = {
        register: (PredictedEvent(bytes.fromhex(sha256(f"event of {register}")), "an event", "this test"),)
        for register in (4, 9, 11, 12)
    }
    return Booted(TpmPrediction("disk", PHASES, events), digest)


def pcrs() -> dict[str, str]:
    """What a manifest states of it: never register 14, which holds the configuration."""
    return {f"pcr{register}": booted().registers[register].hex() for register in (0, 2, 4, 9, 11, 12)}


def tdx_of(world: SyntheticTdx) -> dict[str, str]:
    report = parse_quote(world.quote(ASKED)).report
    return {
        "mrtd": report.mr_td.hex(),
        "rtmr0": report.rtmr0.hex(),
        "rtmr1": report.rtmr1.hex(),
        "rtmr2": report.rtmr2.hex(),
    }


@pytest.fixture(scope="module")
def tdx() -> SyntheticTdx:
    return SyntheticTdx()


@pytest.fixture(scope="module")
def shown(tdx: SyntheticTdx) -> dict[str, tuple[bytes, dict[str, str]]]:
    """By platform: genuine evidence of a machine, and what a manifest states of it."""
    snp = SyntheticSnp(machine=SnpMachine(host_data=DIGEST))
    azure = AzureWorld(booted())
    paravisor = azure.snp.machine.measurement.hex()
    tpm = PaperTpm(booted().logs).evidence(bytes(32), (b"certificate",), with_logs=True)
    return {
        "tdx": (tdx.quote(ASKED, mr_config_id=DIGEST.ljust(48, b"\0")), tdx_of(tdx)),
        "snp": (snp.evidence(ASKED), {"measurement": snp.machine.measurement.hex()}),
        "tpm": (tpm.encode(), pcrs()),
        "azure": (azure.evidence(ASKED), {"measurement": paravisor, **pcrs()}),
        "gcp": (GcpWorld(booted(), tdx).evidence(ASKED), {**tdx_of(tdx), **pcrs()}),
        "gcp without TDX": (GcpWorld(booted(), None).evidence(ASKED), pcrs()),
    }


@pytest.mark.parametrize("platform", ["tdx", "snp", "tpm", "azure", "gcp", "gcp without TDX"])
def test_the_hash_is_the_verifiers(shown: dict[str, tuple[bytes, dict[str, str]]], platform: str) -> None:
    evidence, values = shown[platform]
    registers = Registers(platform=platform.partition(" ")[0], boot="direct", values=values)
    assert image_hash(registers, CONFIGURATION) == own_image(evidence)
    # Controls: another configuration, and another value of any register that enters it.
    assert image_hash(registers, OTHER) != own_image(evidence)
    moved = dict.fromkeys(values, False)
    for name, value in values.items():
        changed = {**values, name: (sha256 if len(value) == 64 else sha384)("something else")}
        moved[name] = image_hash(registers.model_copy(update={"values": changed}), CONFIGURATION) != own_image(evidence)
    outside = {"pcr0"} if platform.startswith("gcp") else {"pcr0", "pcr2"}
    assert [name for name, does in moved.items() if not does] == [name for name in values if name in outside]


def test_a_launch_without_a_configuration(tdx: SyntheticTdx) -> None:
    found = image_hash(Registers(platform="tdx", boot="direct", values=tdx_of(tdx)), UNBOUND)
    assert found == own_image(tdx.quote(ASKED)), "MRCONFIGID is zero"
    snp = SyntheticSnp()
    measured = Registers(platform="snp", boot="direct", values={"measurement": snp.machine.measurement.hex()})
    assert image_hash(measured, UNBOUND) == own_image(snp.evidence(ASKED))
    with pytest.raises(EvidenceError, match="PCR 14 holds the measured configuration, and none is named"):
        image_hash(Registers(platform="tpm", boot="disk", values=pcrs()), UNBOUND)


def test_stated_values_are_used_and_have_to_agree(tdx: SyntheticTdx) -> None:
    extended = {**tdx_of(tdx), "rtmr3": sha384("extended")}
    evidence = tdx.quote(ASKED, rtmr3=bytes.fromhex(extended["rtmr3"]))
    assert image_hash(Registers(platform="tdx", boot="direct", values=extended), UNBOUND) == own_image(evidence)
    bound = {**tdx_of(tdx), "mrconfigid": DIGEST.hex() + "00" * 16}
    registers = Registers(platform="tdx", boot="direct", values=bound)
    assert image_hash(registers, CONFIGURATION) == image_hash(registers, UNBOUND)
    with pytest.raises(EvidenceError, match="the manifest states mrconfigid"):
        image_hash(registers, OTHER)


@pytest.mark.parametrize(
    ("platform", "boot", "values", "says"),
    [
        ("tdx", "direct", {"mrtd": sha384("a"), "rtmr1": sha384("b"), "rtmr2": sha384("c")}, "states no rtmr0"),
        ("tdx", "direct", {"mrtd": sha384("a"), "rtmr0": sha384("b")}, "leave open which image"),
        ("snp", "disk", {"measurement": sha384("firmware")}, "leave open which image"),
        ("tpm", "disk", {"pcr0": sha256("firmware")}, "leave open which image"),
        ("tpm", "disk", {"pcr4": sha256("a"), "pcr11": sha256("b")}, "states no pcr9"),
        ("tpm", "disk", {f"pcr{n}": sha384("long") for n in (4, 9, 11, 12)}, "pcr4 has 48 bytes, expected 32"),
        ("azure", "disk", {f"pcr{n}": sha256("a") for n in (4, 9, 11, 12)}, "states no measurement"),
        ("gcp", "disk", {f"pcr{n}": sha256("a") for n in (2, 4, 9, 11, 12)} | {"mrtd": sha384("b")}, "states no rtmr0"),
        ("sgx", "direct", {"mrtd": sha384("a")}, "leave open which image"),
    ],
)  # fmt: skip
def test_what_cannot_be_listed_is_said(platform: str, boot: Any, values: dict[str, str], says: str) -> None:
    made = manifest(7, registers=(Registers(platform=platform, boot=boot, values=values),))
    found = image_hashes(made, (CONFIGURATION,))
    assert found.hashes == {}
    ((place, reason),) = found.left_out.items()
    assert place == f"{platform}, {boot} boot, shape any, measured.toml"
    assert says in reason


def test_one_hash_can_be_for_several_places() -> None:
    values = tdx_values("an image")
    sets = tuple(Registers(platform="tdx", boot="direct", shape=shape, values=values) for shape in ("large", "small"))
    made = manifest(7, registers=(*sets, Registers(platform="tpm", boot="disk", values=pcrs())))
    found = image_hashes(made, (CONFIGURATION, OTHER, UNBOUND))
    assert len(found.hashes) == 5
    assert sorted(map(len, found.hashes.values())) == [1, 1, 2, 2, 2]
    assert list(found.left_out) == ["tpm, disk boot, shape any, no configuration"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(0, 3))
def test_every_place_has_a_hash_or_a_reason(images: list[str], configurations: int) -> None:
    sets = [
        Registers(platform="tdx", boot="direct", shape=f"s{number}", values=tdx_values(image))
        for number, image in enumerate(images)
    ]
    sets.append(Registers(platform="tpm", boot="disk", values={"pcr4": sha256("x"), "pcr11": sha256("y")}))
    named = [Configuration(f"c{number}", bytes([number]) * 32) for number in range(configurations)]
    found = image_hashes(manifest(7, registers=tuple(sets)), named)
    places = [place for each in found.hashes.values() for place in each]
    assert sorted([*places, *found.left_out]) == sorted(
        f"{entry.platform}, {entry.boot} boot, shape {entry.shape}, {item.name}" for entry in sets for item in named
    )
    assert len(found.hashes) == len(set(images)) * configurations


def test_a_real_machines_registers(shared: Path) -> None:
    """The quote that Cocoon publishes (``tee/test/quote.dat``), and the image hash that its own tools give for it."""
    quote = (shared / "samples" / "TelegramMessenger__cocoon" / "tee" / "test" / "quote.dat").read_bytes()
    report = parse_quote(without_padding(quote)).report
    values = {
        "mrtd": report.mr_td, "rtmr0": report.rtmr0, "rtmr1": report.rtmr1, "rtmr2": report.rtmr2,
        "rtmr3": report.rtmr3, "mrconfigid": report.mr_config_id,
    }  # fmt: skip
    registers = Registers(platform="tdx", boot="direct", values={name: value.hex() for name, value in values.items()})
    found = image_hash(registers, UNBOUND)
    assert found.hex() == "04b3afd931d28680af91a15b09d672c40ad6b141f7f9089a8d67d595220f7436"
    assert found == claims.image_hash(report.measurements)
