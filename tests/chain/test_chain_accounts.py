"""Account states: presence, absence and every altered binding on the way down from a proven block."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from chain_world import World, account_cell, header_proof
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc_roots, encode_boc
from appliance.chain.cells import Writer
from appliance.chain.errors import ChainTooOldError, ProofError
from appliance.chain.proofs import ProvenAccount, verify_account, verify_config, verify_shard
from appliance.chain.proofs.parts import shard_contains
from appliance.lab.chain.proofs import merkle_proof

if TYPE_CHECKING:
    from appliance.chain.types import BlockId

_WORLD = World()
_NOBODY = Address(0, hashlib.sha256(b"nobody").digest())


def read(world: World, address: Address, **replaced: object) -> ProvenAccount:
    made = world.shard_of(address)
    cell = world.accounts.get(address)
    parts: dict[str, object] = {
        "shard_block": made.id,
        "shard_proof": world.shard_proof(),
        "proof": world.account_proof(address),
        "account": encode_boc(cell) if cell is not None else b"",
    }
    return verify_account(address, world.blocks[4].id, **(parts | replaced))  # type: ignore[arg-type]  # as in a call


@pytest.mark.parametrize("address", list(_WORLD.accounts))
def test_every_account_in_both_shards(address: Address) -> None:
    account = read(_WORLD, address)
    assert account.status == "active"
    assert account.balance == 1000 + list(_WORLD.accounts).index(address)
    assert (account.last_lt, account.last_hash) == _WORLD.last
    assert account.code is not None


def test_absence_is_proven() -> None:
    assert read(_WORLD, _NOBODY).status == "absent"


def test_absence_without_proof_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    with pytest.raises(ProofError, match="sent no account although the state holds one"):
        read(_WORLD, address, account=b"")
    with pytest.raises(ProofError):
        read(_WORLD, address, account=b"", proof=b"")


def test_absence_proven_by_another_account_s_path_is_refused() -> None:
    """The path to a neighbour prunes where this account would be: nothing is proven."""
    address = next(iter(_WORLD.accounts))
    others = [a for a in _WORLD.accounts if a.hash[0] >> 7 == address.hash[0] >> 7 and a != address]
    refused = 0
    for other in others:
        proof = _WORLD.account_proof(address, path_of=other)
        try:
            read(_WORLD, address, account=b"", proof=proof)
        except ProofError:
            refused += 1
    assert refused == len(others)


def test_an_account_that_is_proven_absent_is_refused() -> None:
    with pytest.raises(ProofError, match="proves absent"):
        read(_WORLD, _NOBODY, account=encode_boc(account_cell(_NOBODY, 5)))


def test_an_altered_account_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    with pytest.raises(ProofError, match="the proof is for hash"):
        read(_WORLD, address, account=encode_boc(account_cell(address, 10**15)))


def test_another_account_s_cell_is_refused() -> None:
    first, second = list(_WORLD.accounts)[:2]
    with pytest.raises(ProofError):
        read(_WORLD, first, account=encode_boc(_WORLD.accounts[second]))


def test_a_state_of_another_height_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    with pytest.raises(ProofError):
        read(_WORLD, address, shard_proof=_WORLD.shard_proof(3))
    with pytest.raises(ProofError):
        read(_WORLD, address, proof=_WORLD.account_proof(address, 3))
    with pytest.raises(ProofError, match="the answer names"):
        read(_WORLD, address, shard_block=_WORLD.shard_of(address, 3).id, proof=_WORLD.account_proof(address, 3))


def test_the_other_shard_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    other = next(a for a in _WORLD.accounts if a.hash[0] >> 7 != address.hash[0] >> 7)
    with pytest.raises(ProofError, match="cannot hold it"):
        read(_WORLD, address, shard_block=_WORLD.shard_of(other).id)


def test_a_shard_that_claims_to_be_whole_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    made = _WORLD.shard_of(address)
    with pytest.raises(ProofError):
        verify_shard(_WORLD.shard_proof(), _WORLD.blocks[4].id, replace(made.id, shard=-(1 << 63)))
    verify_shard(_WORLD.shard_proof(), _WORLD.blocks[4].id, made.id)


class Forger:
    """A chain of the attacker's own in which one account is rich, with parts to mix into honest answers."""

    def __init__(self) -> None:
        self.victim = next(iter(_WORLD.accounts))
        self.world = World()
        self.world.accounts = _WORLD.accounts | {self.victim: account_cell(self.victim, 10**15)}
        self.world.blocks, self.world.shards = [], []
        for seqno in range(5):
            self.world._grow(seqno)
        self.shard = self.world.shard_of(self.victim)
        self.account = encode_boc(self.world.accounts[self.victim])

    def read(self, master: BlockId, **parts: object) -> ProvenAccount:
        honest: dict[str, object] = {
            "shard_block": self.shard.id,
            "shard_proof": self.world.shard_proof(),
            "proof": self.world.account_proof(self.victim),
            "account": self.account,
        }
        return verify_account(self.victim, master, **(honest | parts))  # type: ignore[arg-type]  # as in a call


def test_the_attacker_s_chain_is_consistent_in_itself() -> None:
    """The control of the tests below: under the attacker's own block the same bytes are believed."""
    forger = Forger()
    assert forger.read(forger.world.blocks[4].id).balance == 10**15


def test_the_attacker_s_header_under_an_honest_block_is_refused() -> None:
    with pytest.raises(ProofError, match="the proof is for hash"):
        Forger().read(_WORLD.blocks[4].id)


def test_the_attacker_s_masterchain_state_under_an_honest_header_is_refused() -> None:
    forger = Forger()
    own = decode_boc_roots(forger.world.shard_proof(), max_roots=2)[1]
    mixed = encode_boc(header_proof(_WORLD.blocks[4]), own)
    with pytest.raises(ProofError, match="shard list of block 4: the proof is for hash"):
        forger.read(_WORLD.blocks[4].id, shard_proof=mixed)


def test_the_attacker_s_shard_block_under_an_honest_name_is_refused() -> None:
    forger = Forger()
    honest = _WORLD.shard_of(forger.victim).id
    with pytest.raises(ProofError, match="the proof is for hash"):
        forger.read(_WORLD.blocks[4].id, shard_block=honest, shard_proof=_WORLD.shard_proof())


def test_the_attacker_s_shard_state_under_an_honest_header_is_refused() -> None:
    forger = Forger()
    honest = _WORLD.shard_of(forger.victim)
    own = decode_boc_roots(forger.world.account_proof(forger.victim), max_roots=2)[1]
    mixed = encode_boc(header_proof(honest), own)
    with pytest.raises(ProofError, match="the proof is for hash"):
        forger.read(_WORLD.blocks[4].id, shard_block=honest.id, shard_proof=_WORLD.shard_proof(), proof=mixed)


def test_a_bare_cell_is_no_proof() -> None:
    address = next(iter(_WORLD.accounts))
    header, state = decode_boc_roots(_WORLD.account_proof(address), max_roots=2)
    bare = Writer("wrapper").ref(state.refs[0]).end()
    with pytest.raises(ProofError, match="expected a Merkle proof"):
        read(_WORLD, address, proof=encode_boc(header, bare))


def test_one_root_instead_of_two_is_refused() -> None:
    address = next(iter(_WORLD.accounts))
    with pytest.raises(ProofError, match="roots, expected 2"):
        read(_WORLD, address, proof=encode_boc(header_proof(_WORLD.shard_of(address))))


def test_an_account_whose_storage_has_a_new_form_means_an_old_client() -> None:
    address = Address(0, bytes(32))
    writer = Writer("account").uint(1, 1).address(address).uint(0, 6).uint(0b010, 3).uint(0, 32).uint(0, 1)
    world = World()
    world.accounts = {address: writer.uint(0, 64).coins(5).uint(0, 1).uint(0, 2).end()}
    world.blocks, world.shards = [], []
    for seqno in range(5):
        world._grow(seqno)
    with pytest.raises(ChainTooOldError, match="storage info"):
        read(world, address)


def test_configuration_from_the_proven_state() -> None:
    made = _WORLD.blocks[4]
    custom = made.state.refs[3]
    keep = {made.state.hash, custom.hash, custom.refs[2].hash}
    whole: set[bytes] = set()
    stack = [custom.refs[1]]
    while stack:
        cell = stack.pop()
        whole.add(cell.hash)
        stack.extend(cell.refs)
    header, state = encode_boc(header_proof(made)), encode_boc(merkle_proof(made.state, keep | whole))
    parameter = verify_config(made.id, header, state, 34)
    assert parameter is not None
    assert verify_config(made.id, header, state, 35) is None
    with pytest.raises(ProofError):
        verify_config(_WORLD.blocks[3].id, header, state, 34)
    with pytest.raises(ProofError):
        verify_config(made.id, header, encode_boc(merkle_proof(made.state, keep)), 34)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_altered_byte_changes_what_is_read(data: st.DataObject) -> None:
    address = data.draw(st.sampled_from(list(_WORLD.accounts)))
    part = data.draw(st.sampled_from(["proof", "shard_proof", "account"]))
    honest = {
        "proof": _WORLD.account_proof(address),
        "shard_proof": _WORLD.shard_proof(),
        "account": encode_boc(_WORLD.accounts[address]),
    }[part]
    position = data.draw(st.integers(0, len(honest) - 1))
    altered = honest[:position] + bytes([honest[position] ^ data.draw(st.integers(1, 255))]) + honest[position + 1 :]
    try:
        account = read(_WORLD, address, **{part: altered})
    except (ProofError, ChainTooOldError):
        return
    assert account == read(_WORLD, address)


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ProofError):
        read(_WORLD, _NOBODY, proof=noise)


def test_which_shard_holds_an_account() -> None:
    assert shard_contains(-(1 << 63), bytes(32))
    assert shard_contains(1 << 62, b"\x7f" + bytes(31))
    assert not shard_contains(1 << 62, b"\x80" + bytes(31))
    assert shard_contains(-(1 << 62), b"\x80" + bytes(31))
    assert not shard_contains(0, bytes(32))
