"""Live machines: the bundle of a booted guest against manifests that say what it measured, and something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from audit_support import Release, audited

from appliance.audit import report_html
from appliance.audit.errors import UncheckedError
from appliance.audit.machines import NOTICE, compare_machines, nearest, read_reported
from appliance.audit.outcome import judge
from appliance.audit.plan import Audit
from appliance.audit.request import MachineEvidence
from appliance.image.predicted import ReleaseFiles
from attestation import cbor
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from measurements.eventlog import EventLog
from measurements.manifest import Manifest, Registers

if TYPE_CHECKING:
    from collections.abc import Mapping

BUNDLE = (Path(__file__).resolve().parents[1] / "tpm" / "data" / "guest.bundle").read_bytes()
"""Of a guest of ours, booted with a TPM; with firmware's log."""
DECIDED = ("pcr4", "pcr9", "pcr11", "pcr12")


@pytest.fixture(scope="module")
def reported() -> Mapping[str, bytes]:
    return read_reported(machine()).values


def stating(release: Release, *sets: tuple[str, str, Mapping[str, bytes]]) -> Manifest:
    """A manifest with register sets: boot, shape, values."""
    made = [
        Registers(platform="tpm", boot=boot, shape=shape, values={name: value.hex() for name, value in values.items()})  # type: ignore[arg-type]  # disk or direct
        for boot, shape, values in sets
    ]
    return release.manifest.model_copy(update={"registers": tuple(made)})


def decided(reported: Mapping[str, bytes], **changed: bytes) -> dict[str, bytes]:
    return {name: reported[name] for name in DECIDED} | changed


def machine(name: str = "guest.bundle", bundle: bytes | None = BUNDLE, problem: str = "") -> MachineEvidence:
    return MachineEvidence(name, bundle, problem)


def test_registers_and_log_of_a_bundle_belong_together() -> None:
    found = read_reported(machine())
    assert found.form == "tpm"
    assert isinstance(found.log, EventLog)
    replayed = found.log.replay("sha256")
    assert {number: found.values[f"pcr{number}"] for number in replayed if number < 16} == {
        number: value for number, value in replayed.items() if number < 16
    }


def test_a_machine_of_the_release_is_as_stated(release: Release, reported: Mapping[str, bytes]) -> None:
    other = decided(reported, pcr4=bytes(32))
    manifest = stating(release, ("direct", "any", other), ("disk", "any", decided(reported)))
    step = compare_machines(manifest, [machine()], None)
    assert step.status == "same"
    assert step.summary == "1 of 1 machines measured what the manifest says"
    assert all(row.same for row in step.rows)
    assert len(step.rows) == len(DECIDED)
    assert NOTICE in step.notes


@pytest.mark.parametrize("register", DECIDED)
def test_a_register_that_differs_is_named(release: Release, reported: Mapping[str, bytes], register: str) -> None:
    """One register of the manifest is another; the control is the test above."""
    manifest = stating(release, ("disk", "any", decided(reported, **{register: b"\xab" * 32})))
    step = compare_machines(manifest, [machine()], None)
    assert step.status == "differs"
    (finding,) = step.findings
    assert finding.subject == f"guest.bundle: {register}"
    assert "ab" * 32 in finding.text
    assert reported[register].hex() in finding.text


def test_the_event_that_differs_is_named_with_the_log(release: Release, reported: Mapping[str, bytes]) -> None:
    """The files at hand are of another image: its kernel and sections are not what the machine's log says."""
    step = compare_machines(release.manifest, [machine()], ReleaseFiles(release.published))
    words = {finding.subject: finding.details for finding in step.findings}
    assert words.keys() == {"guest.bundle: pcr4", "guest.bundle: pcr9", "guest.bundle: pcr11"}
    assert "section .linux" in words["guest.bundle: pcr11"]
    assert "command line" in words["guest.bundle: pcr9"]
    (drawn,) = step.facts["pictures"]
    done = Audit(judge([step], needed="artefacts"), (step,), Path("work"), datetime(2026, 11, 23, tzinfo=UTC))
    assert drawn in report_html.render(done)
    assert drawn not in report_html.render(replace(done, steps=(replace(step, kept=True),)))


def test_the_nearest_set_is_taken(release: Release, reported: Mapping[str, bytes]) -> None:
    near, far = decided(reported, pcr4=bytes(32)), decided(reported, pcr4=bytes(32), pcr9=bytes(32))
    manifest = stating(release, ("direct", "any", far), ("disk", "any", near))
    found = read_reported(machine())
    assert nearest(manifest, found)[0].boot == "disk"
    assert nearest(manifest, found)[1] == ("pcr4",)
    more = {**decided(reported), "pcr7": reported["pcr7"]}
    fuller = stating(release, ("direct", "any", decided(reported)), ("disk", "any", more))
    assert nearest(fuller, found) == (fuller.registers[1], ())
    assert nearest(fuller, found, ("any",))[1] == ()
    with pytest.raises(UncheckedError, match="no registers of platform tpm"):
        nearest(fuller, found, ("another",))
    missing = stating(release, ("disk", "any", {**decided(reported), "rtmr0": bytes(48)}))
    assert nearest(missing, found)[1] == ("rtmr0",)


def test_a_machine_that_is_none_of_the_library_is_as_released_and_that_is_said(
    release: Release, reported: Mapping[str, bytes]
) -> None:
    """Its firmware is another than that of any shape: the image's registers are the release's all the same."""
    shape = decided(reported, pcr0=bytes(32), pcr7=reported["pcr7"])
    manifest = stating(release, ("disk", "any", decided(reported)), ("disk", "tpm-2c-4g-disk", shape))
    step = compare_machines(manifest, [machine()], None)
    assert step.status == "same"
    assert any("the nearest, tpm disk tpm-2c-4g-disk, differs in pcr0;" in note for note in step.notes)
    any_only = compare_machines(manifest, [machine()], None, shapes=["any"])
    assert any_only.status == "same"
    assert not any("nearest" in note for note in any_only.notes)
    asked = compare_machines(manifest, [machine()], None, shapes=["tpm-2c-4g-disk"])
    assert [finding.subject for finding in asked.findings] == ["guest.bundle: pcr0"]


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("guest.bundle", False, "measure explain guest.bundle --shape tpm-2c-4g-disk --image …"),
        ("a guest's.bundle", False, "measure explain 'a guest'\"'\"'s.bundle' --shape"),
        (
            "host.example:9443",
            True,
            "attest collect host.example:9443 -o evidence.cbor && chrysalis measure explain evidence.cbor --shape",
        ),
        ("host:1; true", True, "attest collect 'host:1; true' -o evidence.cbor && "),
    ],
)
def test_the_search_that_is_proposed_can_be_run(
    release: Release, reported: Mapping[str, bytes], name: str, asked: bool, words: str
) -> None:
    """Of a machine that was asked there is no file to search in: its evidence is collected first."""
    shown = parse_bundle(BUNDLE)
    machine = MachineEvidence(name, BUNDLE, nonce=shown.nonce if asked else b"")
    wrong = stating(release, ("disk", "tpm-2c-4g-disk", decided(reported, pcr4=bytes(32))))
    (note,) = (note for note in compare_machines(wrong, [machine], None).notes if "single change" in note)
    assert note.startswith(f"which single change gives these values: chrysalis {words}")
    right = stating(release, ("disk", "tpm-2c-4g-disk", decided(reported)))
    assert not any("single change" in note for note in compare_machines(right, [machine], None).notes), "control"


def test_a_bundle_that_was_altered_is_not_believed() -> None:
    plain: Any = cbor.decode(BUNDLE, max_length=len(BUNDLE))
    plain["made"] += 1
    with pytest.raises(EvidenceError, match="not signed by its own key"):
        read_reported(machine(bundle=cbor.encode(plain)))
    plain["made"] -= 1
    assert read_reported(machine(bundle=cbor.encode(plain))).form == "tpm", "control"


def test_evidence_that_was_asked_for_is_fresh_and_of_who_was_asked() -> None:
    shown = parse_bundle(BUNDLE)
    key = shown.keys["tls"]
    assert read_reported(MachineEvidence("host", BUNDLE, nonce=shown.nonce, public_key=key)).form == "tpm", "control"
    with pytest.raises(EvidenceError, match="answers another nonce"):
        read_reported(MachineEvidence("host", BUNDLE, nonce=bytes(32), public_key=key))
    with pytest.raises(EvidenceError, match="another key than the connection's"):
        read_reported(MachineEvidence("host", BUNDLE, nonce=shown.nonce, public_key=bytes(32)))


def test_evidence_that_cannot_be_had_is_not_a_difference(release: Release, reported: Mapping[str, bytes]) -> None:
    manifest = stating(release, ("disk", "any", decided(reported)))
    silent = machine("host:9443", None, "no answer")
    step = compare_machines(manifest, [machine(), silent, machine("no.bundle", b"nothing")], None)
    assert step.status == "unchecked"
    assert step.summary == "host:9443: no evidence: no answer"
    assert any(note.startswith("no.bundle: ") for note in step.notes)
    wrong = stating(release, ("disk", "any", decided(reported, pcr4=bytes(32))))
    assert compare_machines(wrong, [machine(), silent], None).status == "differs"


@pytest.mark.usefixtures("audit_home")
def test_machines_in_a_whole_audit(release: Release, tmp_path: Path) -> None:
    done = audited(release, tmp_path, built=release.published, machines=(machine(),))
    assert done.verdict.kind == "differs"
    assert done.verdict.line.startswith("differs: guest.bundle: pcr")
