"""Proof of work before TLS (protocol specification, section 5.3): challenge, solution, check.

``h = SHA-256(salt ‖ nonce)``; its first 8 bytes, read as a little-endian number, have at least ``difficulty`` leading
zero bits. The nonce is a signed 64-bit number in little-endian bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import struct
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass

from attestation.errors import HandshakeError

_CHALLENGE = struct.Struct("<Ii16s")
_SOLUTION = struct.Struct("<Iq")
_CHALLENGE_MAGIC = 0x418E1291
_SOLUTION_MAGIC = 0x01827319
CHALLENGE_SIZE = _CHALLENGE.size
SOLUTION_SIZE = _SOLUTION.size
DEFAULT_DIFFICULTY = 20
MAX_DIFFICULTY = 28
_HARDEST = 63
_CHUNK = 1 << 18  # nonces a task; about a quarter of a second, after which a cancelled search stops
_INLINE = 1 << 12  # nonces tried at once in the caller's thread; a few milliseconds


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a listener asks: leading zero bits over a 16-byte salt."""

    difficulty: int
    salt: bytes

    @classmethod
    def fresh(cls, difficulty: int) -> Challenge:
        """A challenge with a random salt.

        Raises:
            HandshakeError: A difficulty outside 0 to 63.
        """
        if not 0 <= difficulty <= _HARDEST:
            raise HandshakeError(f"proof-of-work difficulty {difficulty}, expected 0 to {_HARDEST}")
        return cls(difficulty, os.urandom(16))

    def encode(self) -> bytes:
        """The 24 bytes on the wire."""
        return _CHALLENGE.pack(_CHALLENGE_MAGIC, self.difficulty, self.salt)

    @classmethod
    def decode(cls, data: bytes, *, max_difficulty: int) -> Challenge:
        """Read the 24 bytes.

        Raises:
            HandshakeError: Not a challenge, or harder than ``max_difficulty``.
        """
        if len(data) != CHALLENGE_SIZE:
            raise HandshakeError(f"proof-of-work challenge of {len(data)} bytes, expected {CHALLENGE_SIZE}")
        magic, difficulty, salt = _CHALLENGE.unpack(data)
        if magic != _CHALLENGE_MAGIC:
            raise HandshakeError(
                f"peer opens with {magic:#010x}, expected a proof-of-work challenge {_CHALLENGE_MAGIC:#010x}",
                hint="is the address that of a router's or gateway's attested port?",
            )
        if not 0 <= difficulty <= max_difficulty:
            raise HandshakeError(
                f"peer asks for proof of work of difficulty {difficulty}, expected 0 to {max_difficulty}",
                hint="raise pow_max_difficulty if the peer is meant to ask for that much",
            )
        return cls(difficulty, salt)

    def solved_by(self, nonce: int) -> bool:
        """Whether a nonce (signed 64-bit) solves it."""
        return zero_bits(self.salt, nonce) >= self.difficulty


def encode_solution(nonce: int) -> bytes:
    """The 12 bytes on the wire."""
    return _SOLUTION.pack(_SOLUTION_MAGIC, nonce)


def decode_solution(data: bytes) -> int:
    """Read the 12 bytes.

    Raises:
        HandshakeError: Not a solution.
    """
    if len(data) != SOLUTION_SIZE:
        raise HandshakeError(f"proof-of-work solution of {len(data)} bytes, expected {SOLUTION_SIZE}")
    magic, nonce = _SOLUTION.unpack(data)
    if magic != _SOLUTION_MAGIC:
        raise HandshakeError(
            f"peer answers with {magic:#010x}, expected a proof-of-work solution {_SOLUTION_MAGIC:#010x}"
        )
    return int(nonce)


def zero_bits(salt: bytes, nonce: int) -> int:
    """Leading zero bits of the first 8 hash bytes as a little-endian number, 0 to 64."""
    digest = hashlib.sha256(salt + nonce.to_bytes(8, "little", signed=True)).digest()
    return 64 - int.from_bytes(digest[:8], "little").bit_length()


def search(salt: bytes, difficulty: int, start: int, count: int) -> int | None:
    """Try ``count`` nonces from ``start``; the first that solves, or ``None``."""
    shift = 64 - difficulty
    prefix = hashlib.sha256(salt)
    for nonce in range(start, start + count):
        state = prefix.copy()
        state.update(nonce.to_bytes(8, "little"))
        if not int.from_bytes(state.digest()[:8], "little") >> shift:
            return nonce
    return None


def open_pool(workers: int = 1) -> ProcessPoolExecutor:
    """A pool of processes for :func:`solve`; the caller shuts it down. Processes start at the first hard challenge."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


async def solve(challenge: Challenge, pool: Executor | None = None) -> int:
    """Find a nonce.

    Easy challenges are solved at once, others piece by piece in the pool, so that cancelling (a connect limit) stops
    the work soon.

    Args:
        challenge: As the peer sent it; its difficulty was bounded by :meth:`Challenge.decode`.
        pool: Processes to search in; ``None`` uses the loop's threads, which share one core.
    """
    found = search(challenge.salt, challenge.difficulty, 0, _INLINE)
    start = _INLINE
    loop = asyncio.get_running_loop()
    while found is None:
        found = await loop.run_in_executor(pool, search, challenge.salt, challenge.difficulty, start, _CHUNK)
        start += _CHUNK
    return found
