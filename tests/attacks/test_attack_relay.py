"""Class 9: a key that leaked, and evidence that is passed on. What each of the means against it is worth alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from attacks_support import NONCE, NOW, Machine, failed, judged, unchecked

from appliance.lab.tee import SyntheticTdx
from attestation import merkle
from attestation.ratls import Identity
from attestation.rules import MaxAge
from attestation.tdx_rules import MachineListed

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = hashlib.sha256(b"what the verifier asks now").digest()


@pytest.fixture(scope="module")
def good() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


def _answer(content: dict[str, Any]) -> None:
    """The asked nonce instead of the old one, with the path of a bundle that answers one nonce."""
    content["nonce"] = OTHER


def _answer_whole(content: dict[str, Any]) -> None:
    """Nonce and the root that it leads to: all that is not under the quote."""
    content["nonce"], content["root"], content["path"] = OTHER, merkle.leaf(OTHER), []


@pytest.mark.parametrize(
    ("change", "checks"),
    [(lambda _: None, ["nonce"]), (_answer, ["freshness path"]), (_answer_whole, ["report data"])],
    ids=["replayed", "nonce exchanged", "nonce and root exchanged"],
)
async def test_a_leaked_key_answers_no_nonce(
    good: SyntheticTdx, change: Callable[[dict[str, Any]], object], checks: list[str]
) -> None:
    """Whoever holds the key can sign, and be the link's far end; without the machine there is no quote over a nonce."""
    machine = await Machine.start(good)
    old, key = await machine.bundle(), machine.identity.public_key
    fresh = await machine.bundle(OTHER)
    assert failed(await judged(fresh, good, nonce=OTHER, public_key=key)) == []
    assert failed(await judged(machine.signed(old, change), good, nonce=OTHER, public_key=key)) == checks


async def test_without_a_nonce_a_leaked_key_lives_as_long_as_it_can_be_dated(good: SyntheticTdx) -> None:
    """The limit: who asks no nonce sees a signed time, and the holder of the key signs times.

    The verdict lists the nonce as unchecked. With a nonce the same evidence is refused, whatever time it states.
    """
    machine = await Machine.start(good)
    old, key = await machine.bundle(made_at=NOW - 86_400), machine.identity.public_key
    dated = machine.signed(old, lambda content: content.update(made=int(NOW - 5)))
    age = MaxAge(600)
    assert failed(await judged(old, good, age, nonce=None, public_key=key)) == ["age"]
    verdict = await judged(dated, good, age, nonce=None, public_key=key)
    assert failed(verdict) == []
    assert "nonce" in unchecked(verdict)
    assert failed(await judged(dated, good, age, nonce=OTHER, public_key=key)) == ["nonce"]


async def test_a_genuine_machine_with_a_leaked_key_is_kept_out_by_the_list_of_machines(good: SyntheticTdx) -> None:
    """It runs the same image and answers the nonce with the other's key: only a list says that it is another one."""
    machine = await Machine.start(good)
    thief = await Machine.start(good.neighbour(), identity=machine.identity)
    listed, key = MachineListed(frozenset({good.ppid})), machine.identity.public_key
    for one, expected in ((machine, []), (thief, ["machine"])):
        bundle = await one.bundle()
        assert failed(await judged(bundle, good, listed, public_key=key)) == expected
        verdict = await judged(bundle, good, public_key=key)
        assert failed(verdict) == []
        assert "machine" in unchecked(verdict)


async def test_evidence_of_another_machine_speaks_for_no_link_but_its_own(good: SyntheticTdx) -> None:
    """The relay: the one in between passes the question on, and TLS ends at its own key."""
    machine = await Machine.start(good)
    between = await Identity.create(None, clock=lambda: NOW)
    bundle = await machine.bundle()
    assert failed(await judged(bundle, good, public_key=machine.identity.public_key)) == []
    assert failed(await judged(bundle, good, public_key=between.public_key)) == ["channel key"]

    def taken_over(content: dict[str, Any]) -> None:
        content["keys"] = {**content["keys"], "tls": between.public_key}

    thief = Machine(good)
    thief.identity = between
    forged = thief.signed(bundle, taken_over)
    assert failed(await judged(forged, good, nonce=NONCE, public_key=between.public_key)) == ["report data"]
