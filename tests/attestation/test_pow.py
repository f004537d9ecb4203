from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import HandshakeError
from attestation.ratls import pow as proof

if TYPE_CHECKING:
    from pathlib import Path

SALT = bytes(range(16))


def test_the_vectors_of_the_specification(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["pow"]
    for item in vectors["items"]:
        challenge = proof.Challenge.decode(bytes.fromhex(item["challenge_hex"]), max_difficulty=28)
        assert challenge == proof.Challenge(item["difficulty"], bytes.fromhex(item["salt_hex"]))
        nonce = item["first_nonce_from_zero"]
        assert proof.encode_solution(nonce).hex() == item["response_hex"]
        assert proof.zero_bits(challenge.salt, nonce) == item["zero_bits"]
        assert hashlib.sha256(challenge.salt + nonce.to_bytes(8, "little")).hexdigest() == item["hash_hex"]
        if item["difficulty"] <= 16:
            assert proof.search(challenge.salt, challenge.difficulty, 0, 1 << 17) == nonce
    for item in vectors["from_reference_traces"]:
        challenge = proof.Challenge.decode(bytes.fromhex(item["challenge_hex"]), max_difficulty=28)
        nonce = proof.decode_solution(bytes.fromhex(item["response_hex"]))
        assert nonce == item["nonce"]
        assert challenge.solved_by(nonce)
        assert not challenge.solved_by(nonce + 1)
        assert challenge.encode().hex() == item["challenge_hex"]


@pytest.mark.parametrize("name", ["pow_tls_start_worker.json", "pow_tls_start_client.json"])
def test_the_opening_bytes_of_the_reference(shared: Path, name: str) -> None:
    by_connection: dict[int, list[bytes]] = {}
    for record in json.loads((shared / "vectors" / "cocoon-traces" / name).read_text()):
        by_connection.setdefault(record["conn"], []).append(bytes.fromhex(record["hex"]))
    for challenge_bytes, solution, hello, answer in by_connection.values():
        challenge = proof.Challenge.decode(challenge_bytes, max_difficulty=20)
        assert challenge.solved_by(proof.decode_solution(solution))
        assert hello[:3] == b"\x16\x03\x01"  # the connecting side speaks TLS directly after the 12 bytes
        assert hello[5] == 1
        assert answer[5] == 2


def test_the_first_nonce_without_vectors() -> None:
    assert proof.search(SALT, 8, 0, 4096) == 480
    assert proof.search(SALT, 8, 481, 7) is None
    digest = hashlib.sha256(SALT + (480).to_bytes(8, "little")).digest()
    assert digest[7] == 0  # byte 7 is the most significant one
    assert proof.zero_bits(SALT, -1) >= 0


def test_the_other_byte_order_is_refused() -> None:
    """A nonce whose first hash byte is zero solves difficulty 8 only to a reader with the wrong order."""
    wrong = next(
        nonce
        for nonce in range(100_000)
        if (digest := hashlib.sha256(SALT + nonce.to_bytes(8, "little")).digest())[0] == 0 and digest[7] != 0
    )
    assert not proof.Challenge(8, SALT).solved_by(wrong)


@settings(deadline=None)
@given(st.integers(0, 63), st.binary(min_size=16, max_size=16), st.integers(-(2**63), 2**63 - 1))
def test_messages_survive(difficulty: int, salt: bytes, nonce: int) -> None:
    challenge = proof.Challenge(difficulty, salt)
    assert proof.Challenge.decode(challenge.encode(), max_difficulty=63) == challenge
    assert proof.decode_solution(proof.encode_solution(nonce)) == nonce


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    for parse in (lambda raw: proof.Challenge.decode(raw, max_difficulty=28), proof.decode_solution):
        try:
            parse(data)
        except HandshakeError:
            continue
        assert len(data) in {12, 24}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x16\x03\x01" + bytes(21), "expected a proof-of-work challenge"),
        (proof.Challenge(29, SALT).encode(), "difficulty 29"),
        (proof.Challenge(20, SALT).encode()[:4] + b"\xff\xff\xff\xff" + SALT, "difficulty -1"),
        (b"", "0 bytes"),
    ],
)
def test_challenges_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(HandshakeError, match=message):
        proof.Challenge.decode(data, max_difficulty=28)


def test_difficulties_that_cannot_be_asked() -> None:
    for difficulty in (-1, 64):
        with pytest.raises(HandshakeError):
            proof.Challenge.fresh(difficulty)
    assert proof.Challenge.fresh(0).solved_by(0)


async def test_solving_finds_and_can_be_cancelled() -> None:
    challenge = proof.Challenge.fresh(14)
    assert challenge.solved_by(await proof.solve(challenge))
    endless = asyncio.ensure_future(proof.solve(proof.Challenge.fresh(60)))
    await asyncio.sleep(0.05)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
