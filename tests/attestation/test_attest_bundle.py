"""The whole bundle: TD, event log, GPUs and stapled collateral under one signature, judged without a network."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from attest_machine import BLOCK, MADE, NONCE, LoggingTdx, Machine, failed, signed_again, unchecked
from attest_support import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation import cbor, claims, evidence, policy, rules
from attestation.claims import gpu_nonce
from attestation.collateral import StaticCollateral
from attestation.device_rules import devices_of
from attestation.errors import CollectionError, EvidenceError
from attestation.platforms.base import collect_fresh
from attestation.ratls import Identity
from attestation.staple import Staple
from attestation.verdict import Check, CheckGroup, grow
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@pytest.fixture(scope="module")
def machine() -> Machine:
    return asyncio.run(Machine.boot(gpus=2))


# What is in it


async def test_one_bundle_proves_processor_log_and_gpus_offline(machine: Machine) -> None:
    verdict = (await machine.judged(block_known=BLOCK.__eq__)).require()
    assert verdict.platform == "tdx"
    assert verdict.devices is not None
    assert [device.index for device in verdict.devices] == [0, 1]
    assert len({device.device_id for device in verdict.devices}) == 2
    assert (verdict.judged_at, verdict.made_at, verdict.anchored_at) == (NOW, MADE, None)
    groups = [item.name for item in verdict.tree.checks if isinstance(item, CheckGroup)]
    assert groups == ["bundle", "collateral", "platform", "gpu 0", "gpu 1", "workload", "event log", "gpus"]
    assert all(check.group for check in verdict.checks), "every check has its place in the tree"
    assert verdict.tree.passed


async def test_a_machine_without_gpus_needs_none() -> None:
    plain = await Machine.boot(gpus=0)
    assert (await plain.judged()).devices == ()


async def test_the_devices_are_asked_with_nonces_of_their_own(machine: Machine) -> None:
    asked: list[bytes] = []

    class Noting:
        async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
            asked.extend(nonces(index) for index in range(2))
            return [b"one", b"two"]

    bundle = evidence.parse_bundle(await machine.bundle(devices=Noting()))
    keys = claims.keys_hash({**machine.keys, "tls": machine.identity.public_key})
    assert asked == [gpu_nonce(bundle.root, keys, 0), gpu_nonce(bundle.root, keys, 1)]
    assert asked == [bundle.device_nonce(0), bundle.device_nonce(1)]
    assert len(set(asked)) == 2
    with pytest.raises(EvidenceError):
        gpu_nonce(bytes(31), bytes(32), 0)
    with pytest.raises(EvidenceError):
        gpu_nonce(bytes(32), bytes(32), -1)


async def test_a_collector_that_finds_no_device_makes_no_evidence(machine: Machine) -> None:
    """Leaving the GPUs out would look like a machine that has none."""

    class Empty:
        async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
            return []

    with pytest.raises(CollectionError, match="0 devices"):
        await machine.bundle(devices=Empty())


async def test_evidence_that_no_verifier_would_read_is_not_made(machine: Machine) -> None:
    class Long:
        async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
            return [bytes(evidence.MAX_DEVICE_EVIDENCE + 1)]

    with pytest.raises(EvidenceError, match="GPU evidence"):
        await machine.bundle(devices=Long())


# Attacks, each with the untouched bundle as its control


class Fixed:
    """Shows what was collected elsewhere."""

    def __init__(self, shown: Sequence[bytes]) -> None:
        self.shown = shown

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        return self.shown


async def test_gpu_evidence_of_another_request_is_refused(machine: Machine) -> None:
    """Class 2: evidence that genuine GPUs gave for an earlier nonce, under a fresh quote."""
    earlier = evidence.parse_bundle(await machine.bundle(b"\x01" * 32))
    replayed = await machine.bundle(devices=Fixed(earlier.devices))
    assert failed(await machine.judged(replayed)) == ["gpu nonce", "gpu nonce"]
    assert failed(await machine.judged()) == []


async def test_gpus_in_another_order_are_refused(machine: Machine) -> None:
    class Swapped:
        async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
            assert machine.gpus is not None
            return tuple(reversed(await machine.gpus.collect(nonces)))

    assert failed(await machine.judged(await machine.bundle(devices=Swapped()))) == ["gpu nonce", "gpu nonce"]


async def test_gpu_evidence_exchanged_after_the_quote_is_refused(machine: Machine) -> None:
    """Class 1: the same nonces, answered by other genuine GPUs, put in by who holds the key and not the quote."""
    assert machine.gpus is not None
    bundle = await machine.bundle()
    parsed = evidence.parse_bundle(bundle)
    other = SyntheticGpus(2, clock=lambda: NOW, vendor=machine.gpus.vendor)
    shown = list(await other.collect(parsed.device_nonce))
    relayed = signed_again(bundle, lambda content: content.update(gpu=shown), machine.identity)
    assert "report data" in failed(await machine.judged(relayed))


async def test_a_machine_that_hides_its_gpus_is_refused(machine: Machine) -> None:
    """It says that it computes on GPUs and shows the processor's evidence alone, or that of too few of them."""
    assert failed(await machine.judged(await machine.bundle(devices=None))) == ["stated devices"]
    assert machine.gpus is not None
    one = SyntheticGpus(1, clock=lambda: NOW, vendor=machine.gpus.vendor)
    stapled = Staple(tdx=machine.tdx.collateral_json(), rims=one.rims(), ocsp={**machine.gpus.ocsp(), **one.ocsp()})

    async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
        return stapled

    assert failed(await machine.judged(await machine.bundle(devices=one, staple=staple))) == ["stated devices"]


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ({}, 0),
        ({"device": "cpu", "tensor_parallel": 4}, 0),
        ({"device": "cuda"}, 1),
        ({"device": "cuda", "tensor_parallel": 4, "data_parallel": 2}, 8),
        ({"device": "cuda", "tensor_parallel": 0, "data_parallel": True}, 1),
        ({"device": "cuda", "tensor_parallel": "8"}, 1),
    ],
)
def test_how_many_gpus_an_engine_computes_on(engine: dict[str, object], count: int) -> None:
    assert devices_of(engine) == count


async def test_devices_of_a_maker_that_nobody_trusts_are_refused(machine: Machine) -> None:
    chosen = policy.for_name("simulated", simulated_roots=(machine.tdx.root_der,))
    verdict = await Verifier(chosen, clock=lambda: NOW).verify_bundle(
        await machine.bundle(), nonce=NONCE, public_key=machine.identity.public_key
    )
    assert failed(verdict) == ["gpu evidence", "gpu evidence"]


async def test_an_edited_log_is_refused(machine: Machine) -> None:
    """Class 6, by the holder of the key: the log leads elsewhere."""

    def edited(content: dict[str, Any]) -> None:
        log = cbor2.loads(content["log"])
        log["runtime"] = [*log["runtime"], [bytes(48), "nothing happened"]]
        content["log"] = cbor.encode(log)

    bundle = await machine.bundle()
    assert "event log" in failed(await machine.judged(signed_again(bundle, edited, machine.identity)))
    junk = signed_again(bundle, lambda content: content.update(log=b"junk"), machine.identity)
    assert "event log" in failed(await machine.judged(junk))
    left_out = signed_again(bundle, lambda content: content.update(log=None), machine.identity)
    verdict = await machine.judged(left_out)
    assert "event log" in unchecked(verdict)


@pytest.mark.parametrize("part", ["rims", "ocsp"])
async def test_references_that_are_missing_are_named(machine: Machine, part: str) -> None:
    assert machine.gpus is not None
    stapled = Staple(tdx=machine.tdx.collateral_json(), rims=machine.gpus.rims(), ocsp=machine.gpus.ocsp())
    short = replace(machine, stapled=replace(stapled, **{part: {}}))
    names = failed(await short.judged(await short.bundle()))
    assert names
    assert all(name.startswith("gpu") for name in names)
    whole = replace(machine, stapled=stapled)
    assert failed(await whole.judged(await whole.bundle())) == []


# Every bit of it


@cache
def _whole() -> tuple[Machine, bytes]:
    async def make() -> tuple[Machine, bytes]:
        made = await Machine.boot(gpus=1)
        return made, await made.bundle()

    return asyncio.run(make())


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_one_changed_bit_anywhere_is_refused_with_the_name_of_a_check(data: st.DataObject) -> None:
    machine, bundle = _whole()
    at = data.draw(st.integers(0, 8 * len(bundle) - 1))
    changed = bytearray(bundle)
    changed[at // 8] ^= 1 << at % 8
    verdict = asyncio.run(machine.verifier().verify_bundle(bytes(changed), nonce=None, public_key=None))
    assert not verdict.accepted
    assert set(failed(verdict)) <= {"bundle", "bundle signature", "freshness path", "made at"}
    assert failed(verdict)


def test_the_unchanged_bundle_is_accepted() -> None:
    """Control of the last."""
    machine, bundle = _whole()
    assert asyncio.run(machine.verifier().verify_bundle(bundle, nonce=None, public_key=None)).accepted


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_bundle_cut_short_or_with_bytes_behind_it_is_refused(data: st.DataObject) -> None:
    _, bundle = _whole()
    for bad in (bundle[: data.draw(st.integers(0, len(bundle) - 1))], bundle + data.draw(st.binary(min_size=1))):
        with pytest.raises(EvidenceError):
            evidence.parse_bundle(bad)


_STAPLES = st.builds(
    Staple,
    tdx=st.none() | st.binary(min_size=1, max_size=50),
    snp=st.none() | st.binary(min_size=1, max_size=50),
    rims=st.dictionaries(st.text(min_size=1, max_size=20), st.binary(min_size=1, max_size=50), max_size=4),
    ocsp=st.dictionaries(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=50), max_size=4),
)


@settings(deadline=None)
@given(_STAPLES)
def test_staples_survive(staple: Staple) -> None:
    encoded = cbor.encode(staple.to_value())
    assert Staple.from_value(cbor.decode(encoded, max_length=1 << 16)) == staple
    assert bool(staple) == any((staple.tdx, staple.snp, staple.rims, staple.ocsp))


_CONTENT = st.fixed_dictionaries(
    {
        "nonces": st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=9),
        "block": st.sampled_from([b"", BLOCK]),
        "keys": st.dictionaries(st.sampled_from(["hpke", "receipt"]), st.binary(min_size=32, max_size=32)),
        "devices": st.none() | st.lists(st.binary(max_size=60), min_size=1, max_size=evidence.MAX_DEVICES),
        "log": st.none() | st.binary(max_size=60),
        "quote": st.binary(max_size=60),
        "staple": _STAPLES,
        "made_at": st.integers(0, 2**53 - 1),
        "generation": st.integers(0, 2**32 - 1),
    }
)


@settings(deadline=None)
@given(_CONTENT)
def test_what_goes_into_a_bundle_comes_out_of_it(content: dict[str, Any]) -> None:
    machine, _ = _whole()

    class Any64:
        name = "simulated"

        async def collect(self, report_data: bytes) -> bytes:
            asked.append(report_data)
            return content["quote"]

        async def event_log(self) -> bytes | None:
            return content["log"]

    async def staple(quote: bytes, devices: Sequence[bytes]) -> Staple:
        assert (quote, tuple(devices)) == (content["quote"], tuple(content["devices"] or ()))
        return content["staple"]

    asked: list[bytes] = []
    bundles = asyncio.run(
        evidence.build_bundles(
            Any64(),
            machine.identity,
            replace(machine.statement, generation=content["generation"]),
            content["nonces"],
            content["block"],
            keys=content["keys"],
            devices=Fixed(content["devices"]) if content["devices"] else None,
            staple=staple,
            made_at=content["made_at"],
        )
    )
    assert len(asked) == 1
    for nonce, bundle in zip(content["nonces"], bundles, strict=True):
        parsed = evidence.parse_bundle(bundle)
        assert parsed.signature_holds()
        assert parsed.path_holds()
        assert (parsed.nonce, parsed.report_data()) == (nonce, asked[0])
        assert parsed.keys == {**content["keys"], "tls": machine.identity.public_key}
        assert parsed.devices == tuple(content["devices"] or ())
        assert (parsed.quote, parsed.log, parsed.block_hash) == (content["quote"], content["log"], content["block"])
        assert (parsed.collateral, parsed.made_at) == (content["staple"], content["made_at"])
        assert parsed.statement.generation == content["generation"]


def test_an_earlier_version_is_named() -> None:
    _, bundle = _whole()
    old = {**cbor2.loads(bundle), "version": 1}
    with pytest.raises(EvidenceError, match="version 1, expected 2"):
        evidence.parse_bundle(cbor.encode(old))


# Whose collateral


async def test_our_own_collateral_goes_first_and_the_stapled_one_serves_else(machine: Machine) -> None:
    """A peer could staple collateral from before a TCB recovery."""
    bundle, key = await machine.bundle(), machine.identity.public_key
    chosen = machine.verifier().policy
    own = Verifier(chosen, StaticCollateral(machine.tdx.collateral_json()), clock=lambda: NOW)
    seen = {}
    for name, verifier in (("own", own), ("stapled", machine.verifier())):
        verdict = (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=key)).require()
        seen[name] = next(check.seen for check in verdict.checks if check.name == "collateral")
    assert seen == {"own": "own", "stapled": "stapled"}
    stale = Verifier(chosen, StaticCollateral(b"{}"), clock=lambda: NOW)
    assert failed(await stale.verify_bundle(bundle, nonce=NONCE, public_key=key)) == ["quote"]
    # As of the time that it states, what it was stapled with is what held.
    assert (await stale.verify_bundle(bundle, nonce=NONCE, public_key=key, at=MADE)).accepted


async def test_a_verdict_lives_no_longer_than_the_shortest_lived_piece(machine: Machine) -> None:
    """Revocation answers hold for a day, the processor's collateral for a month."""
    verdict = await machine.judged()
    assert NOW < verdict.expires_at <= NOW + 86_400 + 1
    plain = await Machine.boot(gpus=0)
    assert (await plain.judged()).expires_at > NOW + 7 * 86_400
    verifier = machine.verifier(now=verdict.expires_at + 1)
    bundle = await machine.bundle()
    late = await verifier.verify_bundle(bundle, nonce=NONCE, public_key=machine.identity.public_key)
    assert not late.accepted
    assert all("revocation" in name for name in failed(late))


async def test_a_kept_verdict_ends_with_the_shortest_lived_piece(machine: Machine) -> None:
    now = [NOW]
    verifier = Verifier(machine.verifier().policy, clock=lambda: now[0])
    bundle, key = await machine.bundle(), machine.identity.public_key
    first = (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=key)).require()
    now[0] = first.expires_at - 1
    assert (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=key)).accepted
    now[0] = first.expires_at + 1
    assert not (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=key)).accepted


# Times


async def test_a_bundle_verifies_in_ten_years_at_its_stated_time(machine: Machine) -> None:
    bundle, key = await machine.bundle(), machine.identity.public_key
    later = machine.verifier(now=NOW + 10 * 365 * 86_400)
    assert not (await later.verify_bundle(bundle, nonce=NONCE, public_key=key)).accepted
    verdict = (await later.verify_bundle(bundle, nonce=None, public_key=None, at=MADE)).require()
    assert (verdict.judged_at, verdict.made_at, verdict.anchored_at) == (MADE, MADE, None)
    assert {"anchor", "nonce", "channel key", "block"} <= set(unchecked(verdict))
    anchored = (
        await later.verify_bundle(bundle, nonce=None, public_key=None, at=MADE, anchored_at=MADE + 60)
    ).require()
    assert anchored.anchored_at == MADE + 60
    (anchor,) = [check for check in anchored.checks if check.name == "anchor"]
    assert anchor.checked
    assert "60 s after the stated time" in anchor.seen
    early = await later.verify_bundle(bundle, nonce=None, public_key=None, at=MADE, anchored_at=MADE - 3600)
    assert failed(early) == ["anchor"]
    assert failed(await later.verify_bundle(bundle, nonce=None, public_key=None, at=MADE - 3600)) == ["made at"]


async def test_judging_the_past_leaves_nothing_behind(machine: Machine) -> None:
    """A verdict about then is no verdict about now."""
    bundle, key = await machine.bundle(), machine.identity.public_key
    later = machine.verifier(now=NOW + 10 * 365 * 86_400)
    assert (await later.verify_bundle(bundle, nonce=NONCE, public_key=key, at=MADE)).accepted
    assert not (await later.verify_bundle(bundle, nonce=NONCE, public_key=key)).accepted


async def test_a_policy_can_demand_an_age(machine: Machine) -> None:
    bundle, key = await machine.bundle(), machine.identity.public_key
    for seconds, names in ((4, ["age"]), (6, [])):
        chosen = machine.verifier().policy.demanding(rules.MaxAge(seconds))
        verdict = await Verifier(chosen, clock=lambda: NOW).verify_bundle(bundle, nonce=NONCE, public_key=key)
        assert failed(verdict) == names
        assert verdict.expires_at <= MADE + seconds


# Certificates


async def test_a_certificate_names_its_bundle(machine: Machine) -> None:
    bundle = await machine.bundle()
    digest = evidence.bundle_digest(bundle)
    identity = machine.identity
    await identity.refresh(bundle_digest=digest)
    verifier = Verifier(machine.verifier().policy, StaticCollateral(machine.tdx.collateral_json()), clock=lambda: NOW)
    named = (await verifier.verify_certificate(identity.certificate)).require()
    assert named.bundle_digest == digest
    assert named.public_key is not None
    given = {"nonce": None, "public_key": named.public_key, "digest": named.bundle_digest}
    assert (await verifier.verify_bundle(bundle, **given)).accepted
    other = await machine.bundle(b"\x02" * 32)
    assert failed(await verifier.verify_bundle(other, **given)) == ["bundle digest"]
    assert "gpu policy" not in unchecked(named), "a certificate says nothing about GPUs"
    assert named.devices is None
    plain = await Identity.create(LoggingTdx(machine.tdx), clock=lambda: NOW)
    assert (await verifier.verify_certificate(plain.certificate)).bundle_digest is None


# Nothing is skipped silently


async def test_what_no_rule_looked_at_is_listed(machine: Machine) -> None:
    verdict = await machine.judged()
    listed = unchecked(verdict)
    assert {"image", "machine", "statement", "block"} <= set(listed)
    (statement,) = [check for check in verdict.checks if check.name == "statement"]
    assert statement.seen.startswith("not compared: measured_config, model, model_hash, engine, ")
    values = rules.StatementValues({"owner": machine.statement.owner})
    chosen = machine.verifier().policy.demanding(values, rules.ImageListed(_Registry(machine.statement.image)))
    strict = await Verifier(chosen, clock=lambda: NOW).verify_bundle(
        await machine.bundle(), nonce=NONCE, public_key=machine.identity.public_key
    )
    strict.require()
    assert "image" not in unchecked(strict)
    (statement,) = [check for check in strict.checks if check.name == "statement"]
    assert "owner" not in statement.seen
    assert "model, model_hash" in statement.seen


async def test_a_configuration_that_the_launch_names_is_compared() -> None:
    config = b"\x0c" * 32
    for register, listed in ((config + bytes(16), False), (bytes(48), True)):
        launched = SyntheticTdx(clock=lambda: NOW, registers={"mr_config_id": register})
        verdict = (await (await Machine.boot(gpus=0, tdx=launched)).judged()).require()
        (statement,) = [check for check in verdict.checks if check.name == "statement"]
        assert ("measured_config" in statement.seen) is listed


class _Registry:
    def __init__(self, image: bytes) -> None:
        self.image = image

    def image_listed(self, image_hash: bytes, /) -> bool:
        return image_hash == self.image


def test_the_tree_grows_by_groups_in_order() -> None:
    checks = [
        Check("a", True, "", "", group="platform"),
        Check("b", True, "", "", group="platform/tcb"),
        Check("c", False, "", "", group="gpu 1"),
        Check("d", True, "", "", group="platform/tcb"),
        Check("e", True, "", ""),
    ]
    tree = grow(checks)
    assert not tree.passed
    platform, gpu, loose = tree.checks
    assert isinstance(platform, CheckGroup)
    assert platform.passed
    assert [item.name for item in platform.checks] == ["a", "tcb"]
    assert isinstance(gpu, CheckGroup)
    assert gpu.title == "GPU 1"
    assert loose == checks[-1]
    assert grow([]).checks == ()


# Collection


async def test_a_log_that_grows_while_the_quote_is_made_is_taken_again() -> None:
    class Growing(LoggingTdx):
        def __init__(self, *logs: bytes) -> None:
            super().__init__(SyntheticTdx(clock=lambda: NOW))
            self.logs = list(logs)

        async def event_log(self) -> bytes | None:
            return self.logs.pop(0)

    _, log = await collect_fresh(Growing(b"a", b"ab", b"ab"), bytes(64))
    assert log == b"ab"
    with pytest.raises(CollectionError, match="changed during each"):
        await collect_fresh(Growing(*(bytes([i]) for i in range(9))), bytes(64))


def test_expiry_of_nothing_is_never() -> None:
    assert rules.MaxAge(5).appraise(rules.Subject(None, None, bytes(32), bytes(64), NOW)).expires_at == math.inf
