"""Answers about the chain as a whole and its blocks: heads, times, shards, files, headers, lookups."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from appliance.chain.boc import encode_boc
from appliance.chain.cells import Writer
from appliance.lab.chain.answers import CAPABILITIES, VERSION, Answers, Handler, Query
from appliance.lab.chain.errors import LiteErrorCode, QueryRefusedError
from appliance.lab.chain.exhibits import earlier_block_proof, header_proof, shard_proof, shards_proof
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN
from appliance.lab.chain.lite_api import block_id_value, zerostate_value

if TYPE_CHECKING:
    from appliance.lab.chain.layout import Block

_BY_SEQNO, _BY_LT, _BY_UTIME = 1, 2, 4
_MODE_BITS = 7


class BlockAnswers(Answers):
    """Heads, times, shards, block files and headers."""

    def table(self) -> dict[str, Handler]:
        """The queries of this group."""
        return {
            "getMasterchainInfo": self.masterchain_info,
            "getMasterchainInfoExt": self.masterchain_info_ext,
            "getTime": self.time,
            "getVersion": self.version,
            "getBlock": self.block_data,
            "getState": self.state,
            "getBlockHeader": self.header,
            "getShardInfo": self.shard_info,
            "getAllShardsInfo": self.all_shards,
            "lookupBlock": self.lookup,
            "lookupBlockWithProof": self.lookup_with_proof,
        }

    def masterchain_info(self, _query: Query) -> bytes:
        """The newest masterchain block."""
        view = self.head()
        return self.encode(
            "masterchainInfo",
            last=block_id_value(view.master.id),
            state_root_hash=view.master_state.hash,
            init=zerostate_value(self.net.zerostate.id),
        )

    def masterchain_info_ext(self, query: Query) -> bytes:
        """The newest masterchain block, with times."""
        if query["mode"]:
            raise QueryRefusedError(f"mode {query['mode']}, expected 0")
        view = self.head()
        return self.encode(
            "masterchainInfoExt",
            mode=0,
            version=VERSION,
            capabilities=CAPABILITIES,
            last=block_id_value(view.master.id),
            last_utime=view.master.utime,
            now=self.net.clock.now(),
            state_root_hash=view.master_state.hash,
            init=zerostate_value(self.net.zerostate.id),
        )

    def time(self, _query: Query) -> bytes:
        """The chain's clock."""
        return self.encode("currentTime", now=self.net.clock.now())

    def version(self, _query: Query) -> bytes:
        """What this server can do."""
        return self.encode("version", mode=0, version=VERSION, capabilities=CAPABILITIES, now=self.net.clock.now())

    def block_data(self, query: Query) -> bytes:
        """A block's file."""
        block = self.block(query["id"])
        if block.id.seqno == 0:
            raise QueryRefusedError("a zerostate is no block", code=LiteErrorCode.NOT_READY)
        return self.encode("blockData", id=block_id_value(block.id), data=block.boc)

    def state(self, query: Query) -> bytes:
        """A state as a file; for seqno 0 the zerostate."""
        block = self.block(query["id"])
        view = self.net.archive.view(block.id.seqno)
        root = view.master_state if block.id.workchain == MASTERCHAIN else view.shard_state
        data = encode_boc(root)
        return self.encode(
            "blockState",
            id=block_id_value(block.id),
            root_hash=root.hash,
            file_hash=hashlib.sha256(data).digest(),
            data=data,
        )

    def header(self, query: Query) -> bytes:
        """A block's header."""
        return self._header(self.block(query["id"]), query["mode"])

    def shard_info(self, query: Query) -> bytes:
        """The newest block of the basechain's one shard."""
        view = self.master_view(query["id"])
        if query["workchain"] != BASECHAIN:
            raise QueryRefusedError(f"workchain {query['workchain']} has no shards", code=LiteErrorCode.NOT_READY)
        return self.encode(
            "shardInfo",
            id=block_id_value(view.master.id),
            shardblk=block_id_value(view.shard.id),
            shard_proof=shard_proof(view),
            shard_descr=encode_boc(view.top.leaf),
        )

    def all_shards(self, query: Query) -> bytes:
        """``ShardHashes`` of a masterchain block."""
        view = self.master_view(query["id"])
        proof = encode_boc(shards_proof(view)) if view.seqno else b""
        data = encode_boc(view.top.hashes.write(Writer("shards")).end())
        return self.encode("allShardsInfo", id=block_id_value(view.master.id), proof=proof, data=data)

    def lookup(self, query: Query) -> bytes:
        """A block by seqno, or the first one at or after a logical or Unix time."""
        return self._header(self._found(query), query["mode"] & ~_MODE_BITS)

    def lookup_with_proof(self, query: Query) -> bytes:
        """The same, with the links from a masterchain block that the client knows."""
        block = self._found(query)
        known = self.master_view(query["mc_block_id"])
        view = self.net.archive.view(block.id.seqno)
        if known.seqno < view.seqno:
            raise QueryRefusedError(f"block {view.seqno} is after the masterchain block {known.seqno}")
        known_header = known_state = previous = b""
        if known.seqno != view.seqno:
            known_header = encode_boc(header_proof(known.master))
            known_state = encode_boc(earlier_block_proof(known, view.seqno))
        links = []
        if block.id.workchain == BASECHAIN:
            links = [{"id": block_id_value(block.id), "proof": encode_boc(shards_proof(view))}]
        if query["mode"] & (_BY_LT | _BY_UTIME):
            before = self.net.archive.block(block.id.workchain, block.id.seqno - 1)
            previous = encode_boc(header_proof(before)) if before is not None and before.id.seqno else b""
        return self.encode(
            "lookupBlockResult",
            id=block_id_value(block.id),
            mode=query["mode"],
            mc_block_id=block_id_value(view.master.id),
            client_mc_state_proof=known_header,  # in the order in which the reference client reads them
            mc_block_proof=known_state,
            shard_links=links,
            header=encode_boc(header_proof(block)),
            prev_header=previous,
        )

    def _header(self, block: Block, mode: int) -> bytes:
        if block.id.seqno == 0:
            raise QueryRefusedError("a zerostate has no header", code=LiteErrorCode.NOT_READY)
        proof = encode_boc(header_proof(block))
        return self.encode("blockHeader", id=block_id_value(block.id), mode=mode, header_proof=proof)

    def _found(self, query: Query) -> Block:
        wanted, mode = query["id"], query["mode"] & _MODE_BITS
        workchain, seqno = wanted["workchain"], wanted["seqno"] & 0xFFFFFFFF
        if workchain not in {MASTERCHAIN, BASECHAIN}:
            raise QueryRefusedError(f"workchain {workchain}, expected -1 or 0")
        if mode == _BY_LT:
            found = self.net.store.first_block_from(workchain, "end_lt", query["lt"])
        elif mode == _BY_UTIME:
            found = self.net.store.first_block_from(workchain, "utime", query["utime"] & 0xFFFFFFFF)
        elif mode == _BY_SEQNO:
            found = seqno
        else:
            raise QueryRefusedError("exactly one of mode.0, mode.1 and mode.2 bits must be set")
        block = None
        if found is not None and 0 < found <= self.head().seqno:
            block = self.net.archive.block(workchain, found)
        if block is None:
            raise QueryRefusedError("block is not in db", code=LiteErrorCode.NOT_READY)
        return block
