"""The chain's configuration parameters and its one validator.

In: the parameters that the TVM's authors ship (fees, gas, limits) and an Ed25519 key. Out: the dictionary that the key
blocks carry, with the parameters 19 (global id), 28 (catchain) and 34 (validators) of this chain, and signatures that
clients check against it. Layout: ``block.tlb``; the validator set's short hash: TON, ``crypto/block/block.cpp``
(``compute_validator_set_hash``).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pytoniq_core.crypto.crc import crc32c

from appliance.chain.cells import Reader, Writer
from appliance.lab.chain.dictionaries import Dictionary, plain_dictionary

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.types import BlockId

PUBLIC_KEY_PREFIX = bytes.fromhex("c6b41348")
"""TL identifier of ``pub.ed25519``: with the key after it, its SHA-256 is the key's short identifier."""

_BLOCK_TO_SIGN = bytes.fromhex("706e0bc5")  # TL identifier of ton.blockId
_VALIDATOR_SET = struct.pack("<i", -1877581587)  # TL identifier of test0.validatorSet
_ED25519_KEY = 0x8E81278A  # ed25519_pubkey#8e81278a
_FOREVER = 0xFFFFFFFF
_GLOBAL_ID, _VERSION, _CATCHAIN, _VALIDATORS = 19, 8, 28, 34
CONFIG_ADDRESS = b"\x55" * 32


@dataclass(frozen=True, slots=True)
class Validator:
    """The one validator. ``since`` is the first block it signs; ``catchain_seqno`` counts the sets before its own."""

    key: Ed25519PrivateKey
    catchain_seqno: int = 0
    since: int = 0

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def node_id(self) -> bytes:
        """The short identifier of its key."""
        return key_id(self.public_key)

    @property
    def list_hash(self) -> int:
        """``validator_list_hash_short`` of the set that it alone makes up (32 bits)."""
        member = self.public_key + struct.pack("<q", 1) + bytes(32)
        data = _VALIDATOR_SET + struct.pack("<iI", self.catchain_seqno, 1) + member
        return int.from_bytes(crc32c(data), "little")

    def sign(self, block: BlockId) -> bytes:
        """Its signature over a block's identity (64 bytes)."""
        return self.key.sign(_BLOCK_TO_SIGN + block.root_hash + block.file_hash)


def key_id(public_key: bytes) -> bytes:
    """The short identifier of an Ed25519 key: SHA-256 over its TL form."""
    return hashlib.sha256(PUBLIC_KEY_PREFIX + public_key).digest()


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """The configuration dictionary: parameter number to a cell of its own."""

    params: Dictionary[None]

    @classmethod
    def from_root(cls, root: Cell) -> ChainConfig:
        """Read ``Hashmap 32 ^Cell``; raises ``LayoutError``."""
        whole = Reader(Writer("configuration").maybe_ref(root).end(), "configuration")
        config = cls(plain_dictionary(32))
        for number, param in sorted(whole.dictionary(32, _reference).items()):
            config = config.with_param(number, param)
        return config

    def with_param(self, number: int, param: Cell) -> ChainConfig:
        """With one parameter replaced."""
        return ChainConfig(self.params.set(number, Writer("parameter").ref(param).end(), None))

    def param(self, number: int) -> Cell | None:
        """One parameter's cell."""
        leaf = self.params.get(number)
        return None if leaf is None else leaf.refs[0]

    @property
    def root(self) -> Cell:
        """The dictionary's root cell."""
        root = self.params.root()
        if root is None:
            msg = "a configuration without parameters"
            raise ValueError(msg)
        return root

    @property
    def version(self) -> tuple[int, int]:
        """Global version and capabilities (parameter 8)."""
        param = self.param(_VERSION)
        if param is None:
            return 0, 0
        reader = Reader(param, "parameter 8")
        reader.constant(0xC4, 8, "tag")
        return reader.uint(32), reader.uint(64)

    def for_chain(self, global_id: int, validator: Validator) -> ChainConfig:
        """With this chain's own parameters."""
        identity = Writer("parameter 19").sint(global_id, 32).end()
        return self.with_param(_GLOBAL_ID, identity).with_param(_CATCHAIN, _catchain()).with_validator(validator)

    def with_validator(self, validator: Validator) -> ChainConfig:
        """With the validator set that consists of ``validator`` (parameter 34, ``validators_ext#12``)."""
        member = Writer("validator").uint(0x73, 8).uint(_ED25519_KEY, 32).raw(validator.public_key, 32)
        member.uint(1, 64).raw(bytes(32), 32)
        members = plain_dictionary(16).set(0, member.end(), None)
        current = Writer("parameter 34").uint(0x12, 8).uint(0, 32).uint(_FOREVER, 32).uint(1, 16).uint(1, 16)
        return self.with_param(_VALIDATORS, members.write(current.uint(1, 64)).end())

    def write(self, writer: Writer) -> Writer:
        """``ConfigParams``: the configuration contract's address (nobody lives there) and the dictionary."""
        return writer.raw(CONFIG_ADDRESS, 32).ref(self.root)


def _catchain() -> Cell:
    # catchain_config_new#c2: lifetimes in seconds, one validator a shard, masterchain validators not shuffled
    writer = Writer("parameter 28").uint(0xC2, 8).uint(0, 7).uint(0, 1)
    return writer.uint(250, 32).uint(250, 32).uint(1000, 32).uint(1, 32).end()


def _reference(reader: Reader) -> Cell:
    return reader.ref()
