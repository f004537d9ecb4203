"""Evidence of machines made from a boot, and the parts that a host writes: both are real enough to be judged."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import staged_boots as boots
import staged_firmware as parts
import staged_tdx as staged

from appliance.lab.errors import LabError
from appliance.lab.firmware_variables import GLOBAL, Variable, added, read
from appliance.lab.tdx_machine_image import certificates, contents, signed_content
from attestation.reported import reported
from attestation.tdx import parse_quote
from measurements import authenticode, uki
from measurements.artefacts import Artefacts
from measurements.explain import explain

sys.path.append(str(Path(__file__).resolve().parents[1] / "attestation"))

from attest_machine import Machine
from attest_support import NOW


async def test_the_production_verifier_takes_a_machine_that_booted() -> None:
    """Quote, certificate, collateral and log of a machine made from a boot; the log leads to its registers."""
    synthetic = staged.usual("disk")
    world = synthetic.world(clock=lambda: NOW)
    machine = await Machine.boot(gpus=0, tdx=world, measured_config=staged.configured("usual"))
    bundle = await machine.bundle()
    verdict = await machine.judged(bundle)
    assert verdict.accepted, [check.name for check in verdict.failed]
    assert "event log" in {check.name for check in verdict.checks}
    found = reported(bundle)
    assert set(found.values) == {"mrtd", "mrconfigid", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert explain(staged.predicted(synthetic), found.values, found.log).equal


async def test_evidence_of_a_changed_machine_names_the_change() -> None:
    """The same way, with more memory: accepted as genuine, and explained."""
    changed = staged.reshaped(staged.usual(), memory_mib=16384)
    machine = await Machine.boot(gpus=0, tdx=changed.world(clock=lambda: NOW))
    found = reported(await machine.bundle())
    explained = explain(staged.predicted(staged.usual()), found.values, found.log)
    assert [item.register for item in explained.findings] == ["rtmr0"]
    assert explained.findings[0].causes[0].input == "memory"


def test_a_neighbour_booted_the_same() -> None:
    world = staged.usual().world()
    one, other = (parse_quote(item.quote(bytes(64))).report for item in (world, world.neighbour()))
    assert one.measurements == other.measurements
    assert world.neighbour().event_log() == world.event_log()


def test_a_variable_store_holds_what_was_written() -> None:
    empty = parts.variables()
    assert read(empty) == {}
    stored = (Variable("PK", GLOBAL, b"key"), Variable("Boot0001", GLOBAL, b"\1" * 33))
    volume = added(empty, stored)
    assert len(volume) == len(empty)
    assert read(volume) == {item.name: item for item in stored}
    more = added(volume, [Variable("odd", GLOBAL, b"")])
    assert set(read(more)) == {"PK", "Boot0001", "odd"}
    with pytest.raises(LabError, match="bytes left"):
        added(volume, [Variable("much", GLOBAL, bytes(parts.VARIABLES))])
    with pytest.raises(LabError, match="not a firmware volume"):
        read(bytes(4096))


def test_a_signature_leaves_the_digest_and_names_its_key() -> None:
    image = staged.usual().artefacts.image
    assert image is not None
    signed = staged.KEYS.sign(image)
    assert signed != image
    assert staged.KEYS.certificate in certificates(signed)
    assert certificates(image) == b""
    assert hashlib.sha256(signed_content(signed)).digest() == authenticode.digest(signed) == authenticode.digest(image)


def test_a_rebuilt_section_is_what_the_stub_finds() -> None:
    image = staged.usual().artefacts.image
    assert image is not None
    assert boots.with_section(image, ".cmdline", boots.section(image, ".cmdline")) == image
    other = boots.with_section(image, ".cmdline", b"console=ttyS0 staged")
    assert uki.parse(other).command_line == contents(other)[".cmdline"].decode() == "console=ttyS0 staged"
    *_, last = contents(image)
    longer = boots.with_section(image, last, boots.section(image, last) + bytes(5000))
    assert contents(longer)[last] == boots.section(image, last) + bytes(5000)
    assert authenticode.digest(longer) == hashlib.sha256(signed_content(longer)).digest()


@pytest.mark.parametrize("missing", ["firmware", "image", "acpi", "disk"])
def test_a_machine_without_a_part_says_which(missing: str) -> None:
    machine = staged.usual("disk")
    kept = {name: getattr(machine.artefacts, name) for name in ("firmware", "image", "acpi", "disk")} | {missing: None}
    with pytest.raises(LabError, match={"acpi": "ACPI"}.get(missing, missing)):
        staged.TdxMachine(artefacts=Artefacts(**kept), shape=machine.shape).boot()
