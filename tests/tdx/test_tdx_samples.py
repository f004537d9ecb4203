"""Every TDX quote of real hardware, judged at its own date: each row of the table names where the sample is from.

Quotes meet the policy that rests on Intel's root, with collateral of their own date where there is some; without any,
what can be said is what can be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tdx_samples import (
    AUTOMATA,
    DSTACK,
    GUEST,
    QVL,
    SampleTable,
    automata_collateral,
    collateral_of,
    date_of,
    guest_collateral,
    quote_of,
    source,
)
from tdx_support import DAY, NOW, failed

from attestation import claims, dcap, policy
from attestation.errors import EvidenceError
from attestation.rules import Subject
from attestation.tdx import BodyType, attribute_names, parse_quote, without_padding
from attestation.tdx_rules import MachineListed, PlatformKind, TcbStatus

if TYPE_CHECKING:
    from pathlib import Path

ADVISORIES = ("INTEL-SA-00960", "INTEL-SA-00982", "INTEL-SA-00986")


@dataclass(frozen=True, slots=True)
class Sample:
    """A quote, the collateral of its date, and the verdict that the specification states.

    Attributes:
        path: Below the folder of samples.
        collateral: A file of dcap-qvl, or how to put some together from a vendor's answers; empty for none.
        expected: The verdict.
        version: Quote version and body.
    """

    path: str
    collateral: str
    expected: str
    version: tuple[int, BodyType] = (4, BodyType.TD_1_0)


V5 = (5, BodyType.TD_1_5)
FEBRUARY = QVL + "tdx_quote_outdated_collateral.json"
READ = "read: FMSPC 90C06F000000, only SEPT_VE_DISABLE"
NO_LEVEL = "refused: No matching TCB level found"
SAMPLES = [
    Sample(QVL + "tdx_quote", QVL + "tdx_quote_collateral.json", "accepted: UpToDate"),
    Sample(QVL + "tdx_quote_outdated", FEBRUARY, NO_LEVEL, V5),
    Sample(QVL + "tdx-quote.hex", QVL + "tdx_quote_collateral.json", NO_LEVEL),
    Sample(QVL + "quote-from-tappd.hex", QVL + "tdx_quote_collateral.json", NO_LEVEL),
    Sample(QVL + "sgx_quote", QVL + "sgx_quote_collateral.json", "refused: quote of TEE type 0x0, expected TDX"),
    Sample("TelegramMessenger__cocoon/tee/test/quote.dat", FEBRUARY, "accepted: UpToDate"),
    Sample(GUEST + "quote_v5_sample.dat", FEBRUARY, "accepted: UpToDate", V5),
    Sample(GUEST + "tdx_prod_quote_SPR_E4.dat", "guest", "refused: quote of 4974 bytes, its lengths add up to 4935"),
    Sample(GUEST + "ccel/cos-113-tdx-quote.dat", "automata", "accepted: UpToDate"),
    Sample(AUTOMATA + "quote_tdx_00806f050000.dat", "automata", f"refused: OutOfDate ({', '.join(ADVISORIES)})"),
    Sample(DSTACK + "verifier/fixtures/quote-report.json", FEBRUARY, "accepted: UpToDate"),
    Sample(DSTACK + "verifier/fixtures/tdx-lite-getquote.json", "", "read: FMSPC 90C06F000000, only SEPT_VE_DISABLE"),
    Sample(
        DSTACK + "verifier/fixtures/tdx-lite-attestation.json", "", "read: FMSPC 90C06F000000, only SEPT_VE_DISABLE"
    ),
]


def verdict_of(quote: bytes, collateral: bytes, now: float) -> str:
    """What the policy that rests on Intel's root says, in words for the table."""
    chosen = policy.for_name("tdx", zero_padding=True)
    try:
        report_data = parse_quote(without_padding(quote)).report.report_data
    except EvidenceError:
        report_data = bytes(64)
    checks = chosen.appraise(quote, collateral, report_data=report_data, now=now).checks
    bad = [item for item in checks if not item.passed]
    if not bad:
        return "accepted: " + next(item.seen for item in checks if item.name == "tcb status")
    seen = bad[0].seen.rpartition("of Intel: ")[2] if bad[0].name == "quote" else bad[0].seen
    return "refused: " + seen.partition(" since ")[0].partition(" (0x81)")[0]


@pytest.mark.parametrize("sample", SAMPLES, ids=[item.path.rpartition("/")[2] for item in SAMPLES])
def test_every_quote_gets_the_verdict_that_is_stated(shared: Path, sample_table: SampleTable, sample: Sample) -> None:
    samples = shared / "samples"
    quote = quote_of(samples, sample.path)
    if sample.collateral:
        collateral = collateral_of(samples, sample.collateral, quote)
        seen = verdict_of(quote, collateral, date_of(collateral))
    else:
        read = parse_quote(without_padding(quote))
        names = ", ".join(attribute_names(read.report.td_attributes))
        seen = f"read: FMSPC {dcap.platform_of(quote)[0]}, only {names}"
    sample_table(sample.path.partition("/")[2], source(sample.path), sample.expected, seen)
    assert seen == sample.expected
    if not sample.path.endswith(("sgx_quote", "SPR_E4.dat")):
        parsed = parse_quote(without_padding(quote))
        assert (parsed.version, parsed.body_type) == sample.version


@pytest.mark.parametrize(
    "sample", [item for item in SAMPLES if item.expected.startswith("accepted")], ids=lambda item: item.path
)
def test_an_accepted_quote_is_refused_with_any_other_date_or_bit(shared: Path, sample: Sample) -> None:
    samples = shared / "samples"
    quote = quote_of(samples, sample.path)
    collateral = collateral_of(samples, sample.collateral, quote)
    now = date_of(collateral)
    assert verdict_of(quote, collateral, now).startswith("accepted")
    assert verdict_of(quote, collateral, NOW).startswith("refused")
    assert verdict_of(quote, collateral, now - 30 * DAY).startswith("refused")
    for at in (0, 12, 48, 200, 300, 630, 700, 900, 1400):
        flipped = bytearray(quote)
        flipped[at] ^= 1
        assert verdict_of(bytes(flipped), collateral, now).startswith("refused"), at
    without_list = json.loads(collateral) | {"pck_crl": ""}
    assert verdict_of(quote, json.dumps(without_list).encode(), now).startswith("refused")
    strict = policy.for_name("tdx").appraise(without_padding(quote) + b"\0", collateral, report_data=bytes(64), now=now)
    assert failed(strict.checks) == ["quote"]


def test_collateral_of_another_kind_of_platform_is_refused(shared: Path, sample_table: SampleTable) -> None:
    samples = shared / "samples"
    quote = (samples / QVL / "tdx_quote").read_bytes()
    collateral = (samples / FEBRUARY).read_bytes()
    seen = verdict_of(quote, collateral, date_of(collateral))
    sample_table("tdx_quote with another's collateral", source(QVL), "refused: Fmspc mismatch", seen)
    assert seen == "refused: Fmspc mismatch"


def test_the_quote_with_bytes_behind_it_is_refused_even_without_them(shared: Path, sample_table: SampleTable) -> None:
    """Its level is older than any that Intel lists for the platform: there is no status to judge."""
    samples = shared / "samples"
    whole = (samples / GUEST / "tdx_prod_quote_SPR_E4.dat").read_bytes()
    assert whole[4935:] == b"\nextra bytes(only for testing purpose)\n"
    quote = whole[:4935]
    collateral = guest_collateral(samples, quote)
    seen = verdict_of(quote, collateral, date_of(collateral))
    sample_table("tdx_prod_quote_SPR_E4.dat, cut", source(GUEST), NO_LEVEL, seen)
    assert seen == NO_LEVEL
    assert dcap.platform_of(quote) == ("50806F000000", "platform")


def outdated(shared: Path) -> Subject:
    samples = shared / "samples"
    quote = without_padding((samples / AUTOMATA / "quote_tdx_00806f050000.dat").read_bytes())
    collateral = automata_collateral(samples / AUTOMATA, quote)
    now = date_of(collateral)
    found = dcap.verify_quote(quote, collateral, root_der=None, now=now)
    report = found.quote.report
    return Subject(report, found, claims.image_hash(report.measurements), report.report_data, now)


def test_grace_for_the_three_advisories_of_the_sample(shared: Path) -> None:
    """Source: automata-network/dcap-rs, ``data``; the level was replaced on 13 March 2024."""
    subject = outdated(shared)
    assert subject.claims is not None
    assert (subject.claims.status, subject.claims.advisories) == ("OutOfDate", ADVISORIES)
    assert datetime.fromtimestamp(subject.claims.superseded_at, UTC).date().isoformat() == "2024-03-13"
    age = int((subject.now - subject.claims.superseded_at) / DAY)
    every, two = frozenset(ADVISORIES), frozenset(ADVISORIES[:2])
    for rule, passed in (
        (TcbStatus(), False),
        (TcbStatus(grace_days=age + 1), True),
        (TcbStatus(grace_days=age), False),
        (TcbStatus(grace_days=age + 1, grace_advisories=every), True),
        (TcbStatus(grace_days=age + 1, grace_advisories=two), False),
        (TcbStatus(grace_days=age + 1, grace_statuses=frozenset({"SWHardeningNeeded"})), False),
    ):
        assert rule.appraise(subject).passed is passed


def test_machines_and_kinds_of_the_samples_can_be_listed(shared: Path) -> None:
    subject = outdated(shared)
    assert subject.claims is not None
    ppid, kind = subject.claims.ppid, bytes.fromhex("00806F050000")
    assert len(ppid) == 16
    for rule, passed in (
        (MachineListed(frozenset({ppid})), True),
        (MachineListed(frozenset({bytes(16)})), False),
        (PlatformKind(frozenset({kind})), True),
        (PlatformKind(frozenset({bytes(6)})), False),
    ):
        assert rule.appraise(subject).passed is passed
