"""What evidence of every form reports, as registers and a log: the machine's values, and a log that agrees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "fuzz"))

from fuzz_worlds import DATA, worlds

from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from attestation.gcp.evidence import parse_gcp
from attestation.reported import reported, tdx_events
from attestation.snp.report import parse_report
from attestation.tdx import parse_quote
from attestation.tdx_log import RuntimeEvent, TdxLog
from measurements.eventlog import MAX_LOG
from measurements.explain import register_index

if TYPE_CHECKING:
    from attestation.reported import Reported

BUNDLE = Path(__file__).resolve().parents[1] / "tpm" / "data" / "guest.bundle"


def check_log(found: Reported, bank: str) -> None:
    """Every register that the log speaks of is what was reported."""
    assert found.log is not None
    assert found.log.banks == (bank,)
    replayed = found.log.replay(bank)
    for name, value in found.values.items():
        index = register_index(name)
        if index is not None and len(value) == len(next(iter(replayed.values()))):
            assert replayed.get(index, bytes(len(value))) == value, name


def test_a_tdx_quote_reports_its_registers() -> None:
    quote = worlds().tdx.quote(DATA)
    report = parse_quote(quote).report
    found = reported(quote)
    assert (found.form, found.log) == ("tdx", None)
    assert found.values == {
        "mrtd": report.mr_td, "mrconfigid": report.mr_config_id, "rtmr0": report.rtmr0, "rtmr1": report.rtmr1,
        "rtmr2": report.rtmr2, "rtmr3": report.rtmr3,
    }  # fmt: skip


def test_a_bundle_reports_with_its_log() -> None:
    found = reported(worlds().bundle)
    assert found.values == reported(parse_bundle(worlds().bundle).quote).values
    check_log(found, "sha384")


def test_a_real_machines_bundle_reports_firmware_and_system() -> None:
    found = reported(BUNDLE.read_bytes())
    assert found.form == "tpm"
    assert found.values.keys() == {f"pcr{number}" for number in range(16)}
    check_log(found, "sha256")
    assert found.log is not None
    assert [event.data for event in found.log.events if event.register == 14] == [b"measured configuration"]


def test_the_guests_own_extensions_follow_firmwares() -> None:
    log = TdxLog.parse(worlds().tdx.event_log())
    more = TdxLog(log.firmware, (*log.runtime, RuntimeEvent(b"\x11" * 48, "added")))
    events = tdx_events(more)
    assert events.events[-1].digests == {"sha384": b"\x11" * 48}
    assert (events.events[-1].register, events.events[-1].data) == (4, b"added")
    assert events.replay("sha384")[4] == more.replay()[3]
    assert tdx_events(TdxLog(b"", ())).events == ()


def test_snp_azure_and_gcp_report_what_their_parts_hold() -> None:
    every = worlds()
    report = parse_report(every.snp.report(DATA))
    assert reported(every.snp.evidence(DATA)).values == {
        "measurement": report.measurement,
        "host_data": report.host_data,
    }
    azure = parse_azure(every.azure.evidence(DATA))
    found = reported(every.azure.evidence(DATA))
    assert found.values["measurement"] == parse_report(parse_hcl(azure.report).hardware).measurement
    assert [found.values[f"pcr{number}"] for number in range(16)] == list(azure.tpm.registers)
    gcp = parse_gcp(every.gcp.evidence(DATA))
    found = reported(every.gcp.evidence(DATA))
    assert [found.values[f"pcr{number}"] for number in range(16)] == list(gcp.tpm.registers)
    assert ("mrtd" in found.values) == (gcp.tdx is not None)
    if gcp.tpm.logs is not None:
        check_log(found, "sha256")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\xa0", b"{}", b"x" * (MAX_LOG + 1)])
def test_what_is_no_evidence_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="neither a bundle nor evidence"):
        reported(data)
    assert reported(worlds().tdx.quote(DATA)), "control"
