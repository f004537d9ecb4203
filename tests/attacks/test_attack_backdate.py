"""Classes 5 and 9: evidence made with a platform's key after that was revoked, and dated back to before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from attacks_support import NONCE, NOW, Machine, failed, unchecked

from appliance.lab.tee import SyntheticTdx
from attestation import policy
from attestation.collateral import StaticCollateral
from attestation.evidence import build_bundle
from attestation.policies.rules import Anchored
from attestation.staple import Staple
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.rules import Rule
    from attestation.verdict import Verdict

YEARS = 3 * 365 * 86_400.0
THEN = NOW - YEARS
SOON = 3600.0


class Platform:
    """A machine whose key leaks some day, and what Intel says of it before and after."""

    def __init__(self) -> None:
        now = [THEN]
        self.tdx = SyntheticTdx(clock=lambda: now[0])
        self.before = self.tdx.collateral_json()
        now[0] = NOW
        self.tdx.faults = replace(self.tdx.faults, revoke_pck=True)
        self.after = self.tdx.collateral_json()

    async def bundle(self, machine: Machine) -> bytes:
        """Evidence that says that it was made then, with the collateral of that time."""

        async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
            return Staple(tdx=self.before)

        return await build_bundle(
            machine, machine.identity, machine.statement, NONCE, b"", staple=staple, made_at=THEN + 60
        )

    async def judged(
        self, bundle: bytes, *rules: Rule, at: float | None = None, anchored_at: float | None = None
    ) -> Verdict:
        chosen = policy.for_name("simulated", simulated_roots=(self.tdx.root_der,)).demanding(*rules)
        verifier = Verifier(chosen, StaticCollateral(self.after), clock=lambda: NOW)
        return await verifier.verify_bundle(bundle, nonce=None, public_key=None, at=at, anchored_at=anchored_at)


@pytest.fixture(scope="module")
def revoked() -> Platform:
    return Platform()


async def test_evidence_dated_back_is_refused_where_an_anchor_is_demanded(revoked: Platform) -> None:
    """The bytes can be the same as honest ones, so only the chain tells them apart: it had one of them at that time."""
    bundle = await revoked.bundle(await Machine.start(revoked.tdx))
    soon = Anchored(SOON)
    for anchored_at, expected in ((THEN + 120, []), (NOW, ["not made after"]), (None, ["not made after"])):
        verdict = await revoked.judged(bundle, soon, at=THEN + 60, anchored_at=anchored_at)
        assert failed(verdict) == expected


async def test_evidence_dated_back_without_an_anchor_is_said_to_rest_on_its_own_word(revoked: Platform) -> None:
    """The limit: as of its stated time it is good, and the verdict lists that nothing shows that time."""
    bundle = await revoked.bundle(await Machine.start(revoked.tdx))
    past = await revoked.judged(bundle, at=THEN + 60)
    assert failed(past) == []
    assert {"anchor", "nonce", "block"} <= unchecked(past)
    assert failed(await revoked.judged(bundle)) == ["quote"], "as of now it is refused"
