"""Answers that link blocks: from a masterchain block the client trusts to another, and from a shard block to one.

Forward links carry the validator's signature and the configuration of a key block; back links show an earlier block
in a newer state. A path goes back to the newest key block at most once, then forward from key block to key block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.chain.boc import encode_boc
from appliance.lab.chain.answers import Answers, Handler, Query
from appliance.lab.chain.errors import QueryRefusedError
from appliance.lab.chain.exhibits import (
    config_proof,
    earlier_block_proof,
    header_proof,
    key_block_proof,
    shards_proof,
)
from appliance.lab.chain.layout import MASTERCHAIN, Block
from appliance.lab.chain.lite_api import block_id_value

if TYPE_CHECKING:
    from appliance.lab.chain.config import Validator

MAX_LINKS = 16
"""Links of one answer; a longer path is continued by another query."""

_HAS_TARGET = 1


class LinkAnswers(Answers):
    """Proof chains."""

    def table(self) -> dict[str, Handler]:
        """The queries of this group."""
        return {"getBlockProof": self.block_proof, "getShardBlockProof": self.shard_block_proof}

    def block_proof(self, query: Query) -> bytes:
        """The links from a known masterchain block to a target, the newest block by default."""
        known = self.master_view(query["known_block"]).master
        has_target = query["mode"] & _HAS_TARGET
        target = self.master_view(query["target_block"]).master if has_target else self.head().master
        steps = [self.link(start, end) for start, end in self.path(known, target)]
        shown = steps[:MAX_LINKS]
        complete = len(steps) <= MAX_LINKS
        end = block_id_value(target.id) if complete else shown[-1]["to"]
        return self.encode(
            "partialBlockProof", complete=complete, **{"from": block_id_value(known.id), "to": end, "steps": shown}
        )

    def path(self, known: Block, target: Block) -> list[tuple[Block, Block]]:
        """The hops from one masterchain block to another; one more than an answer takes at most."""
        if known.id.seqno >= target.id.seqno:
            return [] if known.id == target.id else [(known, target)]
        hops: list[tuple[Block, Block]] = []
        current = known
        if known.id.seqno and not known.is_key:
            current = self._master(self.net.store.last_key_block(known.id.seqno) or 0)
            hops.append((known, current))
        keys = self.net.store.key_blocks(current.id.seqno, target.id.seqno, MAX_LINKS + 1)
        for seqno in keys:
            hops.append((current, self._master(seqno)))
            current = hops[-1][1]
        if current.id != target.id and len(keys) <= MAX_LINKS:
            hops.append((current, target))
        return hops

    def link(self, start: Block, end: Block) -> dict[str, Any]:
        """One link, in either direction."""
        ends = {"from": block_id_value(start.id), "to": block_id_value(end.id)}
        if end.id.seqno < start.id.seqno:
            view = self.net.archive.view(start.id.seqno)
            return {
                "@type": "liteServer.blockLinkBack",
                "to_key_block": end.is_key,
                **ends,
                "dest_proof": encode_boc(header_proof(end)) if end.id.seqno else b"",
                "proof": encode_boc(header_proof(start)),
                "state_proof": encode_boc(earlier_block_proof(view, end.id.seqno)),
            }
        proof = key_block_proof(start) if start.id.seqno else config_proof(self.net.archive.view(0))
        return {
            "@type": "liteServer.blockLinkForward",
            "to_key_block": end.is_key,
            **ends,
            "dest_proof": encode_boc(header_proof(end)),
            "config_proof": encode_boc(proof),
            "signatures": self.signatures(end, self.net.archive.validator(end.id.seqno)),
        }

    def signatures(self, block: Block, validator: Validator) -> dict[str, Any]:
        """The validator's signature over a block."""
        return {
            "@type": "liteServer.signatureSet.ordinary",
            "validator_set_hash": _signed(validator.list_hash),
            "catchain_seqno": validator.catchain_seqno,
            "signatures": [{"node_id_short": validator.node_id, "signature": block.signature}],
        }

    def shard_block_proof(self, query: Query) -> bytes:
        """The masterchain block that lists a shard block."""
        block = self.block(query["id"])
        view = self.net.archive.view(block.id.seqno)
        if not view.seqno:
            raise QueryRefusedError("a zerostate is listed by no block")
        links = []
        if block.id.workchain != MASTERCHAIN:
            links = [{"id": block_id_value(block.id), "proof": encode_boc(shards_proof(view))}]
        return self.encode("shardBlockProof", masterchain_id=block_id_value(view.master.id), links=links)

    def _master(self, seqno: int) -> Block:
        block = self.net.archive.block(MASTERCHAIN, seqno)
        if block is None:
            raise QueryRefusedError(f"there is no masterchain block {seqno}")
        return block


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
