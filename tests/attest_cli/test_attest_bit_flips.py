"""One bit anywhere: refused, and a check says which part it hit. The control is the untouched bundle, accepted."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from attest_cli_support import NONCE, Site, chrysalis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import cbor, evidence
from attestation.policy_file import load_policy
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from attestation.verdict import Verdict

STRIDE = 97
FIELDS = sorted(
    ["platform", "nonce", "root", "path", "keys", "statement", "gpu", "quote", "log", "collateral", "block", "made"]
)


def judged(site: Site, *bundles: bytes) -> list[Verdict]:
    """Verdicts of one verifier, so that what it keeps of the good bundle is there to be fooled with."""
    verifier = Verifier(load_policy(site.policy()))

    async def run() -> list[Verdict]:
        return [await verifier.verify_bundle(data, nonce=NONCE, public_key=None) for data in bundles]

    return asyncio.run(run())


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_a_bit_at_every_97th_byte_is_refused_by_name(site: Site) -> None:
    positions = range(0, len(site.bundle), STRIDE)
    good, *verdicts = judged(site, site.bundle, *(flipped(site.bundle, p, p % 8) for p in positions))
    assert good.accepted
    for position, verdict in zip(positions, verdicts, strict=True):
        assert not verdict.accepted, f"byte {position}"
        assert verdict.failed, f"byte {position}"
        assert verdict.failed[0].name in {"bundle", "bundle signature", "nonce"}, verdict.failed[0]
        assert verdict.assurance == "none"


def altered(value: Any) -> Any:
    """The same kind of value with one bit changed somewhere inside."""
    if isinstance(value, bytes):
        return flipped(value, len(value) // 2)
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, list):
        return [*value[:-1], altered(value[-1])] if value else [[True, bytes(32)]]
    name = next(name for name, item in sorted(value.items()) if item)
    return {**value, name: altered(value[name])}


@pytest.mark.parametrize("field", FIELDS)
def test_a_bit_in_each_field_breaks_the_signature_or_the_form(site: Site, field: str) -> None:
    content = cbor2.loads(site.bundle)
    content[field] = altered(content[field])
    data = cbor.encode(content)
    (verdict,) = judged(site, data)
    assert not verdict.accepted
    assert {check.name for check in verdict.failed} & {"bundle", "bundle signature"}


@pytest.mark.parametrize("field", FIELDS)
def test_who_signs_a_changed_field_anew_is_not_the_machine(site: Site, field: str) -> None:
    """An attacker with a key of their own: the signature holds then, and the quote speaks for another key."""
    key = Ed25519PrivateKey.generate()
    content = cbor2.loads(site.bundle)
    del content["signature"]
    if field != "keys":
        content[field] = altered(content[field])
    content["keys"] = {**content["keys"], "tls": key.public_key().public_bytes_raw()}
    signature = key.sign(evidence._DOMAIN + cbor.encode(content))
    (verdict,) = judged(site, cbor.encode({**content, "signature": signature}))
    assert not verdict.accepted
    names = {check.name for check in verdict.failed}
    assert names - {"bundle signature"}, verdict.failed
    if field in {"keys", "block", "made", "platform"}:
        assert "report data" in names


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 0.999])
def test_the_command_names_the_check_and_fails(site: Site, share: float) -> None:
    file = site.directory / f"flipped-{share}.cbor"
    file.write_bytes(flipped(site.bundle, int(share * len(site.bundle)), 3))
    done = chrysalis("attest", "verify", file, "--policy", site.policy(), "--json", ok=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert any(not check["passed"] and check["name"] for check in found["checks"])
    assert "FAIL" in chrysalis("attest", "verify", file, "--policy", site.policy(), ok=False).stdout


def test_short_and_long_files_are_refused(site: Site) -> None:
    verdicts = judged(site, b"", site.bundle[:-1], site.bundle + b"\0", site.bundle[:100], b"\xff" * 64)
    assert [verdict.failed[0].name for verdict in verdicts] == ["bundle"] * 5
