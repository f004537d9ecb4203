"""Live machines: what their evidence says they measured, against the sets of the manifest.

A machine is as released where the registers of one set are all its own. Where none fits, it is held against the nearest
set, and the events that differ are named with the help of its event log. A bundle's registers are read here, and its
own signature is checked; whether the hardware behind it is genuine is another question, which ``chrysalis attest
verify`` answers, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.audit.errors import UncheckedError
from appliance.audit.outcome import Finding, Row, Step
from appliance.audit.registers import Files, predict_set, sentences, set_name
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from attestation.readers import form_of
from attestation.tdx import parse_quote
from attestation.tdx_log import TdxLog
from attestation.tpm.evidence import REGISTERS, TpmEvidence, parse_evidence
from measurements.errors import ChrysalisError, EventLogError, MeasurementError
from measurements.eventlog import Event, EventLog, parse_tcg2
from measurements.explain import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.audit.outcome import Status
    from appliance.audit.request import MachineEvidence
    from attestation.readers import Form
    from attestation.tdx import TdReport
    from measurements.manifest import Manifest, Registers

NAME = "machines"
TITLE = "The machines"
NOTICE = "what stands here is what the bundles say; that genuine hardware says it is judged by: chrysalis attest verify"
_IPL = 0x0D
"""Type that is given to events of the running system: the log has none for them, and types are hints for people."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a machine says that it measured.

    Attributes:
        form: Of its evidence.
        platforms: Platforms whose sets it is held against.
        values: Registers by name.
        log: Its event log, where it shows one that can be read.
    """

    form: Form
    platforms: frozenset[str]
    values: Mapping[str, bytes]
    log: EventLog | None


def read_reported(bundle: bytes) -> Reported:
    """Registers and log of a bundle.

    Raises:
        EvidenceError: It is no bundle, is not signed by its own key, or its evidence cannot be read.
    """
    parsed = parse_bundle(bundle)
    if not parsed.signature_holds():
        raise EvidenceError("the bundle is not signed by its own key: it was altered")
    form = form_of(parsed.quote)
    match form:
        case "tdx":
            return Reported(form, frozenset({"tdx"}), _tdx(parse_quote(parsed.quote).report), _ccel(parsed.log))
        case "tpm":
            shown = parse_evidence(parsed.quote)
            return Reported(form, frozenset({"tpm"}), _tpm(shown), _tpm_log(shown))
        case "snp":
            return Reported(form, frozenset({"snp"}), _snp(parsed.quote), None)
        case "azure":
            return _azure(parsed.quote)
        case "gcp":
            return _gcp(parsed.quote)


def compare_machines(
    manifest: Manifest, machines: Sequence[MachineEvidence], files: Files | None, *, shapes: Sequence[str] = ()
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
    for machine in machines:
        try:
            if machine.bundle is None:
                raise UncheckedError(f"no evidence: {machine.problem}")
            reported = read_reported(machine.bundle)
            entry, differing = nearest(manifest, reported, shapes)
        except ChrysalisError as error:
            unanswered.append(f"{machine.name}: {error.message}")
            continue
        name = set_name(entry)
        for register, stated in sorted(entry.values.items()):
            value = reported.values[register].hex() if register in reported.values else "not reported"
            same = value == stated
            rows.append(Row(f"{machine.name}, set {name}: {register}", stated, "" if same else value, same))
        if differing:
            findings += _explained(machine.name, entry, reported, differing, files)
        else:
            notes.append(f"{machine.name} measured what the manifest says of set {name}")
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
    )


def nearest(manifest: Manifest, reported: Reported, shapes: Sequence[str] = ()) -> tuple[Registers, tuple[str, ...]]:
    """The set of a manifest that a machine is nearest to, and the registers that differ from it.

    A register that a set states and a machine does not report counts as differing.

    Raises:
        UncheckedError: The manifest has no set of that platform.
    """
    sets = [
        entry
        for entry in manifest.registers
        if entry.platform in reported.platforms and (not shapes or entry.shape in shapes)
    ]
    if not sets:
        raise UncheckedError(f"the manifest states no registers of platform {', '.join(sorted(reported.platforms))}")
    return min(((entry, _differing(entry, reported)) for entry in sets), key=lambda found: _distance(*found))


def _distance(entry: Registers, differing: tuple[str, ...]) -> tuple[bool, int, int]:
    """Sets that fit come first, of those the one that says most; then the one with the fewest differences."""
    return bool(differing), len(differing), -len(entry.values)


def _differing(entry: Registers, reported: Reported) -> tuple[str, ...]:
    return tuple(
        name
        for name, value in sorted(entry.values.items())
        if name not in reported.values or reported.values[name].hex() != value
    )


def _explained(
    machine: str, entry: Registers, reported: Reported, differing: Sequence[str], files: Files | None
) -> list[Finding]:
    words: dict[str, str] = {}
    problem = "" if files is not None else "why is not known without the artefacts"
    if files is not None:
        try:
            prediction = predict_set(entry, files)
            for register, text in sentences(explain(prediction, reported.values, reported.log)):
                words.setdefault(register, text)
        except MeasurementError as error:
            problem = f"why is not known: {error.message}"
    return [
        Finding(
            f"{machine}: {register}",
            f"reported {reported.values[register].hex() if register in reported.values else 'nothing'}, "
            f"set {set_name(entry)} of the manifest says {entry.values[register]}",
            words.get(register, problem),
        )
        for register in differing
    ]


def _tdx(report: TdReport) -> dict[str, bytes]:
    return {
        "mrtd": report.mr_td,
        "mrconfigid": report.mr_config_id,
        **{f"rtmr{number}": getattr(report, f"rtmr{number}") for number in range(4)},
    }


def _tpm(shown: TpmEvidence) -> dict[str, bytes]:
    return {f"pcr{number}": value for number, value in zip(REGISTERS, shown.registers, strict=True)}


def _snp(evidence: bytes) -> dict[str, bytes]:
    from attestation.snp.evidence import SnpEvidence  # noqa: PLC0415 - a bundle of another machine loads none of it
    from attestation.snp.report import parse_report  # noqa: PLC0415 - as above

    report = parse_report(SnpEvidence.parse(evidence).report)
    return {"measurement": report.measurement, "host_data": report.host_data}


def _azure(evidence: bytes) -> Reported:
    from attestation.azure.evidence import parse_azure  # noqa: PLC0415 - as above
    from attestation.azure.hcl import parse_hcl  # noqa: PLC0415 - as above
    from attestation.snp.report import parse_report  # noqa: PLC0415 - as above

    shown = parse_azure(evidence)
    measurement = parse_report(parse_hcl(shown.report).hardware).measurement
    values = {**_tpm(shown.tpm), "measurement": measurement}
    return Reported("azure", frozenset({"azure"}), values, _tpm_log(shown.tpm))


def _gcp(evidence: bytes) -> Reported:
    from attestation.gcp.evidence import parse_gcp  # noqa: PLC0415 - as above

    shown = parse_gcp(evidence)
    of_tdx = {} if shown.tdx is None else _tdx(parse_quote(shown.tdx).report)
    return Reported("gcp", frozenset({"gcp"}), {**_tpm(shown.tpm), **of_tdx}, _tpm_log(shown.tpm))


def _ccel(log: bytes | None) -> EventLog | None:
    """Firmware's log of a TDX machine with the guest's own extensions behind it, as events of register 4 (RTMR3)."""
    if log is None:
        return None
    try:
        found = TdxLog.parse(log)
        firmware = parse_tcg2(found.firmware) if found.firmware else EventLog(("sha384",), ())
    except (EvidenceError, EventLogError):
        return None
    own = tuple(Event(4, _IPL, {"sha384": event.digest}, event.text.encode()) for event in found.runtime)
    return EventLog(("sha384",), (*_one_bank(firmware, "sha384"), *own))


def _tpm_log(shown: TpmEvidence) -> EventLog | None:
    """Firmware's log of a TPM machine with the running system's measurements behind it."""
    if shown.logs is None:
        return None
    try:
        firmware = parse_tcg2(shown.logs.firmware)
    except EventLogError:
        return None
    system = tuple(
        Event(event.register, _IPL, {"sha256": event.digest}, event.text.encode()) for event in shown.logs.system
    )
    return EventLog(("sha256",), (*_one_bank(firmware, "sha256"), *system))


def _one_bank(log: EventLog, bank: str) -> tuple[Event, ...]:
    if bank not in log.banks:
        return ()
    return tuple(Event(event.register, event.type, {bank: event.digests[bank]}, event.data) for event in log.events)
