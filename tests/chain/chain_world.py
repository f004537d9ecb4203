"""A little chain made of cells, for the verifier's tests: several validators with weights, a split shard, accounts.

Nothing executes here. Everything that a proof can be about can be chosen by a test, and every answer that a liteserver
would give about it is made by the same code for the honest and for the altered case.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core.boc.cell import Cell

from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.chain.cells import Writer
from appliance.chain.proofs import (
    BackwardLink,
    BlockSignatures,
    ForwardLink,
    Validator,
    ValidatorConfig,
    ordinary_message,
    set_hash,
    simplex_message,
)
from appliance.chain.types import BlockId
from appliance.lab.chain.dictionaries import Augmentation, Dictionary, plain_dictionary
from appliance.lab.chain.proofs import merkle_proof, pruned

SHARD = -(1 << 63)
NOTHING = Writer("nothing").end()


def key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"validator %d" % number).digest())


@dataclass(frozen=True)
class Group:
    """Validators by number, with their weights."""

    numbers: tuple[int, ...] = (0, 1, 2, 3)
    weights: tuple[int, ...] = (10, 10, 10, 10)
    main: int = 4
    shuffle: bool = False

    def config(self) -> ValidatorConfig:
        members = tuple(
            Validator(key_of(n).public_key().public_bytes_raw(), w, bytes([n]) * 32)
            for n, w in zip(self.numbers, self.weights, strict=True)
        )
        return ValidatorConfig(members, self.main, self.shuffle)

    def cell(self) -> Cell:
        """The configuration dictionary."""
        listed = plain_dictionary(16)
        for index, validator in enumerate(self.config().validators):
            leaf = Writer("validator").uint(0x73, 8).uint(0x8E81278A, 32).raw(validator.public_key, 32)
            listed = listed.set(index, leaf.uint(validator.weight, 64).raw(validator.adnl, 32).end(), None)
        current = Writer("34").uint(0x12, 8).uint(0, 32).uint(0xFFFFFFFF, 32).uint(len(self.numbers), 16)
        current.uint(self.main, 16).uint(sum(self.weights), 64)
        catchain = Writer("28").uint(0xC2, 8).uint(0, 7).flag(self.shuffle).uint(0, 128).end()
        root = plain_dictionary(32)
        for number, cell in ((0, NOTHING), (28, catchain), (34, listed.write(current).end())):
            root = root.set(number, Writer("parameter").ref(cell).end(), None)
        found = root.root()
        assert found is not None
        return found


def currencies(writer: Writer, amount: int) -> Writer:
    return writer.coins(amount).uint(0, 1)


def shard_ident(writer: Writer, workchain: int, shard: int) -> Writer:
    unsigned = shard & (1 << 64) - 1
    marker = unsigned & -unsigned
    return writer.uint(0, 2).uint(63 - marker.bit_length() + 1, 6).sint(workchain, 32).uint(unsigned ^ marker, 64)


def block_ref(writer: Writer, block: BlockId) -> Writer:
    return writer.uint(block.seqno * 1000, 64).uint(block.seqno, 32).raw(block.root_hash, 32).raw(block.file_hash, 32)


@dataclass(frozen=True)
class Made:
    """A block or zerostate with its state."""

    id: BlockId
    root: Cell
    state: Cell
    header: dict[str, int] = field(default_factory=dict)


def account_cell(address: Address, balance: int, *, data: Cell = NOTHING, code: Cell = NOTHING) -> Cell:
    writer = Writer("account").uint(1, 1).address(address)
    writer.uint(1, 3).uint(1, 8).uint(1, 3).uint(103, 8)  # cells, bits used
    writer.uint(0, 3).uint(0, 32).uint(0, 1).uint(5, 64)
    currencies(writer, balance)
    return writer.uint(1, 1).uint(0b0011, 4).ref(code).ref(data).uint(0, 1).end()


def _accounts(accounts: dict[Address, Cell], last: tuple[int, bytes]) -> Dictionary[int]:
    found = Dictionary(256, Augmentation(0, int.__add__, lambda w, e: currencies(w.uint(0, 5), e)))
    for address, cell in accounts.items():
        leaf = Writer("leaf").ref(cell).raw(last[1], 32).uint(last[0], 64).end()
        found = found.set(int.from_bytes(address.hash, "big"), leaf, 7)
    return found


def shard_state(workchain: int, shard: int, seqno: int, accounts: Dictionary[int], custom: Cell | None) -> Cell:
    writer = shard_ident(Writer("state").uint(0x9023AFE2, 32).sint(-777, 32), workchain, shard)
    writer.uint(seqno, 32).uint(0, 32).uint(1000 + seqno, 32).uint(seqno * 1000, 64).uint(0, 32)
    totals = currencies(currencies(Writer("totals").uint(0, 128), 0), 0).uint(0, 2).end()
    return (
        writer.ref(NOTHING).uint(0, 1).ref(accounts.write(Writer("accounts")).end()).ref(totals).maybe_ref(custom).end()
    )


def block(
    workchain: int,
    shard: int,
    seqno: int,
    state: Cell,
    *,
    config: Cell | None = None,
    vset: int = 0,
    catchain: int = 0,
    prev_key: int = 0,
    tag: int = 0x11EF55AA,
    info_tag: int = 0x9BC7A987,
    version: int = 0,
    key_flag: bool | None = None,
) -> Made:
    key = config is not None
    info = Writer("info").uint(info_tag, 32).uint(version, 32).uint(0, 6)
    info.flag(key if key_flag is None else key_flag).uint(0, 1).uint(0, 8).uint(seqno, 32).uint(0, 32)
    shard_ident(info, workchain, shard).uint(1000 + seqno, 32).uint(seqno * 1000 - 500 if seqno else 0, 64)
    info.uint(seqno * 1000, 64).uint(vset, 32).uint(catchain, 32).uint(0, 32).uint(prev_key, 32)
    update = _update(state)
    custom = None
    if workchain == -1:
        master = Writer("custom").uint(0xCCA5, 16).flag(key).uint(0, 1)
        currencies(currencies(master.uint(0, 1), 0), 0).ref(NOTHING)
        if config is not None:
            master.raw(b"\x55" * 32, 32).ref(config)
        custom = master.end()
    extra = Writer("extra").uint(0x4A33F6FD, 32).ref(NOTHING).ref(NOTHING).ref(NOTHING)
    extra.raw(bytes(32), 32).raw(bytes(32), 32).maybe_ref(custom)
    root = Writer("block").uint(tag, 32).sint(-777, 32).ref(info.end()).ref(NOTHING).ref(update).ref(extra.end()).end()
    identity = BlockId(workchain, shard, seqno, root.hash, hashlib.sha256(encode_boc(root)).digest())
    return Made(identity, root, state)


def _update(state: Cell) -> Cell:
    old = pruned(NOTHING, 1)
    new = pruned(state, 1)
    data = b"\x04" + NOTHING.hash + state.hash + NOTHING.get_depth(0).to_bytes(2, "big")
    return _exotic(data + state.get_depth(0).to_bytes(2, "big"), [old, new], 4)


def _exotic(data: bytes, references: list[Cell], kind: int) -> Cell:
    from pytoniq_core import TvmBitarray

    bits = TvmBitarray(1023)
    bits.frombytes(data)
    return Cell(bits, references, kind)


def everything(*cells: Cell) -> set[bytes]:
    found: set[bytes] = set()
    stack = list(cells)
    while stack:
        cell = stack.pop()
        if cell.hash not in found:
            found.add(cell.hash)
            stack.extend(cell.refs)
    return found


def header_cells(made: Made) -> set[bytes]:
    return {made.root.hash, made.root.refs[0].hash, made.root.refs[2].hash}


def header_proof(made: Made) -> Cell:
    return merkle_proof(made.root, header_cells(made))


class World:
    """Zerostate, key block 1, block 2, a key block 3 with other validators, block 4; basechain split in two.

    Account states are the same at every height; the shard blocks differ.
    """

    def __init__(self, first: Group | None = None, second: Group | None = None, *, catchain: int = 5) -> None:
        self.first, self.second, self.catchain = first or Group(), second or Group((4, 5, 6), (1, 1, 7), 3), catchain
        self.last = (77, b"\x77" * 32)
        self.accounts = {
            address: account_cell(address, 1000 + i)
            for i, address in enumerate(Address(0, hashlib.sha256(b"account %d" % i).digest()) for i in range(12))
        }
        self.left, self.right = 1 << 62, -(1 << 62)
        self.blocks: list[Made] = []
        self.shards: list[dict[int, Made]] = []
        self._previous: Dictionary[int] = Dictionary(32, Augmentation(0, max, lambda w, e: w.uint(0, 1).uint(e, 64)))
        for seqno in range(5):
            self._grow(seqno)

    def group_at(self, seqno: int) -> Group:
        """Who signs a block."""
        return self.first if seqno <= 3 else self.second

    def _grow(self, seqno: int) -> None:
        if self.blocks:
            before = self.blocks[-1].id
            leaf = block_ref(Writer("old").flag(before.seqno in {1, 3}), before).end()
            self._previous = self._previous.set(before.seqno, leaf, before.seqno * 1000)
        shards = {}
        for shard in (self.left, self.right):
            bit = shard == self.right
            here = {a: c for a, c in self.accounts.items() if bool(a.hash[0] >> 7) == bit}
            state = shard_state(0, shard, seqno + 10, _accounts(here, self.last), None)
            shards[shard] = block(0, shard, seqno + 10, state)
        self.shards.append(shards)
        config = (self.second if seqno >= 3 else self.first).cell()
        state = shard_state(-1, SHARD, seqno, _accounts({}, self.last), self._extra(shards, config))
        if seqno == 0:
            identity = BlockId(-1, SHARD, 0, state.hash, hashlib.sha256(encode_boc(state)).digest())
            self.blocks.append(Made(identity, state, state))
            return
        signers = self.group_at(seqno).config()
        vset = set_hash(signers.masterchain_subset(self.catchain), self.catchain)
        made = block(
            -1,
            SHARD,
            seqno,
            state,
            config=config if seqno in {1, 3} else None,
            vset=vset,
            catchain=self.catchain,
            prev_key=0 if seqno == 1 else 1 if seqno <= 3 else 3,
        )
        self.blocks.append(made)

    def _extra(self, shards: dict[int, Made], config: Cell) -> Cell:
        def leaf(made: Made) -> Cell:
            writer = Writer("descr").uint(0, 1).uint(0xB, 4).uint(made.id.seqno, 32).uint(0, 32).uint(0, 128)
            return writer.raw(made.id.root_hash, 32).raw(made.id.file_hash, 32).uint(0, 8).uint(0, 32).end()

        tree = Writer("tree").uint(1, 1).ref(leaf(shards[self.left])).ref(leaf(shards[self.right])).end()
        table = plain_dictionary(32).set(0, Writer("leaf").ref(tree).end(), None)
        info = Writer("info").uint(0, 16).uint(0, 65)
        self._previous.write(info).uint(0, 2)
        extra = table.write(Writer("extra").uint(0xCC26, 16)).raw(b"\x55" * 32, 32).ref(config).ref(info.end())
        return currencies(extra, 0).end()

    def signatures(
        self, seqno: int, signers: tuple[int, ...] | None = None, *, simplex: bool = False, of: BlockId | None = None
    ) -> BlockSignatures:
        """Signatures of a block by the given validators (all of the subset by default)."""
        target = of or self.blocks[seqno].id
        subset = {v.public_key: v for v in self.group_at(seqno).config().masterchain_subset(self.catchain)}
        keys = [key_of(n) for n in (signers if signers is not None else range(8))]
        session, slot, candidate = b"\x11" * 32, 9, None
        if simplex:
            named = (-1).to_bytes(4, "little", signed=True) + SHARD.to_bytes(8, "little", signed=True)
            named += target.seqno.to_bytes(4, "little") + target.root_hash + target.file_hash
            candidate = bytes.fromhex("dcbcf9e8") + named + b"\x22" * 32 + bytes.fromhex("a9ccbc22")
        message = ordinary_message(target) if candidate is None else simplex_message(session, slot, candidate)
        found = []
        for key in keys:
            public = key.public_key().public_bytes_raw()
            if public in subset or signers is not None:
                found.append((Validator(public, 1, bytes(32)).short_id, key.sign(message)))
        return BlockSignatures(tuple(found), session if simplex else b"", slot if simplex else 0, candidate)

    def config_proof(self, source: int) -> bytes:
        made = self.blocks[source]
        if source == 0:
            custom = made.state.refs[3]
            keep = {made.state.hash, custom.hash, custom.refs[2].hash} | everything(custom.refs[1])
            return encode_boc(merkle_proof(made.state, keep))
        extra = made.root.refs[3]
        keep = header_cells(made) | {extra.hash, extra.refs[3].hash} | everything(extra.refs[3])
        return encode_boc(merkle_proof(made.root, keep))

    def forward(
        self, source: int, target: int, signatures: BlockSignatures | None = None, config_proof: bytes | None = None
    ) -> ForwardLink:
        """An honest forward link, parts of which a test can replace."""
        made = self.blocks[target]
        return ForwardLink(
            self.blocks[source].id,
            made.id,
            target in {1, 3},
            encode_boc(header_proof(made)),
            config_proof if config_proof is not None else self.config_proof(source),
            signatures or self.signatures(target),
        )

    def backward(self, source: int, target: int) -> BackwardLink:
        """An honest backward link."""
        made, old = self.blocks[source], self.blocks[target]
        custom = made.state.refs[3]
        info = custom.refs[2]
        keep = {made.state.hash, custom.hash} | everything(info)
        return BackwardLink(
            made.id,
            old.id,
            target in {1, 3},
            encode_boc(header_proof(old)) if target else b"",
            encode_boc(header_proof(made)),
            encode_boc(merkle_proof(made.state, keep)),
        )

    def shard_of(self, address: Address, seqno: int = 4) -> Made:
        return self.shards[seqno][self.right if address.hash[0] >> 7 else self.left]

    def shard_proof(self, seqno: int = 4) -> bytes:
        made = self.blocks[seqno]
        custom = made.state.refs[3]
        keep = {made.state.hash, custom.hash, custom.refs[2].hash} | everything(custom.refs[0])
        return encode_boc(header_proof(made), merkle_proof(made.state, keep))

    def account_proof(self, address: Address, seqno: int = 4, *, path_of: Address | None = None) -> bytes:
        """The shard's header and the path to the account (or to ``path_of`` instead)."""
        made = self.shard_of(address, seqno)
        here = {a: c for a, c in self.accounts.items() if a.hash[0] >> 7 == address.hash[0] >> 7}
        path = _accounts(here, self.last).path(int.from_bytes((path_of or address).hash, "big"))
        return encode_boc(
            header_proof(made), merkle_proof(made.state, {made.state.hash, made.state.refs[1].hash} | path)
        )


def changed(block_id: BlockId, **parts: object) -> BlockId:
    return replace(block_id, **parts)  # type: ignore[arg-type]  # tests change one named field
