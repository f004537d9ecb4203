"""Validator sets and block signatures.

In: the configuration of a key block or zerostate, a header and a set of signatures. Out: nothing, or an error:
:func:`check_signatures` accepts a block only if distinct validators with more than two thirds of the weight of the
masterchain's current set signed it. The subset is computed as TON's ``Config::do_compute_validator_set`` does
(``main`` validators from the head of the list, shuffled by catchain number where parameter 28 says so) and must have
the hash that the header states. Layouts: ``block.tlb`` (parameters 28, 34), ``lite_api.tl`` (``SignatureSet``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pytoniq_core.crypto.crc import crc32c

from appliance.chain.cells import Reader
from appliance.chain.errors import ChainTooOldError, ProofError
from appliance.chain.proofs.dictionary import entries, lookup
from appliance.chain.proofs.merkle import proving
from appliance.chain.proofs.parts import MASTER_SHARD, MASTERCHAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.proofs.header import BlockHeader
    from appliance.chain.types import BlockId

_CATCHAIN_PARAMETER = 28
_VALIDATORS_PARAMETER = 34
_MAX_VALIDATORS = 1 << 12
_ED25519 = 0x8E81278A
_KEY_ID_PREFIX = bytes.fromhex("c6b41348")  # pub.ed25519#4813b4c6, little-endian
_BLOCK_ID = bytes.fromhex("706e0bc5")  # ton.blockId#c50b6e70
_DATA_TO_SIGN = bytes.fromhex("f83de3a8")  # consensus.dataToSign#a8e33df8
_FINALIZE_VOTE = bytes.fromhex("05e1a740")  # consensus.simplex.finalizeVote#40a7e105
_CANDIDATE_ID = bytes.fromhex("3fcd91b6")  # consensus.candidateId#b691cd3f
_CANDIDATE_HASH_DATA = {
    bytes.fromhex("dcbcf9e8"),  # consensus.candidateHashDataOrdinary#e8f9bcdc
    bytes.fromhex("33d9b472"),  # consensus.candidateHashDataEmpty#72b4d933
}
_SET_HASH_MAGIC = (-1877581587).to_bytes(4, "little", signed=True)  # test0.validatorSet in TON's ton_api


@dataclass(frozen=True, slots=True)
class Validator:
    """One validator: Ed25519 key (32 bytes), weight, ADNL address (32 bytes, zeros when it has none)."""

    public_key: bytes
    weight: int
    adnl: bytes

    @property
    def short_id(self) -> bytes:
        """``node_id_short``: SHA-256 of the key in its TL form."""
        return hashlib.sha256(_KEY_ID_PREFIX + self.public_key).digest()


@dataclass(frozen=True, slots=True)
class ValidatorConfig:
    """What a configuration says about who signs masterchain blocks. ``validators`` in the list's order."""

    validators: tuple[Validator, ...]
    main: int
    shuffle: bool

    def masterchain_subset(self, catchain_seqno: int) -> tuple[Validator, ...]:
        """The validators of the masterchain in the given catchain session."""
        count = min(self.main, len(self.validators))
        if not self.shuffle:
            return self.validators[:count]
        random = _SetRandom(catchain_seqno)
        order: list[int] = []
        for i in range(count):
            j = random.below(i + 1)
            order.append(order[j] if j < i else i)
            order[j] = i
        return tuple(self.validators[i] for i in order)


@dataclass(frozen=True, slots=True)
class BlockSignatures:
    """Signatures of one block, by signer's short id.

    The ordinary form signs the block's hashes. In the simplex form (``candidate`` is set) validators sign a vote that
    finalises a candidate, whose bytes name the block.
    """

    signatures: tuple[tuple[bytes, bytes], ...]
    session: bytes = b""
    slot: int = 0
    candidate: bytes | None = None


def parse_validator_config(config: Cell, what: str) -> ValidatorConfig:
    """Read parameters 28 and 34 from the root of a configuration dictionary that is bound already."""
    with proving(what):
        catchain = lookup(config, _CATCHAIN_PARAMETER, 32, "configuration")
        shuffle = False if catchain is None else _read_shuffle(Reader(catchain.ref(), "parameter 28"))
        current = lookup(config, _VALIDATORS_PARAMETER, 32, "configuration")
        if current is None:
            raise ProofError(f"{what}: the configuration has no validator set (parameter 34)")
        validators, main = _read_set(Reader(current.ref(), "parameter 34"), what)
    return ValidatorConfig(validators, main, shuffle)


def set_hash(validators: Sequence[Validator], catchain_seqno: int) -> int:
    """``compute_validator_set_hash`` of TON's ``block.cpp``: CRC-32C of the set's TL form."""
    text = bytearray(_SET_HASH_MAGIC + catchain_seqno.to_bytes(4, "little") + len(validators).to_bytes(4, "little"))
    for validator in validators:
        text += validator.public_key + validator.weight.to_bytes(8, "little") + validator.adnl
    return int.from_bytes(crc32c(bytes(text)), "little")


def check_signatures(header: BlockHeader, config: ValidatorConfig, signed: BlockSignatures, what: str) -> None:
    """Accept ``header.block`` only with signatures of more than two thirds of the weight.

    Raises:
        ProofError: The set is not the one the header names; a signer is unknown, repeated or its signature is wrong;
            or the weight does not suffice.
    """
    subset = config.masterchain_subset(header.catchain_seqno)
    seen_hash = set_hash(subset, header.catchain_seqno)
    if seen_hash != header.validator_list_hash:
        raise ProofError(
            f"{what}: the trusted validator set has hash {seen_hash:08x}, the header states "
            f"{header.validator_list_hash:08x}",
            hint="the block was made by other validators than those of the trusted key block",
        )
    message = _signed_message(header.block, signed, what)
    by_id = {validator.short_id: validator for validator in subset}
    weight = 0
    for short_id, signature in signed.signatures:
        validator = by_id.pop(short_id, None)
        if validator is None:
            raise ProofError(f"{what}: signer {short_id.hex()} is unknown or counted twice")
        try:
            Ed25519PublicKey.from_public_bytes(validator.public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise ProofError(f"{what}: the signature of {short_id.hex()} does not verify") from error
        weight += validator.weight
    total = sum(validator.weight for validator in subset)
    if 3 * weight <= 2 * total:
        raise ProofError(f"{what}: signed by weight {weight} of {total}, expected more than two thirds")


def simplex_message(session: bytes, slot: int, candidate: bytes) -> bytes:
    """What a validator signs to finalise a candidate: ``consensus.dataToSign`` over a boxed ``finalizeVote``."""
    vote = _FINALIZE_VOTE + _CANDIDATE_ID + slot.to_bytes(4, "little", signed=True) + hashlib.sha256(candidate).digest()
    length = len(vote)  # 44: one length byte and three bytes of padding in TL
    return _DATA_TO_SIGN + session + bytes([length]) + vote + bytes(-(length + 1) % 4)


def ordinary_message(block: BlockId) -> bytes:
    """What a validator signs in the ordinary form: ``ton.blockId``."""
    return _BLOCK_ID + block.root_hash + block.file_hash


def _signed_message(block: BlockId, signed: BlockSignatures, what: str) -> bytes:
    if signed.candidate is None:
        return ordinary_message(block)
    named = (
        block.workchain.to_bytes(4, "little", signed=True)
        + block.shard.to_bytes(8, "little", signed=True)
        + block.seqno.to_bytes(4, "little")
        + block.root_hash
        + block.file_hash
    )
    if signed.candidate[:4] not in _CANDIDATE_HASH_DATA:
        tag = int.from_bytes(signed.candidate[:4], "little")
        raise ChainTooOldError("consensus.CandidateHashData", tag, "0xe8f9bcdc and 0x72b4d933")
    if signed.candidate[4:84] != named:
        raise ProofError(f"{what}: the signed candidate names another block, expected {block.root_hash.hex()}")
    return simplex_message(signed.session, signed.slot, signed.candidate)


def _read_shuffle(reader: Reader) -> bool:
    tag = reader.uint(8)
    if tag == 0xC1:
        return False
    if tag != 0xC2:
        raise ChainTooOldError("catchain configuration (parameter 28)", tag, "0xc1 and 0xc2")
    reader.uint(7)
    return reader.flag()


def _read_set(reader: Reader, what: str) -> tuple[tuple[Validator, ...], int]:
    tag = reader.uint(8)
    if tag not in {0x11, 0x12}:
        raise ChainTooOldError("validator set (parameter 34)", tag, "0x11 and 0x12")
    reader.uint(64)  # utime_since, utime_until
    total, main = reader.uint(16), reader.uint(16)
    if not 1 <= main <= total <= _MAX_VALIDATORS:
        raise ProofError(f"{what}: a validator set of {total} with {main} for the masterchain")
    if tag == 0x12:
        stated_weight: int | None = reader.uint(64)
        root = reader.maybe_ref()
    else:
        stated_weight, root = None, reader.rest()  # validators#11 carries its dictionary inline
    listed = list(entries(root, 16, "validator list", limit=total))
    if [key for key, _ in listed] != list(range(total)):
        raise ProofError(f"{what}: the validator list has {len(listed)} entries, expected 0 to {total - 1}")
    validators = tuple(_read_validator(leaf) for _, leaf in listed)
    weight = sum(validator.weight for validator in validators)
    if any(not validator.weight for validator in validators) or stated_weight not in {None, weight}:
        raise ProofError(f"{what}: the validators' weights add up to {weight}, the set states {stated_weight}")
    if len({validator.public_key for validator in validators}) != total:
        raise ProofError(f"{what}: a validator is listed twice")
    return validators, main


def _read_validator(reader: Reader) -> Validator:
    tag = reader.uint(8)
    if tag not in {0x53, 0x73}:
        raise ChainTooOldError("validator description", tag, "0x53 and 0x73")
    reader.constant(_ED25519, 32, "kind of a validator's key")
    public_key, weight = reader.raw(32), reader.uint(64)
    return Validator(public_key, weight, reader.raw(32) if tag == 0x73 else bytes(32))


class _SetRandom:
    """``ValidatorSetPRNG`` for the masterchain: SHA-512 of seed (counted up), shard, workchain, catchain number."""

    def __init__(self, catchain_seqno: int) -> None:
        self._seed = 0
        self._tail = (
            (MASTER_SHARD & (1 << 64) - 1).to_bytes(8, "big")
            + MASTERCHAIN.to_bytes(4, "big", signed=True)
            + catchain_seqno.to_bytes(4, "big")
        )
        self._words: list[int] = []

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit`` - 1."""
        if not self._words:
            digest = hashlib.sha512(self._seed.to_bytes(32, "big") + self._tail).digest()
            self._seed += 1
            self._words = [int.from_bytes(digest[i : i + 8], "big") for i in range(0, 64, 8)]
        return limit * self._words.pop(0) >> 64
