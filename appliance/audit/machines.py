"""Live machines: what their evidence says they measured, against the sets of the manifest.

A machine is as released where the registers of one set are all its own. Where none fits, it is held against the nearest
set, and the events that differ are named with the help of its event log. A bundle's registers are read here, and its
own signature is checked; whether the hardware behind it is genuine is another question, which ``chrysalis attest
verify`` answers, and the report says so.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.audit.errors import UncheckedError
from appliance.audit.outcome import Finding, Row, Step
from appliance.audit.registers import predict_set, sentences, set_name
from appliance.image.predicted import ANY
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from attestation.reported import reported
from measurements import picture
from measurements.errors import ChrysalisError, MeasurementError
from measurements.explain import explain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from appliance.audit.outcome import Status
    from appliance.audit.request import MachineEvidence
    from appliance.image.predicted import ReleaseFiles
    from attestation.reported import Reported
    from measurements.manifest import Manifest, Registers

NAME = "machines"
TITLE = "The machines"
COLLECTED = "evidence.cbor"
PICTURES = "pictures"
"""The fact that holds each differing machine's registers as a picture (SVG, made here from escaped text)."""
NOTICE = "what stands here is what the bundles say; that genuine hardware says it is judged by: chrysalis attest verify"


def read_reported(machine: MachineEvidence) -> Reported:
    """Registers and log of a machine's bundle.

    Raises:
        UncheckedError: There is none.
        EvidenceError: It is no bundle, is not signed by its own key, answers another nonce than was asked, comes from
            another machine than was asked, or its evidence cannot be read.
    """
    if machine.bundle is None:
        raise UncheckedError(f"no evidence: {machine.problem}")
    bundle = parse_bundle(machine.bundle)
    if not bundle.signature_holds():
        raise EvidenceError("the bundle is not signed by its own key: it was altered")
    if machine.nonce and (bundle.nonce != machine.nonce or not bundle.path_holds()):
        raise EvidenceError("the bundle answers another nonce than the one that was asked: an older one is shown again")
    if machine.public_key and bundle.keys["tls"] != machine.public_key:
        raise EvidenceError("the bundle is of another key than the connection's: another machine's is passed on")
    return reported(machine.bundle)


def compare_machines(
    manifest: Manifest, machines: Sequence[MachineEvidence], files: ReleaseFiles | None, *, shapes: Sequence[str] = ()
) -> Step:
    """Hold machines against a manifest.

    Args:
        manifest: What is stated.
        machines: Their evidence.
        files: The rebuilt release, for explanations; None where there is none.
        shapes: Only sets of these shapes; empty for all.
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    unanswered: list[str] = []
    notes: list[str] = []
    pictures: list[str] = []
    for machine in machines:
        try:
            shown = read_reported(machine)
            entry, differing = nearest(manifest, shown, shapes)
        except ChrysalisError as error:
            unanswered.append(f"{machine.name}: {error.message}")
            continue
        name = set_name(entry)
        for register, stated in sorted(entry.values.items()):
            value = shown.values[register].hex() if register in shown.values else "not reported"
            same = value == stated
            rows.append(Row(f"{machine.name}, set {name}: {register}", stated, "" if same else value, same))
        if differing:
            why = _Why.of(entry, shown, files)
            findings += _findings(machine.name, entry, shown, differing, why)
            notes += _search(machine, entry)
            pictures += [why.picture] if why.picture else []
        else:
            notes.append(f"{machine.name} measured what the manifest says of set {name}")
            notes += _unlike(manifest, machine.name, entry, shown, shapes)
    status: Status = "differs" if findings else "unchecked" if unanswered else "same"
    as_stated = len(machines) - len(unanswered) - len({finding.subject.partition(": ")[0] for finding in findings})
    summary = f"{as_stated} of {len(machines)} machines measured what the manifest says"
    return Step(
        name=NAME,
        title=TITLE,
        status=status,
        summary=unanswered[0] if status == "unchecked" else summary,
        inputs={"machines": ", ".join(machine.name for machine in machines)},
        rows=tuple(rows),
        findings=tuple(findings),
        notes=(NOTICE, *unanswered, *notes),
        facts={PICTURES: pictures},
    )


def nearest(manifest: Manifest, shown: Reported, shapes: Sequence[str] = ()) -> tuple[Registers, tuple[str, ...]]:
    """The set of a manifest that a machine is nearest to, and the registers that differ from it.

    A register that a set states and a machine does not report counts as differing.

    Raises:
        UncheckedError: The manifest has no set of that platform.
    """
    sets = [
        entry for entry in manifest.registers if entry.platform == shown.form and (not shapes or entry.shape in shapes)
    ]
    if not sets:
        raise UncheckedError(f"the manifest states no registers of platform {shown.form}")
    return min(((entry, _differing(entry, shown)) for entry in sets), key=lambda found: _distance(*found))


def _unlike(manifest: Manifest, machine: str, entry: Registers, shown: Reported, shapes: Sequence[str]) -> list[str]:
    """Of a machine that only fits the set for any shape: what it has unlike the nearest machine of the library."""
    others = tuple(
        other
        for other in manifest.registers
        if other.shape != ANY and other.platform == shown.form and (not shapes or other.shape in shapes)
    )
    if entry.shape != ANY or not others:
        return []
    near, differing = nearest(manifest.model_copy(update={"registers": others}), shown)
    words = f"the nearest, {set_name(near)}, differs in {', '.join(differing)}"
    return [f"{machine} is no machine of the library: {words}; firmware and settings are no part of the release"]


def _distance(entry: Registers, differing: tuple[str, ...]) -> tuple[bool, int, int]:
    """Sets that fit come first; then what agrees in most registers, and differs in fewest."""
    return bool(differing), len(differing) - len(entry.values), len(differing)


def _differing(entry: Registers, shown: Reported) -> tuple[str, ...]:
    return tuple(
        name
        for name, value in sorted(entry.values.items())
        if name not in shown.values or shown.values[name].hex() != value
    )


@dataclass(frozen=True, slots=True)
class _Why:
    """Why a machine's registers differ, as far as files and log tell.

    Attributes:
        words: By register.
        otherwise: For the others.
        picture: The registers as chains of events, as SVG; empty where there is nothing to show.
    """

    words: Mapping[str, str]
    otherwise: str
    picture: str = ""

    @classmethod
    def of(cls, entry: Registers, shown: Reported, files: ReleaseFiles | None) -> _Why:
        """Explain a machine by the set that it is nearest to."""
        if files is None:
            return cls({}, "why is not known without the artefacts")
        try:
            explanation = explain(predict_set(entry, files), shown.values, shown.log)
        except MeasurementError as error:
            return cls({}, f"why is not known: {error.message}")
        words: dict[str, str] = {}
        for register, text in sentences(explanation):
            words.setdefault(register, text)
        return cls(words, "", picture.render(explanation))


def _findings(
    machine: str, entry: Registers, shown: Reported, differing: Sequence[str], why: _Why
) -> Iterator[Finding]:
    for register in differing:
        seen = shown.values[register].hex() if register in shown.values else "nothing"
        text = f"reported {seen}, set {set_name(entry)} of the manifest says {entry.values[register]}"
        yield Finding(f"{machine}: {register}", text, why.words.get(register, why.otherwise))


def _search(machine: MachineEvidence, entry: Registers) -> list[str]:
    """What to do when the log does not say enough.

    ``measure explain`` takes a bundle's file, and of a machine that was asked there is none yet.
    """
    if entry.shape == ANY:
        return []
    name = shlex.quote(machine.name)
    file, before = (COLLECTED, f"chrysalis attest collect {name} -o {COLLECTED} && ") if machine.nonce else (name, "")
    search = f"chrysalis measure explain {file} --shape {shlex.quote(entry.shape)} --image …"
    return [f"which single change gives these values: {before}{search}"]
