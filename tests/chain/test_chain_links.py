"""Chains of block links: what is believed, and every way in which one altered part is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chain_world import Group, World, block, changed, everything, header_cells, header_proof, key_of
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chain.boc import encode_boc
from appliance.chain.errors import ChainTooOldError, ProofError
from appliance.chain.proofs import BlockSignatures, Validator, ValidatorConfig, ordinary_message, verify_links
from appliance.chain.proofs.validators import set_hash
from appliance.lab.chain.proofs import merkle_proof


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_from_the_zerostate_over_two_key_blocks(world: World) -> None:
    links = [world.forward(0, 1), world.forward(1, 3), world.forward(3, 4)]
    proven = verify_links(world.blocks[0].id, links)
    assert proven.block == world.blocks[4].id
    assert proven.key_block == world.blocks[3].id
    assert proven.header is not None
    assert proven.header.utime == 1004
    assert proven.header.state_hash == world.blocks[4].state.hash


def test_back_to_the_key_block_and_forward(world: World) -> None:
    proven = verify_links(world.blocks[2].id, [world.backward(2, 1), world.forward(1, 3)])
    assert proven.block == world.blocks[3].id
    assert proven.key_block == world.blocks[3].id


def test_back_to_the_zerostate(world: World) -> None:
    proven = verify_links(world.blocks[4].id, [world.backward(4, 0)])
    assert (proven.block, proven.header, proven.key_block) == (world.blocks[0].id, None, None)


def test_no_links_prove_what_is_known(world: World) -> None:
    assert verify_links(world.blocks[3].id, []).block == world.blocks[3].id


def test_simplex_signatures_finalise_the_candidate_that_names_the_block(world: World) -> None:
    signed = world.signatures(2, simplex=True)
    assert verify_links(world.blocks[1].id, [world.forward(1, 2, signed)]).block == world.blocks[2].id
    for bad in (
        replace(signed, slot=signed.slot + 1),
        replace(signed, session=bytes(32)),
        replace(signed, candidate=signed.candidate + b"\0" if signed.candidate else None),
        world.signatures(2, simplex=True, of=world.blocks[3].id),
        replace(signed, candidate=None),
    ):
        with pytest.raises(ProofError):
            verify_links(world.blocks[1].id, [world.forward(1, 2, bad)])


def test_an_unknown_candidate_form_means_an_old_client(world: World) -> None:
    signed = world.signatures(2, simplex=True)
    assert signed.candidate is not None
    with pytest.raises(ChainTooOldError, match="CandidateHashData"):
        verify_links(
            world.blocks[1].id, [world.forward(1, 2, replace(signed, candidate=b"\1\2\3\4" + signed.candidate[4:]))]
        )


@pytest.mark.parametrize(
    ("signers", "accepted"),
    [((0, 1, 2, 3), True), ((0, 1, 2), True), ((1, 3, 2), True), ((0, 1), False), ((), False)],
)
def test_more_than_two_thirds_of_the_weight(world: World, signers: tuple[int, ...], accepted: bool) -> None:
    link = world.forward(1, 2, world.signatures(2, signers))
    if accepted:
        verify_links(world.blocks[1].id, [link])
    else:
        with pytest.raises(ProofError, match="two thirds"):
            verify_links(world.blocks[1].id, [link])


def test_exactly_two_thirds_are_not_enough() -> None:
    world = World(Group((0, 1, 2), (1, 1, 1), 3))
    with pytest.raises(ProofError, match="weight 2 of 3"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (0, 1)))])
    verify_links(world.blocks[1].id, [world.forward(1, 2)])


def test_weight_counts_not_heads() -> None:
    world = World(Group((0, 1, 2, 3), (1, 1, 1, 100), 4))
    verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (3,)))])
    with pytest.raises(ProofError, match="two thirds"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (0, 1, 2)))])


def test_one_signature_repeated_counts_once(world: World) -> None:
    one = world.signatures(2, (0,)).signatures
    with pytest.raises(ProofError, match="counted twice"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, BlockSignatures(one * 4))])
    verify_links(world.blocks[1].id, [world.forward(1, 2, BlockSignatures(world.signatures(2).signatures))])


def test_a_stranger_among_the_signers(world: World) -> None:
    with pytest.raises(ProofError, match="unknown"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (0, 1, 2, 3, 7)))])


def test_one_flipped_bit_in_a_signature(world: World) -> None:
    honest = world.signatures(2)
    (node, signature), *rest = honest.signatures
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    with pytest.raises(ProofError, match="does not verify"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, BlockSignatures(((node, flipped), *rest)))])


def test_signatures_of_another_block(world: World) -> None:
    with pytest.raises(ProofError, match="does not verify"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(3))])


def test_validators_outside_the_masterchain_subset_do_not_count() -> None:
    world = World(Group((0, 1, 2, 3), (10, 10, 10, 10), 2))
    verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (0, 1)))])
    with pytest.raises(ProofError, match="unknown"):
        verify_links(world.blocks[1].id, [world.forward(1, 2, world.signatures(2, (1, 2, 3)))])


def test_the_forged_chain_with_its_own_key_block(world: World) -> None:
    """The trusted block is honest; the configuration shown for it is an attacker's key block (pytoniq accepts this)."""
    forged = World(Group((4, 5, 6, 7), (1, 1, 1, 1), 4))
    link = replace(forged.forward(1, 2), source=world.blocks[1].id, signatures=forged.signatures(2, (4, 5, 6, 7)))
    with pytest.raises(ProofError, match="the proof is for hash"):
        verify_links(world.blocks[1].id, [link])
    verify_links(forged.blocks[1].id, [replace(link, source=forged.blocks[1].id)])


def test_the_forged_zerostate_configuration(world: World) -> None:
    forged = World(Group((4, 5, 6, 7), (1, 1, 1, 1), 4))
    link = replace(forged.forward(0, 1, forged.signatures(1, (4, 5, 6, 7))), source=world.blocks[0].id)
    with pytest.raises(ProofError, match="the proof is for hash"):
        verify_links(world.blocks[0].id, [link])
    verify_links(forged.blocks[0].id, [replace(link, source=forged.blocks[0].id)])


def test_a_forward_link_from_a_block_that_is_no_key_block(world: World) -> None:
    made = world.blocks[2]
    proof = encode_boc(merkle_proof(made.root, everything(made.root)))
    link = replace(world.forward(1, 4), source=made.id, config_proof=proof)
    with pytest.raises(ProofError, match="no key block"):
        verify_links(made.id, [link])


def test_a_header_flag_alone_makes_no_key_block(world: World) -> None:
    """The flag says key block, the extra carries no configuration."""
    group = world.first.config()
    vset = set_hash(group.masterchain_subset(5), 5)
    made = block(-1, -(1 << 63), 1, world.blocks[1].state, vset=vset, catchain=5, key_flag=True)
    keep = header_cells(made) | {made.root.refs[3].hash} | everything(made.root.refs[3])
    link = replace(world.forward(1, 2), source=made.id, config_proof=encode_boc(merkle_proof(made.root, keep)))
    with pytest.raises(ProofError, match="carries no configuration"):
        verify_links(made.id, [link])


def test_old_validators_cannot_sign_after_their_time(world: World) -> None:
    """Block 4 names key block 3; the set of block 1 is no longer the one that its header states."""
    link = world.forward(1, 4, world.signatures(3, (0, 1, 2, 3), of=world.blocks[4].id))
    with pytest.raises(ProofError, match="validator set has hash"):
        verify_links(world.blocks[1].id, [link])


def test_a_block_before_the_link_s_own_key_block(world: World) -> None:
    group = world.second.config()
    made = block(
        -1, -(1 << 63), 4, world.blocks[4].state, vset=set_hash(group.masterchain_subset(5), 5), catchain=5, prev_key=1
    )
    link = replace(
        world.forward(3, 4, world.signatures(4, of=made.id)),
        target=made.id,
        target_proof=encode_boc(header_proof(made)),
    )
    with pytest.raises(ProofError, match="last key block is 1, expected 3"):
        verify_links(world.blocks[3].id, [link])


@pytest.mark.parametrize(
    "part", [{"root_hash": b"\1" * 32}, {"file_hash": b"\1" * 32}, {"seqno": 7}, {"workchain": 0}, {"shard": 1 << 62}]
)
def test_every_part_of_the_target_s_identity_is_bound(world: World, part: dict[str, object]) -> None:
    link = world.forward(1, 2)
    with pytest.raises(ProofError):
        verify_links(world.blocks[1].id, [replace(link, target=changed(link.target, **part))])
    verify_links(world.blocks[1].id, [link])


def test_links_must_join(world: World) -> None:
    with pytest.raises(ProofError, match="starts at block 3"):
        verify_links(world.blocks[1].id, [world.forward(3, 4)])
    with pytest.raises(ProofError, match="starts at block 1"):
        verify_links(changed(world.blocks[1].id, file_hash=bytes(32)), [world.forward(1, 2)])


def test_direction_and_key_flag_are_checked(world: World) -> None:
    link = world.forward(1, 2)
    with pytest.raises(ProofError, match="declared key block"):
        verify_links(world.blocks[1].id, [replace(link, to_key_block=True)])
    with pytest.raises(ProofError, match="as a ForwardLink"):
        verify_links(world.blocks[2].id, [replace(link, source=world.blocks[2].id, target=world.blocks[1].id)])


def test_a_backward_link_shows_the_block_in_the_state(world: World) -> None:
    link = world.backward(4, 2)
    assert verify_links(world.blocks[4].id, [link]).block == world.blocks[2].id
    other = block(-1, -(1 << 63), 2, world.blocks[3].state)
    with pytest.raises(ProofError, match="old block 2"):
        verify_links(world.blocks[4].id, [replace(link, target=other.id, target_proof=encode_boc(header_proof(other)))])
    with pytest.raises(ProofError, match="the proof is for hash"):
        verify_links(world.blocks[4].id, [replace(link, state_proof=world.backward(3, 2).state_proof)])
    pruned_info = {world.blocks[4].state.hash, world.blocks[4].state.refs[3].hash}
    with pytest.raises(ProofError):
        verify_links(
            world.blocks[4].id,
            [replace(link, state_proof=encode_boc(merkle_proof(world.blocks[4].state, pruned_info)))],
        )


def test_new_versions_are_read_and_new_tags_are_named(world: World) -> None:
    group = world.first.config()
    vset = set_hash(group.masterchain_subset(5), 5)
    state = world.blocks[2].state

    def link_to(**parts: int) -> tuple[object, object]:
        made = block(-1, -(1 << 63), 2, state, vset=vset, catchain=5, prev_key=1, **parts)
        base = world.forward(1, 2, world.signatures(2, of=made.id))
        return made, replace(base, target=made.id, target_proof=encode_boc(header_proof(made)))

    made, link = link_to(version=9)
    assert verify_links(world.blocks[1].id, [link]).block == made.id  # type: ignore[attr-defined,list-item]  # as built
    for parts in ({"info_tag": 0x9BC7A988}, {"tag": 0x11EF55AB}):
        with pytest.raises(ChainTooOldError, match="too old"):
            verify_links(world.blocks[1].id, [link_to(**parts)[1]])  # type: ignore[list-item]  # as built


def test_known_configurations_are_used_again(world: World) -> None:
    configs: dict[bytes, ValidatorConfig] = {}
    verify_links(world.blocks[1].id, [world.forward(1, 2)], configs)
    assert set(configs) == {world.blocks[1].id.root_hash}
    verify_links(world.blocks[1].id, [world.forward(1, 3, config_proof=b"")], configs)


def test_the_shuffle_is_the_networks() -> None:
    """The order that ``do_compute_validator_set`` gives for seven validators in catchain session 123 456."""
    members = tuple(Validator(bytes([i]) * 32, 1, bytes(32)) for i in range(7))
    shuffled = ValidatorConfig(members, 7, shuffle=True).masterchain_subset(123_456)
    assert sorted(v.public_key for v in shuffled) == [v.public_key for v in members]
    assert shuffled != members
    assert ValidatorConfig(members, 7, shuffle=False).masterchain_subset(123_456) == members
    world = World(Group((0, 1, 2, 3), (10, 10, 10, 10), 4, shuffle=True), catchain=123_456)
    verify_links(world.blocks[1].id, [world.forward(1, 2)])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_altered_byte_of_a_link_is_believed(data: st.DataObject) -> None:
    world = _SHARED
    link = world.forward(1, 2)
    part = data.draw(st.sampled_from(["target_proof", "config_proof"]))
    bag: bytes = getattr(link, part)
    position = data.draw(st.integers(0, len(bag) - 1))
    flip = data.draw(st.integers(1, 255))
    altered = bag[:position] + bytes([bag[position] ^ flip]) + bag[position + 1 :]
    try:
        proven = verify_links(world.blocks[1].id, [replace(link, **{part: altered})])
    except (ProofError, ChainTooOldError):
        return
    # Bytes that carry no content (an unused flag of the bag) may change; what is proven may not.
    assert proven.block == world.blocks[2].id


def test_the_message_is_the_networks(world: World) -> None:
    identity = world.blocks[2].id
    assert ordinary_message(identity) == b"pn\x0b\xc5" + identity.root_hash + identity.file_hash
    key_of(0).public_key().verify(world.signatures(2, (0,)).signatures[0][1], ordinary_message(identity))


def test_the_public_surface() -> None:
    from appliance.chain import proofs

    assert sorted(proofs.__all__) == proofs.__all__
    assert all(hasattr(proofs, name) for name in proofs.__all__)


_SHARED = World()
