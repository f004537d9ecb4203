"""Classes 6, 7 and 8: what the host hands to a machine before it runs, and which list of it is believed.

Every machine here is genuine, its quote is good and (but where it says so) its log leads to its registers: only exact
digests, or the image hash over all registers, keep it out.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from attacks_support import (
    CONFIGURATION,
    NONCE,
    NOW,
    ROOT_CONTRACT,
    Listing,
    Machine,
    appended,
    booted,
    failed,
    image_of,
    judged,
    relaid,
)

from appliance.lab.tee import Faults, SyntheticTdx
from appliance.lab.tee_log import ACPI_POSITIONS, KERNEL_POSITION
from attestation.errors import PolicyError
from attestation.policies.rules import EventsAre
from attestation.policy_file import load_policy
from attestation.rules import ImageListed, StatementValues
from attestation.tdx_log import RuntimeEvent, TdxLog
from attestation.tdx_log_rules import EventDigests, LogReplays
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

BOUND = {"mr_config_id": CONFIGURATION + bytes(16)}


@pytest.fixture(scope="module")
def good() -> SyntheticTdx:
    """The machine that everybody wants, launched for its configuration."""
    return SyntheticTdx(registers=BOUND, clock=lambda: NOW)


def digests(tdx: SyntheticTdx, register: int) -> tuple[bytes, ...]:
    return tuple(event.digest for event in tdx.log.registers[register])


async def test_hostile_acpi_tables_are_refused_by_their_digests(good: SyntheticTdx) -> None:
    """Class 7. Their code runs in the guest's kernel; the machine is genuine and its log is honest about them."""
    hostile = SyntheticTdx(Faults(hostile_acpi=True), registers=BOUND, clock=lambda: NOW)
    pinned = EventDigests(
        register=0, required={at: frozenset({digests(good, 0)[at]}) for at in ACPI_POSITIONS}, count=13
    )
    listed = EventsAre(register="rtmr0", exactly=digests(good, 0))
    names = [*(f"rtmr0 event {at}" for at in ACPI_POSITIONS), "events of rtmr0: exactly"]
    for tdx, expected in ((good, []), (hostile, names)):
        bundle = await (await Machine.start(tdx)).bundle()
        assert failed(await judged(bundle, tdx, pinned, listed)) == expected
        # Whoever pins RTMR0 by the image hash needs no log.
        registry = ImageListed(Listing(image_of(good)))
        assert failed(await judged(bundle, tdx, registry)) == (["image"] if expected else [])
        # Whoever pins neither is not protected: nothing else in the evidence is wrong.
        assert failed(await judged(bundle, tdx)) == []


async def test_hostile_acpi_tables_behind_the_log_of_good_ones_are_refused(good: SyntheticTdx) -> None:
    """Class 7 and 6: the list that a policy would like is shown, and another was measured."""
    hostile = SyntheticTdx(Faults(hostile_acpi=True), registers=BOUND, clock=lambda: NOW)
    hostile.log = good.log
    rules = (EventDigests(register=0, count=13), EventsAre(register="rtmr0", exactly=digests(good, 0)))
    names = ["event log", "rtmr0 events", "events of rtmr0"]
    for tdx, expected in ((good, []), (hostile, names)):
        assert failed(await judged(await (await Machine.start(tdx)).bundle(), tdx, *rules)) == expected


async def test_a_command_line_of_the_hosts_is_refused(good: SyntheticTdx) -> None:
    """Class 8: disk encryption off, a debug shell, variables of the environment: all of it is words for the kernel."""
    said = "roothash=0 systemd.setenv=LD_PRELOAD=/x chrysalis.encryption=off\0".encode("utf-16-le")
    hostile = booted(relaid(good.log, 2, 0, hashlib.sha384(said).digest()), good)
    control = booted(relaid(good.log, 2, 0, digests(good, 2)[0]), good)
    exact, registry = EventDigests.exactly(2, digests(good, 2)), ImageListed(Listing(image_of(good)))
    for tdx, expected in ((control, []), (hostile, ["rtmr2 event 0", "image"])):
        bundle = await (await Machine.start(tdx)).bundle()
        assert failed(await judged(bundle, tdx, LogReplays(required=True), exact, registry)) == expected


async def test_a_configuration_of_the_hosts_is_refused(good: SyntheticTdx) -> None:
    """Class 8: the registry, collateral, trust or root contract of somebody else, in the same image."""
    registry = ImageListed(Listing(image_of(good)))
    other = hashlib.sha256(b"trust anybody, obey another root contract").digest()
    hostile = booted(good.log, good, mr_config_id=other + bytes(16))
    honest = await Machine.start(good)
    assert failed(await judged(await honest.bundle(), good, registry)) == []
    # The guest compares what it was launched for with what it reads, and states what it read.
    truthful = await Machine.start(hostile, measured_config=other)
    assert failed(await judged(await truthful.bundle(), good, registry)) == ["image"]
    # Evidence in which launch and statement differ is no guest of ours at all.
    lying = await Machine.start(hostile)
    assert failed(await judged(await lying.bundle(), good)) == ["mr_config_id"]
    pretending = await Machine.start(hostile, image=image_of(good))
    assert failed(await judged(await pretending.bundle(), good)) == ["mr_config_id", "statement image"]


async def test_a_launch_that_names_no_configuration_is_bound_by_the_statement_alone() -> None:
    """Class 8, and its limit: where MRCONFIGID is zero the image hash is the same for every configuration.

    The measured guest states which it read, so a policy that demands it refuses others; one that does not, does not.
    """
    unbound = SyntheticTdx(clock=lambda: NOW)
    registry = ImageListed(Listing(image_of(unbound)))
    wanted = StatementValues({"measured_config": CONFIGURATION, "root_contract": ROOT_CONTRACT})
    honest = await Machine.start(unbound)
    hostile = await Machine.start(unbound, measured_config=b"\x0d" * 32, root_contract="0:" + "66" * 32)
    for machine, expected in ((honest, []), (hostile, ["statement measured_config", "statement root_contract"])):
        bundle = await machine.bundle()
        assert failed(await judged(bundle, unbound, registry, wanted)) == expected
        assert failed(await judged(bundle, unbound, registry)) == []


async def test_the_list_that_is_looked_at_is_the_list_that_was_replayed(good: SyntheticTdx) -> None:
    """Class 6: the wanted kernel's digest stands in the log twice over, and it was never started."""
    wanted = digests(good, 1)[KERNEL_POSITION]
    evil = hashlib.sha384(b"another kernel").digest()
    started = relaid(good.log, 1, KERNEL_POSITION, evil)
    rules = (
        EventDigests(register=1, required={KERNEL_POSITION: frozenset({wanted})}),
        EventsAre(register="rtmr1", contains=(wanted,)),
    )
    honest = await Machine.start(good)
    assert failed(await judged(await honest.bundle(), good, *rules)) == []
    machine = await Machine.start(booted(started, good))
    assert failed(await judged(await machine.bundle(), good, *rules)) == ["rtmr1 event 0", "events of rtmr1: contain"]
    # As digest and as text in the list of another register, which the guest may extend with what it likes.
    elsewhere = booted(TdxLog(started.firmware, (RuntimeEvent(wanted, f"kernel {wanted.hex()}"),)), good)
    machine = await Machine.start(elsewhere)
    assert failed(await judged(await machine.bundle(), good, *rules)) == ["rtmr1 event 0", "events of rtmr1: contain"]
    # In the shown list alone, beside or instead of what was measured.
    shown = booted(started, good)
    shown.log = good.log
    machine = await Machine.start(shown)
    names = ["event log", "rtmr1 events", "events of rtmr1"]
    assert failed(await judged(await machine.bundle(), good, *rules)) == names


async def test_a_hostile_guest_can_add_the_digest_that_a_policy_misses(good: SyntheticTdx) -> None:
    """Class 7, and a limit of ``contains``: whoever took the kernel over may extend registers too, after the fact.

    The hostile tables stay where they were measured. So their place, or the whole list, has to be what is demanded.
    """
    wanted = {at: digests(good, 0)[at] for at in ACPI_POSITIONS}
    hostile = SyntheticTdx(Faults(hostile_acpi=True), registers=BOUND, clock=lambda: NOW)
    added = booted(appended(hostile.log, 0, *wanted.values()), good)
    contains = EventsAre(register="rtmr0", contains=tuple(wanted.values()))
    placed = EventDigests(register=0, required={at: frozenset({digest}) for at, digest in wanted.items()})
    only = EventsAre(register="rtmr0", only=frozenset(digests(good, 0)))
    exactly = EventsAre(register="rtmr0", exactly=digests(good, 0))
    at = EventsAre(register="rtmr0", at={place: frozenset({digest}) for place, digest in wanted.items()})
    refusals = [*(f"rtmr0 event {at}" for at in ACPI_POSITIONS), "events of rtmr0: only", "events of rtmr0: exactly"]
    refusals += [f"events of rtmr0: event {place}" for place in ACPI_POSITIONS]
    for tdx, expected in ((good, []), (added, refusals)):
        bundle = await (await Machine.start(tdx)).bundle()
        assert failed(await judged(bundle, good, LogReplays(required=True), contains)) == []
        assert failed(await judged(bundle, good, placed, only, exactly, at)) == expected


def test_a_policys_file_can_name_places(tmp_path: Path, good: SyntheticTdx) -> None:
    """As ``at``; what is no place or names no digest is refused with its key."""
    path = tmp_path / "policy.json"
    (tmp_path / "tdx.der").write_bytes(good.root_der)

    def demanding(**rule: Any) -> Path:
        rules = [{"register": "rtmr0", **rule}]
        document = {"name": "p", "simulated": {"tdx": ["tdx.der"]}, "platforms": ["tdx"], "event_log": {"rules": rules}}
        path.write_text(json.dumps(document))
        return path

    machine = asyncio.run(Machine.start(good))
    bundle = asyncio.run(machine.bundle())

    def refused(**rule: Any) -> list[str]:
        verifier = Verifier(load_policy(demanding(**rule)), clock=lambda: NOW)
        return failed(asyncio.run(verifier.verify_bundle(bundle, nonce=NONCE, public_key=None)))

    digest = digests(good, 0)[10].hex()
    assert refused(at={"10": ["11" * 48, digest]}) == []
    assert refused(at={"9": [digest]}) == ["events of rtmr0: event 9"]
    assert refused(at={"13": [digest]}) == ["events of rtmr0: event 13"]
    for wrong, said in (({"-1": [digest]}, "event_log.rules"), ({"01": [digest]}, "rules"), ({"1": []}, "at")):
        with pytest.raises(PolicyError, match=said):
            load_policy(demanding(at=wrong))
