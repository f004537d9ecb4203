"""Fresh evidence: what is bound, and that none of it can be exchanged (attack classes 9 and 13)."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from attest_support import NOW, World, verifier_for
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor, claims, evidence, merkle, policy, rules
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.collateral import StaticCollateral
from attestation.errors import AttestationError, CollectionError, EvidenceError
from attestation.ratls import Identity
from attestation.staple import MAX_OCSP, MAX_RIMS, MAX_SNP, Staple
from attestation.tdx import parse_quote
from attestation.tpm.evidence import MAX_EVIDENCE
from attestation.verifier import Verifier
from measurements.eventlog import MAX_LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.lab.tee import SyntheticTdx

NONCE = b"\x4e" * 32
BLOCK = b"\xb1" * 32


def _statement(tdx: SyntheticTdx, **changes: Any) -> WorkloadStatement:
    image = claims.image_hash(parse_quote(tdx.quote(bytes(64))).report.measurements)
    statement = WorkloadStatement(
        image=image,
        measured_config=b"\x0c" * 32,
        model="org/model@main:" + "ab" * 32,
        model_hash=b"\xab" * 32,
        engine={"name": "sglang", "flags": ["--tp", 1], "remote code": False, "extra": None},
        root_contract="0:" + "11" * 32,
        owner="0:" + "22" * 32,
        coefficient=1500,
    )
    return replace(statement, **changes)


class Guest:
    """One guest with its identity and statement."""

    def __init__(
        self, world: SyntheticTdx, identity: Identity, statement: WorkloadStatement, **registers: bytes
    ) -> None:
        self.platform = World(world, **registers)
        self.identity = identity
        self.statement = statement

    @classmethod
    async def boot(cls, world: SyntheticTdx, **changes: Any) -> Guest:
        return cls(world, await Identity.create(World(world), clock=lambda: NOW), _statement(world, **changes))

    async def bundle(self, nonce: bytes = NONCE, collateral: bytes | None = None, **options: Any) -> bytes:
        async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
            return Staple(tdx=collateral)

        return await evidence.build_bundle(
            self.platform, self.identity, self.statement, nonce, BLOCK, staple=staple, made_at=NOW - 5, **options
        )


async def test_a_fresh_bundle_is_accepted_and_tells_the_workload(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world)
    bundle = await guest.bundle()
    digest = hashlib.sha256(bundle).digest()
    verdict = await verifier_for(world).verify_bundle(
        bundle, nonce=NONCE, public_key=guest.identity.public_key, digest=digest, block_known=BLOCK.__eq__
    )
    verdict.require()
    assert verdict.statement == guest.statement
    assert verdict.explain()[0].startswith("no assurance")
    assert '"owner": "0:2222' in verdict.to_json()
    assert evidence.bundle_digest(bundle) == digest
    assert evidence.parse_bundle(bundle).report_data() == claims.report_data(
        merkle.leaf(NONCE),
        claims.keys_hash({"tls": guest.identity.public_key}),
        claims.gpu_evidence_hash([]),
        guest.statement.digest(),
    )


async def test_a_replayed_a_relayed_and_an_old_bundle_are_refused(world: SyntheticTdx) -> None:
    guest, other = await Guest.boot(world), await Guest.boot(world)
    bundle = await guest.bundle()
    verifier, key = verifier_for(world), guest.identity.public_key
    assert (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=key)).accepted
    cases: list[tuple[dict[str, Any], str]] = [
        ({"nonce": b"\x4f" * 32, "public_key": key}, "nonce"),
        ({"nonce": NONCE, "public_key": other.identity.public_key}, "channel key"),
        ({"nonce": NONCE, "public_key": key, "digest": bytes(32)}, "bundle digest"),
        ({"nonce": NONCE, "public_key": key, "block_known": lambda _: False}, "block"),
    ]
    for arguments, check in cases:
        verdict = await verifier.verify_bundle(bundle, **arguments)
        assert [item.name for item in verdict.failed] == [check]
    late = await verifier_for(world, now=NOW - 3600).verify_bundle(bundle, nonce=NONCE, public_key=key)
    assert [item.name for item in late.failed] == ["made at"]


def _changed(bundle: bytes, change: Callable[[dict[str, Any]], object], signer: Identity | None = None) -> bytes:
    """A bundle with other content; with a signer, signed again by it."""
    content = cbor2.loads(bundle)
    change(content)
    if signer is not None:
        del content["signature"]
        content["signature"] = signer.sign(b"chrysalis evidence bundle v2\0" + cbor.encode(content))
    return cbor.encode(content)


def _with_owner(content: dict[str, Any]) -> None:
    statement = WorkloadStatement.from_cbor(content["statement"])
    content["statement"] = replace(statement, owner="0:" + "99" * 32).to_cbor()


async def test_nobody_swaps_the_owner_the_key_or_the_price(world: SyntheticTdx) -> None:
    """Neither the host, which has no key, nor a guest that signs something else than its quote covers."""
    guest, thief = await Guest.boot(world), await Identity.create(World(world), clock=lambda: NOW)
    bundle = await guest.bundle()
    verifier, key = verifier_for(world), guest.identity.public_key
    assert (await verifier.verify_bundle(_changed(bundle, bool, guest.identity), nonce=NONCE, public_key=key)).accepted

    async def failed(changed: bytes, public_key: bytes = key) -> list[str]:
        verdict = await verifier.verify_bundle(changed, nonce=NONCE, public_key=public_key)
        assert not verdict.accepted
        return [item.name for item in verdict.failed]

    assert await failed(_changed(bundle, _with_owner)) == ["bundle signature"]
    assert await failed(_changed(bundle, _with_owner, guest.identity)) == ["report data"]
    assert await failed(_changed(bundle, lambda content: content.update(block=bytes(32)))) == ["bundle signature"]
    assert await failed(_changed(bundle, lambda content: content.update(made=1))) == ["bundle signature"]

    def with_key(content: dict[str, Any]) -> None:
        content["keys"] = {"tls": thief.public_key}

    assert await failed(_changed(bundle, with_key, thief), thief.public_key) == ["report data"]
    assert await failed(_changed(bundle, lambda content: content.update(gpu=[b"other"]), guest.identity)) == [
        "gpu evidence",
        "report data",
    ]
    assert await failed(_changed(bundle, lambda content: content.update(root=bytes(32)), guest.identity)) == [
        "freshness path"
    ]


async def test_a_statement_about_another_image_or_configuration_is_refused(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world, image=b"\x01" * 32)
    verifier = verifier_for(world)
    verdict = await verifier.verify_bundle(await guest.bundle(), nonce=NONCE, public_key=guest.identity.public_key)
    assert [item.name for item in verdict.failed] == ["statement image"]
    config = b"\x0c" * 32 + bytes(16)
    for register, accepted in ((config, True), (b"\x0d" * 48, False)):
        bound = await Guest.boot(world)
        image = claims.image_hash(parse_quote(world.quote(bytes(64), mr_config_id=register)).report.measurements)
        bound = Guest(world, bound.identity, replace(bound.statement, image=image), mr_config_id=register)
        verdict = await verifier.verify_bundle(await bound.bundle(), nonce=NONCE, public_key=bound.identity.public_key)
        assert verdict.accepted is accepted
        assert [item.name for item in verdict.failed] == ([] if accepted else ["mr_config_id"])


async def test_policies_can_demand_statement_values(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world)
    base = policy.for_name("simulated", simulated_roots=(world.root_der,))
    for owner, accepted in ((guest.statement.owner, True), ("0:" + "33" * 32, False)):
        demanding = base.demanding(rules.StatementValues({"owner": owner, "model_hash": b"\xab" * 32}))
        verifier = Verifier(demanding, StaticCollateral(world.collateral_json()), clock=lambda: NOW)
        verdict = await verifier.verify_bundle(await guest.bundle(), nonce=NONCE, public_key=guest.identity.public_key)
        assert verdict.accepted is accepted


async def test_stapled_collateral_serves_a_verifier_that_has_none(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world)
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    offline = Verifier(chosen, clock=lambda: NOW)
    key = guest.identity.public_key
    assert not (await offline.verify_bundle(await guest.bundle(), nonce=NONCE, public_key=key)).accepted
    stapled = await guest.bundle(collateral=world.collateral_json())
    verdict = await offline.verify_bundle(stapled, nonce=NONCE, public_key=key)
    assert verdict.accepted
    assert any(item.name == "collateral" and item.seen.startswith("stapled") for item in verdict.checks)
    junk = await guest.bundle(collateral=b"{}")
    assert not (await offline.verify_bundle(junk, nonce=NONCE, public_key=key)).accepted


async def test_many_nonces_share_a_quote(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world)
    quotes = []

    class Slow(World):
        async def collect(self, report_data: bytes) -> bytes:
            quotes.append(report_data)
            await asyncio.sleep(0.01)
            return await super().collect(report_data)

    async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
        return Staple(tdx=world.collateral_json())

    maker = EvidenceMaker(
        Slow(world),
        guest.identity,
        statement=lambda: guest.statement,
        block_hash=lambda: BLOCK,
        staple=staple,
        keys={"hpke": b"\x07" * 32},
        min_interval=0.0,
    )
    nonces = [hashlib.sha256(bytes([i])).digest() for i in range(40)]
    bundles = await asyncio.gather(*(maker.bundle(nonce) for nonce in nonces))
    assert len(quotes) <= 2
    chosen = verifier_for(world, now=NOW)
    parsed = [evidence.parse_bundle(bundle) for bundle in bundles]
    assert {item.keys["hpke"] for item in parsed} == {b"\x07" * 32}
    for nonce, item in zip(nonces, parsed, strict=True):
        assert item.nonce == nonce
        assert item.path_holds()
        assert item.signature_holds()
    made = _made_now(bundles[3], guest.identity)
    assert (await chosen.verify_bundle(made, nonce=nonces[3], public_key=guest.identity.public_key)).accepted
    with pytest.raises(EvidenceError):
        await maker.bundle(b"short")
    await maker.close()


def _made_now(bundle: bytes, signer: Identity) -> bytes:
    return _changed(bundle, lambda content: content.update(made=int(NOW)), signer)


async def test_the_maker_bounds_who_waits_and_passes_failures_on(world: SyntheticTdx) -> None:
    guest = await Guest.boot(world)
    release = asyncio.Event()

    class Broken(World):
        async def collect(self, report_data: bytes) -> bytes:
            await release.wait()
            raise CollectionError("no quote today")

    maker = EvidenceMaker(
        Broken(world), guest.identity, statement=lambda: guest.statement, min_interval=0.0, max_waiting=2, max_batch=1
    )
    first = asyncio.ensure_future(maker.bundle(NONCE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second, third = (asyncio.ensure_future(maker.bundle(NONCE)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(EvidenceError, match="wait already"):
        await maker.bundle(NONCE)
    second.cancel()
    release.set()
    for waiting in (first, third):
        with pytest.raises(CollectionError, match="today"):
            await waiting
    release.clear()
    last = asyncio.ensure_future(maker.bundle(NONCE))
    await asyncio.sleep(0.01)
    await maker.close()
    with pytest.raises(CollectionError):
        await last


@settings(deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_every_path_leads_to_the_root_and_no_other_nonce_does(nonces: list[bytes], data: st.DataObject) -> None:
    root, paths = merkle.tree(nonces)
    i = data.draw(st.integers(0, len(nonces) - 1))
    assert merkle.root_of(nonces[i], paths[i]) == root
    assert len(paths[i]) <= merkle.MAX_PATH
    stranger = data.draw(st.binary(min_size=32, max_size=32).filter(lambda nonce: nonce not in nonces))
    assert merkle.root_of(stranger, paths[i]) != root


def test_a_tree_needs_leaves() -> None:
    for count in (0, merkle.MAX_LEAVES + 1):
        with pytest.raises(EvidenceError):
            merkle.tree([bytes(32)] * count)


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=40) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=30), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(_PLAIN)
def test_plain_values_survive_cbor(value: Any) -> None:
    assert cbor.decode(cbor.encode(value), max_length=1 << 20) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_cbor_reader(data: bytes) -> None:
    try:
        value = cbor.decode(data, max_length=200)
    except EvidenceError:
        return
    assert cbor.encode(value) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "ends inside an item"),
        ("a2616101616102", "not canonical"),  # duplicate key
        ("a2616201616102", "not canonical"),  # keys out of order
        ("1801", "not canonical"),  # 1 in two bytes
        ("0000", "follow"),
        ("c001", "tags"),
        ("d81c00", "tags"),
        ("5f4101ff", "indefinite"),
        ("f90000", "floats"),
        ("f7", "floats"),
        ("9b7fffffffffffffff", "announces"),
        ("5b7fffffffffffffff00", "announces"),
        ("a10101", "key is not text"),
        ("81" * 40 + "00", "levels"),
        ("991001" + "00" * 4097, "items"),
        ("62ff00", "cannot be read"),
        ("1b00", "inside a length"),
        ("00" * 2000, "at most"),
    ],
)
def test_cbor_that_evidence_does_not_use_is_refused(data: str, message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        cbor.decode(bytes.fromhex(data), max_length=1 << 16 if message == "items" else 1000)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("quote"),
        lambda content: content.update(extra=1),
        lambda content: content.update(version=1),
        lambda content: content.update(version=True),
        lambda content: content.update(nonce=bytes(31)),
        lambda content: content.update(platform=b"tdx"),
        lambda content: content.update(platform="x" * 65),
        lambda content: content.update(path=[[1, bytes(32)]]),
        lambda content: content.update(path=[[True, bytes(31)]]),
        lambda content: content.update(path=[[True, bytes(32)]] * 13),
        lambda content: content.update(path=None),
        lambda content: content.update(keys={}),
        lambda content: content.update(keys={"tls": bytes(31)}),
        lambda content: content.update(keys={"tls": bytes(32), "other": bytes(32)}),
        lambda content: content.update(statement=b"\xa0"),
        lambda content: content.update(gpu=[1]),
        lambda content: content.update(gpu=[b""] * 17),
        lambda content: content.update(quote=bytes(MAX_EVIDENCE + 1)),
        lambda content: content.update(collateral=None),
        lambda content: content.update(collateral={"tdx": None}),
        lambda content: content["collateral"].update(tdx="text"),
        lambda content: content["collateral"].update(tdx=b""),
        lambda content: content["collateral"].update(snp=bytes(MAX_SNP + 1)),
        lambda content: content["collateral"].update(rims={"": b"x"}),
        lambda content: content["collateral"].update(rims={"x": None}),
        lambda content: content["collateral"].update(rims={str(i): b"x" for i in range(MAX_RIMS + 1)}),
        lambda content: content["collateral"].update(ocsp={"00": b"x"}),
        lambda content: content["collateral"].update(ocsp={"AB" * 32: b"x"}),
        lambda content: content["collateral"].update(ocsp={"ab" * 32: bytes(MAX_OCSP + 1)}),
        lambda content: content["collateral"].update(ocsp=[]),
        lambda content: content.update(log=bytes(MAX_LOG + 1)),
        lambda content: content.update(log=1),
        lambda content: content.update(block=bytes(16)),
        lambda content: content.update(made=-1),
        lambda content: content.update(made=None),
        lambda content: content.update(signature=bytes(63)),
    ],
)
async def test_bundles_of_another_shape_are_refused(
    world: SyntheticTdx, change: Callable[[dict[str, Any]], object]
) -> None:
    bundle = await (await Guest.boot(world)).bundle()
    evidence.parse_bundle(bundle)
    bad = _changed(bundle, change)
    with pytest.raises(EvidenceError):
        evidence.parse_bundle(bad)
    verdict = await verifier_for(world).verify_bundle(bad, nonce=NONCE, public_key=bytes(32))
    assert [item.name for item in verdict.failed] == ["bundle"]


@pytest.mark.parametrize(
    "changes",
    [
        {"image": bytes(31)},
        {"measured_config": b""},
        {"model_hash": bytes(5)},
        {"chain": bytes(5)},
        {"owner": "x" * 2000},
        {"coefficient": -1},
        {"coefficient": 10**9},
    ],
)
def test_statements_are_bounded(world: SyntheticTdx, changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError):
        _statement(world, **changes)


def test_statements_survive_and_are_strict(world: SyntheticTdx) -> None:
    statement = _statement(world)
    assert WorkloadStatement.from_cbor(statement.to_cbor()) == statement
    content = cbor2.loads(statement.to_cbor())
    for change in ({"owner": 1}, {"coefficient": True}, {"engine": []}, {"image": "text"}, {"new": 1}):
        with pytest.raises(EvidenceError):
            WorkloadStatement.from_cbor(cbor.encode({**content, **change}))
    assert statement.digest() != _statement(world, owner="0:" + "23" * 32).digest()
    assert statement.to_dict()["engine"] == {
        "name": "sglang",
        "flags": ["--tp", 1],
        "remote code": False,
        "extra": None,
    }


def test_identities_of_other_platforms_differ_by_name_and_value() -> None:
    seen = {
        claims.platform_image_hash(name, {"measurement": value})
        for name in ("snp", "tpm")
        for value in (bytes(48), b"\x01" * 48)
    }
    assert len(seen) == 4
    assert all(len(item) == 32 for item in seen)


def test_report_data_takes_four_hashes() -> None:
    parts = [bytes([i]) * 32 for i in range(4)]
    assert len(claims.report_data(*parts)) == 64
    with pytest.raises(EvidenceError):
        claims.report_data(*parts[:3], b"")
    with pytest.raises(EvidenceError):
        claims.image_hash(bytes(383))


@settings(deadline=None)
@given(st.binary(max_size=1024))
def test_no_bytes_break_the_quote_and_bundle_parsers(data: bytes) -> None:
    for parse in (parse_quote, evidence.parse_bundle, WorkloadStatement.from_cbor):
        with pytest.raises(AttestationError):
            parse(data)


@settings(deadline=None)
@given(st.data())
async def test_a_damaged_bundle_is_never_accepted(world: SyntheticTdx, data: st.DataObject) -> None:
    guest = await Guest.boot(world)
    bundle = bytearray(await guest.bundle())
    at = data.draw(st.integers(0, len(bundle) - 1))
    bundle[at] ^= data.draw(st.integers(1, 255))
    verdict = await verifier_for(world).verify_bundle(bytes(bundle), nonce=NONCE, public_key=guest.identity.public_key)
    assert not verdict.accepted
