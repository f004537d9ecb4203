"""Signed manifests as references: whose time it is, what they have to state, and machines that no cloud vouches for.

Each refusal stands beside a control that differs in that one thing. The machines are synthetic, under roots of this
run; policies start from the built-in ``release`` where that is what is asked about.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import NONCE, Site, make_bundle, statement
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.lab.snp_world import SyntheticSnp
from attestation.errors import PolicyError
from attestation.evidence import build_bundle
from attestation.own_image import own_image
from attestation.policy_file import load_policy
from attestation.ratls import Identity
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import parse_report
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.verifier import Verifier
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, ManifestError, Registers
from measurements.signature import sign_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attestation.verdict import Verdict

DAY = 86400
NOW = int(time.time())
BEGIN, END = NOW - DAY, NOW + 30 * DAY
KEY = Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
SIGNED = "image in a signed manifest"
OTHER48 = "77" * 48


class Listed:
    """A root contract that lists every image: what the manifest says decides."""

    def image_listed(self, image_hash: bytes, /) -> bool:
        return len(image_hash) == 32


def manifest(*registers: Registers, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "image_id": "chrysalis",
        "version": "0.1.0",
        "release": 7,
        "not_before": BEGIN,
        "expires": END,
        "profile": "engine-gpu",
        "debug": False,
        "engine": Engine(name="sglang", version="0.5"),
        "command_line": "roothash=" + "ab" * 32,
        "root_hash": "ab" * 32,
        "source_commit": "cd" * 20,
        "source_modified": False,
        "source_date_epoch": 0,
        "recipe": BuildRecipe(profile="engine-gpu", mkosi_version="25", tools_lock="cd" * 32, command="build it"),
        "locks": {},
        "artefacts": (Artefact(name="image.efi", size=1, sha256="ef" * 32),),
        "registers": tuple(sorted(registers, key=lambda entry: (entry.platform, entry.boot, entry.shape))),
    }
    return Manifest(**(values | changes))


def write(directory: Path, made: Manifest, name: str = "manifest.json") -> dict[str, Any]:
    """A signed manifest, as a policy names it."""
    (directory / name).write_bytes(made.encode())
    (directory / f"{name}.sig").write_bytes(sign_manifest(made.encode(), KEY))
    return {"file": name, "keys": [PUBLIC]}


def judge(policy: Path, bundle: bytes, *, now: float | None = None, at: float | None = None, **options: Any) -> Verdict:
    verifier = Verifier(load_policy(policy, **options), clock=lambda: time.time() if now is None else now)
    return asyncio.run(verifier.verify_bundle(bundle, nonce=NONCE, public_key=None, at=at))


def failing(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failed]


@pytest.fixture
def booted(site: Site) -> dict[str, str]:
    """What the site's machine, a bare TDX one, measured."""
    report = parse_quote(site.tdx.quote(bytes(64))).report
    return {
        "mrtd": report.mr_td.hex(),
        "rtmr0": report.rtmr0.hex(),
        "rtmr1": report.rtmr1.hex(),
        "rtmr2": report.rtmr2.hex(),
    }


def tdx(values: dict[str, str], shape: str = "tdx-8c-32g-direct", boot: Any = "direct") -> Registers:
    return Registers(platform="tdx", boot=boot, shape=shape, values=values)


def of(site: Site, *manifests: dict[str, Any], **more: Any) -> Path:
    return site.policy("of", measurements={"manifests": list(manifests)}, **more)


# Dates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "holds"),
    [
        (NOW - DAY, NOW + DAY, True),
        (NOW - 2 * DAY, NOW - DAY, False),
        (NOW + DAY, NOW + 2 * DAY, False),
    ],
    ids=["it counts", "it expired", "it has not begun"],
)
def test_a_release_counts_between_its_dates(
    site: Site, booted: dict[str, str], begin: int, end: int, holds: bool
) -> None:
    policy = of(site, write(site.directory, manifest(tdx(booted), not_before=begin, expires=end)))
    verdict = judge(policy, site.bundle)
    assert verdict.accepted is holds
    assert failing(verdict) == ([] if holds else [f"{SIGNED}: dates"])
    (dates,) = (check for check in verdict.checks if check.name == f"{SIGNED}: dates")
    assert dates.passed is holds
    assert dates.expected.count("T") == 2
    if holds:
        assert verdict.expires_at <= end


def test_a_loaded_policy_ends_with_its_release(site: Site, booted: dict[str, str]) -> None:
    """A gateway that reads its policy once and runs for months: the time of each judgement counts."""
    end = NOW + 60
    policy = load_policy(of(site, write(site.directory, manifest(tdx(booted), expires=end))))
    times = iter((NOW, end - 1.0, float(end), end + 1.0))
    clock = [0.0]
    verifier = Verifier(policy, clock=lambda: clock[0])
    found = []
    for clock[0] in times:
        found.append(asyncio.run(verifier.verify_bundle(site.bundle, nonce=NONCE, public_key=None)).accepted)
    assert found == [True, True, False, False]


def test_what_is_judged_as_of_a_time_is_judged_by_the_dates_of_then(site: Site, booted: dict[str, str]) -> None:
    policy = of(site, write(site.directory, manifest(tdx(booted), not_before=NOW - DAY, expires=NOW + 5)))
    assert judge(policy, site.bundle, now=NOW + DAY, at=NOW).accepted
    assert failing(judge(policy, site.bundle, now=NOW, at=NOW + 10)) == [f"{SIGNED}: dates"]


def test_of_two_releases_of_one_image_the_one_that_counts_speaks(site: Site, booted: dict[str, str]) -> None:
    old = write(site.directory, manifest(tdx(booted), not_before=NOW - 2 * DAY, expires=NOW - DAY), "old.json")
    new = write(site.directory, manifest(tdx(booted), release=8), "new.json")
    assert failing(judge(of(site, old), site.bundle)) == [f"{SIGNED}: dates"]
    for order in ((old, new), (new, old)):
        verdict = judge(of(site, *order), site.bundle)
        assert verdict.accepted
        assert any("release 8" in check.seen for check in verdict.checks if check.name == SIGNED)


# Which registers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", ["mrtd", "rtmr1", "rtmr2"])
def test_a_set_that_leaves_the_image_open_vouches_for_nothing(
    site: Site, booted: dict[str, str], left_out: str
) -> None:
    """A signed manifest with part of the registers: another firmware could hold any values in the rest."""
    assert judge(of(site, write(site.directory, manifest(tdx(booted)))), site.bundle).accepted
    part = {name: value for name, value in booted.items() if name != left_out}
    verdict = judge(of(site, write(site.directory, manifest(tdx(part)))), site.bundle)
    assert failing(verdict) == [SIGNED]


def test_a_firmware_register_may_be_left_open_and_is_listed(site: Site, booted: dict[str, str]) -> None:
    part = {name: value for name, value in booted.items() if name != "rtmr0"}
    verdict = judge(of(site, write(site.directory, manifest(tdx(part)))), site.bundle)
    assert verdict.accepted
    (left,) = (check for check in verdict.checks if check.name == f"{SIGNED}: other registers")
    assert not left.checked
    assert "rtmr0" in left.seen


def test_the_shape_that_fits_is_named_and_of_several_the_one_that_says_most(site: Site, booted: dict[str, str]) -> None:
    other = tdx(booted | {"rtmr0": OTHER48}, "tdx-24c-192g-direct")
    bare = tdx({name: value for name, value in booted.items() if name != "rtmr0"}, "a-less-said")
    verdict = judge(of(site, write(site.directory, manifest(other, bare, tdx(booted)))), site.bundle)
    assert verdict.accepted
    (check,) = (check for check in verdict.checks if check.name == SIGNED)
    assert "shape tdx-8c-32g-direct" in check.seen
    refused = judge(of(site, write(site.directory, manifest(other))), site.bundle)
    assert failing(refused) == [SIGNED, f"{SIGNED}: rtmr0"]
    assert "rtmr0 differ from chrysalis engine-gpu release 7" in refused.failed[0].seen


def test_a_way_to_boot_that_the_policy_does_not_take(site: Site, booted: dict[str, str]) -> None:
    stated = write(site.directory, manifest(tdx(booted, boot="disk")))
    assert judge(of(site, {**stated, "boot": ["disk"]}), site.bundle).accepted
    assert failing(judge(of(site, {**stated, "boot": ["direct"]}), site.bundle)) == [SIGNED]


# Bare machines under `release` -------------------------------------------------------------------------------------


def release_policy(directory: Path, roots: dict[str, list[str]], stated: dict[str, Any]) -> Path:
    """The built-in policy with roots of this run: everything else is as it is."""
    path = directory / "release.json"
    measurements = {"require": "registry and signature", "registry": True, "manifests": [stated]}
    path.write_text(json.dumps({"name": "r", "extends": "release", "simulated": roots, "measurements": measurements}))
    return path


def test_release_takes_a_bare_tdx_machine_whose_registers_a_manifest_states(site: Site, booted: dict[str, str]) -> None:
    roots = {"tdx": ["tdx.der"], "gpu": ["gpu.der"], "rim": ["rim.der"]}
    fresh = make_bundle(site.tdx, site.gpus)

    def by(*registers: Registers) -> Verdict:
        stated = write(site.directory, manifest(*registers))
        return judge(release_policy(site.directory, roots, stated), fresh, registry=Listed())

    of_tpm = Registers(platform="tpm", boot="disk", values={"pcr4": "44" * 32, "pcr11": "11" * 32})
    assert by(of_tpm, tdx(booted)).accepted
    refused = by(of_tpm)
    assert failing(refused) == [SIGNED]
    assert (refused.failed[0].seen, refused.failed[0].expected) == ("registers of tpm", "registers of a tdx machine")
    assert failing(by(of_tpm, tdx(booted | {"rtmr2": OTHER48}))) == [SIGNED, f"{SIGNED}: rtmr2"]


def test_release_takes_a_bare_snp_machine_that_was_handed_its_image(tmp_path: Path) -> None:
    """The launch digest covers a kernel only if the host hands it over; by disk it would be the firmware's alone."""
    machine = SyntheticSnp()
    (tmp_path / "snp.der").write_bytes(machine.root_der)

    async def make() -> bytes:
        async def stapled(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
            return Staple(snp=machine.collateral())

        image = own_image(await machine.collect(bytes(64)))
        identity = await Identity.create(machine)
        said = statement(image, engine={"kind": "transformers", "device": "cpu"})
        return await build_bundle(machine, identity, said, NONCE, b"", staple=stapled)

    bundle = asyncio.run(make())
    evidence = SnpEvidence.parse(asyncio.run(machine.collect(bytes(64))))
    measurement = parse_report(evidence.report).measurement.hex()

    def by(boot: Any, value: str) -> Verdict:
        entry = Registers(platform="snp", boot=boot, shape="snp-8c-32g-direct", values={"measurement": value})
        stated = write(tmp_path, manifest(entry))
        return judge(release_policy(tmp_path, {"snp": ["snp.der"]}, stated), bundle, registry=Listed())

    assert failing(by("direct", measurement)) == []
    assert failing(by("disk", measurement)) == [SIGNED]
    assert failing(by("direct", OTHER48)) == [SIGNED, f"{SIGNED}: measurement"]


# What was seen before ----------------------------------------------------------------------------------------------


def test_who_remembers_releases_is_told_all_of_them_at_once_and_may_refuse(site: Site, booted: dict[str, str]) -> None:
    made = manifest(tdx(booted))
    one = write(site.directory, made, "one.json")
    two = write(site.directory, manifest(tdx(booted), release=8), "two.json")
    part = {"name": "part", "measurements": {"manifests": [two]}}
    policy = site.policy("told", measurements={"manifests": [one]}, any=[part])
    told: list[list[int]] = []
    load_policy(policy, admit=lambda manifests: told.append([item.release for item in manifests]))
    assert told == [[7, 8]]

    def refuse(manifests: Sequence[Manifest]) -> None:
        for item in manifests:
            item.require_newer_than(manifest(release=7))

    with pytest.raises(ManifestError, match="numbers only rise"):
        load_policy(policy, admit=refuse)
    # One whose signature does not hold is never shown to it.
    (site.directory / "one.json").write_bytes(manifest(tdx(booted), release=9).encode())
    with pytest.raises(PolicyError, match="does not cover these bytes"):
        load_policy(policy, admit=lambda _: pytest.fail("told of a forged manifest"))
