"""Azure's evidence, and every way to falsify it that can be staged; each has the untouched evidence as its control."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cloud_support import BOOTED, MEASURED, OTHER_PREDICTION, REFERENCE, judge_azure, statement

from appliance.lab.cloud_world_azure import PARAVISOR, AzureAttack, AzureWorld
from appliance.lab.snp_world import SnpAttack, SyntheticSnp
from attestation import cbor
from attestation.azure.evidence import parse_azure
from attestation.azure.references import MICROSOFT_ID_KEYS, image_hash
from attestation.azure.rules import Settings, UserData, azure_rules
from attestation.snp.rules import SnpIdKeys, snp_rules
from attestation.snp.tcb import Product
from attestation.tpm.logs import SystemEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.lab.snp_world import SnpPki

PCR4 = "PCR 4 (what firmware started: the image and its kernel)"


@pytest.fixture(scope="module")
def honest(genoa: SnpPki) -> AzureWorld:
    return AzureWorld(BOOTED, SyntheticSnp(machine=PARAVISOR, pki=genoa))


def test_an_honest_machine_is_accepted(honest: AzureWorld, question: bytes) -> None:
    judged = judge_azure(honest, question)
    assert judged.failed == []
    assert judged.image_hash == image_hash(PARAVISOR.measurement, BOOTED.registers)
    assert judged.machine == honest.snp.chip_id
    assert judged.expires_at > 0
    assert "tpm" not in judged.unchecked, "the paravisor vouches for the TPM"


def test_its_certificate_form_is_accepted_and_says_what_was_not_judged(honest: AzureWorld, question: bytes) -> None:
    judged = judge_azure(honest, question, fresh=False)
    assert judged.failed == []
    assert {"user data", "event log"} <= set(judged.unchecked)
    assert len(honest.evidence(question, fresh=False)) < 16 * 1024


def test_the_certificates_that_azure_keeps_are_enough_but_for_revocation(honest: AzureWorld, question: bytes) -> None:
    assert judge_azure(honest, question, collateral=None).failed == ["revocation"]
    lenient = snp_rules(id_keys=SnpIdKeys(id_keys=MICROSOFT_ID_KEYS), require_revocation_list=False)
    judged = judge_azure(honest, question, collateral=None, rules=azure_rules(snp=lenient, references=(REFERENCE,)))
    assert judged.failed == []
    assert "revocation" in judged.unchecked


def test_without_any_certificates_the_reason_is_told(honest: AzureWorld, question: bytes) -> None:
    bare = replace(parse_azure(honest.evidence(question)), certificates={}).encode()
    assert judge_azure(honest, question, data=bare).failed == []
    assert judge_azure(honest, question, data=bare, collateral=None).failed == ["snp collateral"]


ATTACKS = {
    "runtime_altered": "runtime data",
    "key_swapped": "runtime data",
    "other_vtpm": "quote signature",
    "key_of_another": "certified key",
    "report_of_another": "runtime data",
    "unrestricted_key": "attestation key",
    "replayed": "report data",
    "stale_report": "user data",
    "register_altered": "register digest",
    "log_altered": "event log",
    "tdx": "paravisor hardware",
    "tpm_disabled": "machine setting tpm-enabled",
}


@pytest.mark.parametrize(("field", "check"), ATTACKS.items())
def test_an_attack_above_the_processor_is_refused(genoa: SnpPki, question: bytes, field: str, check: str) -> None:
    """The control, the same machine without the attack, is ``test_an_honest_machine_is_accepted``."""
    snp = SyntheticSnp(machine=PARAVISOR, pki=genoa)
    judged = judge_azure(AzureWorld(BOOTED, snp, attack=AzureAttack(**{field: True})), question)
    assert judged.failed == [check]


def test_every_attack_of_the_world_is_in_the_table() -> None:
    assert {field.name for field in fields(AzureAttack)} == set(ATTACKS)


PROCESSOR_ATTACKS: dict[str, tuple[SnpAttack, str]] = {
    "a paravisor that may be debugged": (SnpAttack(debug_policy=True), "debug policy"),
    "a migration agent": (SnpAttack(migration_agent=True), "migration agent"),
    "a program below the paravisor": (SnpAttack(vmpl=2), "vmpl"),
    "a paravisor that a stranger signed": (SnpAttack(stranger_id_key=True), "id key"),
    "another chip's certificate": (SnpAttack(other_chip_certificate=True), "report signature"),
    "a forged report": (SnpAttack(forged_signature=True), "report signature"),
    "AMD's names, another root": (SnpAttack(foreign_chain=True), "certificate chain"),
    "memory not checked for aliases": (SnpAttack(aliases_unchecked=True), "memory alias check"),
}


@pytest.mark.parametrize(("attack", "check"), PROCESSOR_ATTACKS.values(), ids=list(PROCESSOR_ATTACKS))
def test_an_attack_on_the_processors_report_is_refused(
    genoa: SnpPki, question: bytes, attack: SnpAttack, check: str
) -> None:
    world = AzureWorld(BOOTED, SyntheticSnp(attack, machine=PARAVISOR, pki=genoa))
    assert check in judge_azure(world, question).failed


def test_another_paravisor_is_another_identity(honest: AzureWorld, genoa: SnpPki, question: bytes) -> None:
    other = AzureWorld(BOOTED, SyntheticSnp(SnpAttack(other_image=True), machine=PARAVISOR, pki=genoa))
    listed = judge_azure(honest, question).image_hash
    judged = judge_azure(other, question)
    assert judged.failed == [], "whoever lists it may take it"
    assert judged.image_hash != listed
    assert judge_azure(other, question, said=statement(listed)).failed == ["statement image"]


def test_another_image_is_named_by_its_registers(genoa: SnpPki, question: bytes) -> None:
    world = AzureWorld(replace(BOOTED, prediction=OTHER_PREDICTION), SyntheticSnp(machine=PARAVISOR, pki=genoa))
    assert PCR4 in judge_azure(world, question).failed


def test_what_the_host_added_is_named(genoa: SnpPki, question: bytes) -> None:
    added = replace(BOOTED, added=(SystemEvent(12, b"\x0c" * 32, "a credential"),))
    world = AzureWorld(added, SyntheticSnp(machine=PARAVISOR, pki=genoa))
    assert judge_azure(world, question).failed == ["PCR 12 (command-line overrides, credentials and addons)"]
    assert judge_azure(world, question, rules=azure_rules()).failed == [
        "PCR 12 (command-line overrides, credentials and addons)"
    ], "without references too"


def test_another_configuration_than_stated_is_named(honest: AzureWorld, question: bytes) -> None:
    image = image_hash(PARAVISOR.measurement, BOOTED.registers)
    assert judge_azure(honest, question, said=statement(image, MEASURED)).failed == []
    said = statement(image, bytes(32))
    assert judge_azure(honest, question, said=said).failed == ["stated configuration (PCR 14)"]


def test_milan_is_refused_unless_a_policy_takes_it(question: bytes) -> None:
    world = AzureWorld(BOOTED, SyntheticSnp(machine=replace(PARAVISOR, product=Product.MILAN)))
    assert judge_azure(world, question).failed == ["product"]
    signed = SnpIdKeys(id_keys=MICROSOFT_ID_KEYS, required=True)
    lenient = azure_rules(snp=snp_rules(products=frozenset(Product), id_keys=signed))
    assert judge_azure(world, question, rules=lenient).failed == []


def test_old_reports_are_listed_where_a_policy_allows_them(genoa: SnpPki, question: bytes) -> None:
    world = AzureWorld(BOOTED, SyntheticSnp(machine=PARAVISOR, pki=genoa), attack=AzureAttack(stale_report=True))
    allowed = azure_rules(references=(REFERENCE,), user_data=UserData(demanded=False))
    judged = judge_azure(world, question, rules=allowed)
    assert judged.failed == []
    assert "user data" in judged.unchecked


def test_settings_can_be_demanded(honest: AzureWorld, question: bytes) -> None:
    wanted = azure_rules(settings=Settings({"secure-boot": True, "console-enabled": False}))
    assert judge_azure(honest, question, rules=wanted).failed == []
    other = azure_rules(settings=Settings({"secure-boot": True, "console-enabled": True}))
    assert judge_azure(honest, question, rules=other).failed == ["machine setting console-enabled"]
    missing = azure_rules(settings=Settings({"no-such-setting": False}))
    assert judge_azure(honest, question, rules=missing).failed == ["machine setting no-such-setting"]


def test_a_tds_refusal_gives_the_reason(genoa: SnpPki, question: bytes) -> None:
    world = AzureWorld(BOOTED, SyntheticSnp(machine=PARAVISOR, pki=genoa), attack=AzureAttack(tdx=True))
    check = judge_azure(world, question).of("paravisor hardware")
    assert check.seen == "TDX, td_attributes: no bit set"
    assert "SEPT_VE_DISABLE" in check.hint
    assert judge_azure(world, question).of("runtime data").passed


def test_roots_of_another_run_are_no_roots(honest: AzureWorld, question: bytes) -> None:
    judged = judge_azure(honest, question, roots=frozenset({bytes(48)}))
    assert judged.failed == ["certificate chain"]


def _fields(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        value = cbor2.loads(data)
        change(value)
        return cbor.encode(value)

    return changed


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "trailing": lambda data: data + b"\0",
    "another version": _fields(lambda value: value.update(version=2)),
    "another kind": _fields(lambda value: value.update(kind="snp")),
    "a field more": _fields(lambda value: value.update(more=1)),
    "a field less": _fields(lambda value: value.pop("certificates")),
    "a report that is text": _fields(lambda value: value.update(report="HCLA")),
    "a report that is too long": _fields(lambda value: value.update(report=bytes(9000))),
    "an unknown certificate": _fields(lambda value: value["certificates"].update(more=b"1")),
    "a certificate that is none": _fields(lambda value: value["certificates"].update(vcek=1)),
    "an empty quote": _fields(lambda value: value.update(tpm=b"")),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_evidence_is_a_failed_check(
    honest: AzureWorld, question: bytes, change: Callable[[bytes], bytes]
) -> None:
    data = honest.evidence(question)
    assert judge_azure(honest, question, data=data).failed == []
    assert judge_azure(honest, question, data=change(data)).failed == ["azure evidence"]
