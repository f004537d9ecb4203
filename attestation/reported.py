"""What a machine's evidence reports, as registers and an event log: what a prediction is compared with.

In: a bundle, or bare evidence (a TDX quote, a TPM's or a cloud's evidence, an SEV-SNP report's). Out:
:class:`Reported`. Nothing is verified here: an explanation is about what the bytes say, a verdict is about whether to
believe them.

The log is firmware's and the running system's in one, in a single bank. The running system keeps no types and no data,
so its events are given with their text as data, which their digest does not cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from attestation.gcp.evidence import parse_gcp
from attestation.readers import form_of
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import parse_report
from attestation.tdx import parse_quote, without_padding
from attestation.tdx_log import TdxLog
from attestation.tpm.evidence import REGISTERS, parse_evidence
from measurements.errors import EventLogError
from measurements.eventlog import Event, EventLog, parse_tcg2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from attestation.readers import Form
    from attestation.tpm.evidence import TpmEvidence

_EVENT_TAG = 6
"""EV_EVENT_TAG: what the running system's events are given as."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a machine reports of itself; nothing is verified.

    Attributes:
        form: Of the evidence.
        values: By register, under the names of :class:`measurements.prediction.Register`.
        log: What the registers were extended with; None without a log.
    """

    form: Form
    values: Mapping[str, bytes]
    log: EventLog | None


def reported(data: bytes) -> Reported:
    """Read a bundle, or bare evidence.

    Raises:
        EvidenceError: Neither of them, or malformed inside.
    """
    try:
        bundle = parse_bundle(data)
    except EvidenceError as error:
        try:
            return _of_evidence(data, None)
        except EvidenceError:
            raise EvidenceError(
                f"neither a bundle nor evidence: {error.message}",
                hint="chrysalis attest collect makes a bundle; registers alone are given with --registers",
            ) from None
    return _of_evidence(bundle.quote, bundle.log)


def _of_evidence(evidence: bytes, log: bytes | None) -> Reported:
    form = form_of(evidence)
    match form:
        case "tdx":
            return Reported(form, _of_quote(evidence), None if log is None else tdx_events(TdxLog.parse(log)))
        case "tpm":
            shown = parse_evidence(evidence)
            return Reported(form, _of_tpm(shown), _tpm_log(shown))
        case "snp":
            report = parse_report(SnpEvidence.parse(evidence).report)
            return Reported(form, {"measurement": report.measurement, "host_data": report.host_data}, None)
        case "azure":
            azure = parse_azure(evidence)
            report = parse_report(parse_hcl(azure.report).hardware)
            values = {**_of_tpm(azure.tpm), "measurement": report.measurement, "host_data": report.host_data}
            return Reported(form, values, _tpm_log(azure.tpm))
        case "gcp":
            gcp = parse_gcp(evidence)
            values = {**_of_tpm(gcp.tpm), **({} if gcp.tdx is None else _of_quote(gcp.tdx))}
            return Reported(form, values, _tpm_log(gcp.tpm))


def tdx_events(log: TdxLog) -> EventLog:
    """A TDX machine's log in the form of a CCEL log, the guest's own extensions behind firmware's."""
    firmware = _firmware(log.firmware, "sha384")
    own = tuple(Event(4, _EVENT_TAG, {"sha384": event.digest}, event.text.encode()) for event in log.runtime)
    return EventLog(("sha384",), (*firmware, *own))


def _of_quote(quote: bytes) -> dict[str, bytes]:
    report = parse_quote(without_padding(quote)).report
    registers = {f"rtmr{i}": getattr(report, f"rtmr{i}") for i in range(4)}
    return {"mrtd": report.mr_td, "mrconfigid": report.mr_config_id, **registers}


def _of_tpm(evidence: TpmEvidence) -> dict[str, bytes]:
    return {f"pcr{number}": value for number, value in zip(REGISTERS, evidence.registers, strict=True)}


def _tpm_log(evidence: TpmEvidence) -> EventLog | None:
    if evidence.logs is None:
        return None
    firmware = _firmware(evidence.logs.firmware, "sha256")
    system = (
        Event(event.register, _EVENT_TAG, {"sha256": event.digest}, event.text.encode())
        for event in evidence.logs.system
    )
    return EventLog(("sha256",), (*firmware, *system))


def _firmware(data: bytes, bank: str) -> Iterator[Event]:
    """Firmware's events with the digest of one bank."""
    if not data:
        return
    try:
        log = parse_tcg2(data)
    except EventLogError as error:
        raise EvidenceError(f"firmware {error.message}", hint=error.hint) from None
    if bank not in log.banks:
        raise EvidenceError(f"firmware log of banks {', '.join(log.banks)}, expected {bank}")
    for event in log.events:
        yield Event(event.register, event.type, {bank: event.digests[bank]}, event.data)
