"""Class 14: evidence from before a delisting, shown again to a verifier that has accepted it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from attacks_support import NONCE, NOW, Listing, Machine, failed, image_of

from appliance.lab.tee import SyntheticTdx
from attestation import policy
from attestation.collateral import StaticCollateral
from attestation.policies.rules import ImageRegistered
from attestation.rules import ImageListed
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.rules import Rule


@pytest.fixture(scope="module")
def good() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


class Changing(Listing):
    """A registry whose owner can take an image off the list; it counts who asks."""

    listed = True
    asked = 0

    def image_listed(self, image_hash: bytes, /) -> bool:
        self.asked += 1
        return self.listed and super().image_listed(image_hash)


@pytest.mark.parametrize(
    ("rule", "check"), [(ImageListed, "image"), (ImageRegistered, "image in the registry")], ids=["code", "file"]
)
async def test_a_delisting_voids_what_was_accepted_before(
    good: SyntheticTdx, rule: Callable[[Any], Rule], check: str
) -> None:
    """The same bytes to the same verifier, bundle and certificate: the registry is asked each time."""
    machine, registry = await Machine.start(good), Changing(image_of(good))
    chosen = policy.for_name("simulated", simulated_roots=(good.root_der,)).demanding(rule(registry))
    verifier = Verifier(chosen, StaticCollateral(good.collateral_json()), clock=lambda: NOW)
    bundle, certificate = await machine.bundle(), machine.identity.certificate
    for listed, expected in ((True, []), (True, []), (False, [check]), (True, [])):
        registry.listed = listed
        asked = registry.asked
        assert failed(await verifier.verify_bundle(bundle, nonce=NONCE, public_key=None)) == expected
        assert failed(await verifier.verify_certificate(certificate)) == expected
        assert registry.asked == asked + 2
