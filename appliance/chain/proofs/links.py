"""Chains of links from a trusted masterchain block to a newer (or older) one.

In: the links of a liteserver's ``getBlockProof`` answer. Out: :class:`ProvenBlock` of the last block, and the newest
key block met on the way, from which the next proof can start. A forward link is signed by the validators that the
source's own configuration names; a backward link shows the older block in the source's state. Every proof root is
bound to the identity it is for. Layout: ``lite_api.tl`` (``liteServer.BlockLink``); the checks are those of TON's
``BlockProofLink::validate``, and two it leaves out: a zerostate is bound to its hash, and a block whose header names
an older key block than the link's source is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.errors import ProofError
from appliance.chain.proofs.dictionary import lookup
from appliance.chain.proofs.header import BlockHeader, key_block_config, prove_header
from appliance.chain.proofs.merkle import parse_roots, proving, virtual_root
from appliance.chain.proofs.parts import MASTER_SHARD, MASTERCHAIN, read_ext_block_ref
from appliance.chain.proofs.state import parse_masterchain_state
from appliance.chain.proofs.validators import (
    BlockSignatures,
    ValidatorConfig,
    check_signatures,
    parse_validator_config,
)

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from appliance.chain.types import BlockId

MAX_LINKS = 256


@dataclass(frozen=True, slots=True)
class ForwardLink:
    """``liteServer.blockLinkForward``: bags of cells as received."""

    source: BlockId
    target: BlockId
    to_key_block: bool
    target_proof: bytes
    config_proof: bytes
    signatures: BlockSignatures


@dataclass(frozen=True, slots=True)
class BackwardLink:
    """``liteServer.blockLinkBack``: bags of cells as received."""

    source: BlockId
    target: BlockId
    to_key_block: bool
    target_proof: bytes
    source_proof: bytes
    state_proof: bytes


@dataclass(frozen=True, slots=True)
class ProvenBlock:
    """The end of a chain of links. ``header`` is None for a zerostate; ``key_block`` is the newest met, if any."""

    block: BlockId
    header: BlockHeader | None
    key_block: BlockId | None


def verify_links(
    known: BlockId,
    links: Sequence[ForwardLink | BackwardLink],
    known_configs: MutableMapping[bytes, ValidatorConfig] | None = None,
) -> ProvenBlock:
    """Follow links from a trusted block.

    Args:
        known: The trusted masterchain block (or zerostate).
        links: What the server sent, in order; may be empty.
        known_configs: Validator configurations proven before, by the root hash of their key block; new ones are added.

    Raises:
        ProofError: A link does not start where the last one ended, or does not hold.
        ChainTooOldError: A structure has an unknown version.
    """
    if len(links) > MAX_LINKS:
        raise ProofError(f"block proof: {len(links)} links, expected at most {MAX_LINKS}")
    configs = {} if known_configs is None else known_configs
    current = known
    header: BlockHeader | None = None
    newest_key: BlockId | None = None
    for number, link in enumerate(links, start=1):
        what = f"block proof, link {number} to block {link.target.seqno}"
        if link.source != current:
            raise ProofError(
                f"{what}: starts at block {link.source.seqno}, expected {current.seqno} ({current.root_hash.hex()})"
            )
        _check_ends(link, what)
        header = _verify_link(link, configs, what)
        if header is not None and header.key_block != link.to_key_block:
            raise ProofError(f"{what}: declared key block {link.to_key_block}, the header says {header.key_block}")
        current = link.target
        if header is not None and header.key_block and (newest_key is None or newest_key.seqno < current.seqno):
            newest_key = current
    return ProvenBlock(current, header, newest_key)


def _check_ends(link: ForwardLink | BackwardLink, what: str) -> None:
    for end in (link.source, link.target):
        if (end.workchain, end.shard) != (MASTERCHAIN, MASTER_SHARD):
            raise ProofError(f"{what}: an end lies in workchain {end.workchain}, expected the masterchain")
    forward = link.source.seqno < link.target.seqno
    if link.source.seqno == link.target.seqno or forward != isinstance(link, ForwardLink):
        raise ProofError(f"{what}: goes from {link.source.seqno} to {link.target.seqno} as a {type(link).__name__}")


def _verify_link(
    link: ForwardLink | BackwardLink, configs: MutableMapping[bytes, ValidatorConfig], what: str
) -> BlockHeader | None:
    if isinstance(link, ForwardLink):
        return _verify_forward(link, configs, what)
    return _verify_backward(link, what)


def _verify_forward(link: ForwardLink, configs: MutableMapping[bytes, ValidatorConfig], what: str) -> BlockHeader:
    header, _ = prove_header(link.target_proof, link.target, what)
    if header.prev_key_block_seqno < link.source.seqno:
        raise ProofError(
            f"{what}: the header's last key block is {header.prev_key_block_seqno}, "
            f"expected {link.source.seqno} or newer"
        )
    config = configs.get(link.source.root_hash)
    if config is None:
        config = _source_config(link, what)
        configs[link.source.root_hash] = config
    check_signatures(header, config, link.signatures, what)
    return header


def _source_config(link: ForwardLink, what: str) -> ValidatorConfig:
    """The validators that the source block (a key block, or the zerostate) names, bound to the source's hash."""
    what = f"{what}, configuration of block {link.source.seqno}"
    if link.source.seqno == 0:
        root = virtual_root(parse_roots(link.config_proof, 1, what)[0], what, expected=link.source.root_hash)
        return parse_validator_config(parse_masterchain_state(root, what).config, what)
    header, root = prove_header(link.config_proof, link.source, what)
    if not header.key_block:
        raise ProofError(f"{what}: a forward link starts at a block that is no key block")
    return parse_validator_config(key_block_config(root, what), what)


def _verify_backward(link: BackwardLink, what: str) -> BlockHeader | None:
    """The target is listed among the old blocks of the source's state."""
    if link.source.seqno == 0:
        raise ProofError(f"{what}: a backward link from a zerostate")
    source, _ = prove_header(link.source_proof, link.source, f"{what}, source")
    state_what = f"{what}, state of block {link.source.seqno}"
    state_root = virtual_root(parse_roots(link.state_proof, 1, state_what)[0], state_what, expected=source.state_hash)
    state = parse_masterchain_state(state_root, state_what)
    with proving(state_what):
        leaf = lookup(state.previous_blocks, link.target.seqno, 32, "old masterchain blocks")
        if leaf is None:
            raise ProofError(f"{state_what}: block {link.target.seqno} is not among its old blocks")
        leaf.uint(1 + 64)  # extra: KeyMaxLt
        was_key = leaf.flag()
        reference = read_ext_block_ref(leaf)
    if (reference.seqno, reference.root_hash, reference.file_hash) != (
        link.target.seqno,
        link.target.root_hash,
        link.target.file_hash,
    ):
        raise ProofError(
            f"{state_what}: old block {reference.seqno} has root hash {reference.root_hash.hex()}, "
            f"expected {link.target.root_hash.hex()}"
        )
    if link.target.seqno == 0:
        return None
    header, _ = prove_header(link.target_proof, link.target, what)
    if header.key_block != was_key:
        raise ProofError(f"{what}: the state says key block {was_key}, the header {header.key_block}")
    return header
