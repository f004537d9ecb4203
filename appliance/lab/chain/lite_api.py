"""The liteserver's schema: the one table of messages it understands and sends.

Source: TON, ``tl/generate/scheme/lite_api.tl`` and ``ton_api.tl`` (transport). Identifiers are the CRC-32 of the line
except where the schema fixes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.lab.chain.tl import Schema

if TYPE_CHECKING:
    from appliance.chain.types import BlockId
    from appliance.lab.chain.layout import Block
    from appliance.lab.chain.tl import Value

_ID = "id:tonNode.blockIdExt"
_LIST = "mode:# count:# after:mode.7?liteServer.transactionId3 reverse_order:mode.6?true want_proof:mode.5?true"

LINES = (
    "tcp.ping random_id:long = tcp.Pong;",
    "tcp.pong random_id:long = tcp.Pong;",
    "adnl.message.query query_id:int256 query:bytes = adnl.Message;",
    "adnl.message.answer query_id:int256 answer:bytes = adnl.Message;",
    "tonNode.blockId workchain:int shard:long seqno:int = tonNode.BlockId;",
    "tonNode.blockIdExt workchain:int shard:long seqno:int root_hash:int256 file_hash:int256 = tonNode.BlockIdExt;",
    "tonNode.zeroStateIdExt workchain:int root_hash:int256 file_hash:int256 = tonNode.ZeroStateIdExt;",
    "liteServer.error code:int message:string = liteServer.Error;",
    "liteServer.accountId workchain:int id:int256 = liteServer.AccountId;",
    "liteServer.libraryEntry hash:int256 data:bytes = liteServer.LibraryEntry;",
    "liteServer.masterchainInfo last:tonNode.blockIdExt state_root_hash:int256 init:tonNode.zeroStateIdExt"
    " = liteServer.MasterchainInfo;",
    "liteServer.masterchainInfoExt mode:# version:int capabilities:long last:tonNode.blockIdExt last_utime:int now:int"
    " state_root_hash:int256 init:tonNode.zeroStateIdExt = liteServer.MasterchainInfoExt;",
    "liteServer.currentTime now:int = liteServer.CurrentTime;",
    "liteServer.version mode:# version:int capabilities:long now:int = liteServer.Version;",
    f"liteServer.blockData {_ID} data:bytes = liteServer.BlockData;",
    f"liteServer.blockState {_ID} root_hash:int256 file_hash:int256 data:bytes = liteServer.BlockState;",
    f"liteServer.blockHeader {_ID} mode:# header_proof:bytes = liteServer.BlockHeader;",
    "liteServer.sendMsgStatus status:int = liteServer.SendMsgStatus;",
    f"liteServer.accountState {_ID} shardblk:tonNode.blockIdExt shard_proof:bytes proof:bytes state:bytes"
    " = liteServer.AccountState;",
    f"liteServer.runMethodResult mode:# {_ID} shardblk:tonNode.blockIdExt shard_proof:mode.0?bytes proof:mode.0?bytes"
    " state_proof:mode.1?bytes init_c7:mode.3?bytes lib_extras:mode.4?bytes exit_code:int result:mode.2?bytes"
    " = liteServer.RunMethodResult;",
    f"liteServer.shardInfo {_ID} shardblk:tonNode.blockIdExt shard_proof:bytes shard_descr:bytes"
    " = liteServer.ShardInfo;",
    f"liteServer.allShardsInfo {_ID} proof:bytes data:bytes = liteServer.AllShardsInfo;",
    f"liteServer.transactionInfo {_ID} proof:bytes transaction:bytes = liteServer.TransactionInfo;",
    "liteServer.transactionList ids:(vector tonNode.blockIdExt) transactions:bytes = liteServer.TransactionList;",
    "liteServer.transactionMetadata mode:# depth:int initiator:liteServer.accountId initiator_lt:long"
    " = liteServer.TransactionMetadata;",
    "liteServer.transactionId#b12f65af mode:# account:mode.0?int256 lt:mode.1?long hash:mode.2?int256"
    " metadata:mode.8?liteServer.transactionMetadata = liteServer.TransactionId;",
    "liteServer.transactionId3 account:int256 lt:long = liteServer.TransactionId3;",
    f"liteServer.blockTransactions {_ID} req_count:# incomplete:Bool ids:(vector liteServer.transactionId) proof:bytes"
    " = liteServer.BlockTransactions;",
    f"liteServer.blockTransactionsExt {_ID} req_count:# incomplete:Bool transactions:bytes proof:bytes"
    " = liteServer.BlockTransactionsExt;",
    "liteServer.signature node_id_short:int256 signature:bytes = liteServer.Signature;",
    "liteServer.signatureSet.ordinary#f644a6e6 validator_set_hash:int catchain_seqno:int"
    " signatures:(vector liteServer.signature) = liteServer.SignatureSet;",
    "liteServer.blockLinkBack to_key_block:Bool from:tonNode.blockIdExt to:tonNode.blockIdExt dest_proof:bytes"
    " proof:bytes state_proof:bytes = liteServer.BlockLink;",
    "liteServer.blockLinkForward to_key_block:Bool from:tonNode.blockIdExt to:tonNode.blockIdExt dest_proof:bytes"
    " config_proof:bytes signatures:liteServer.SignatureSet = liteServer.BlockLink;",
    "liteServer.partialBlockProof complete:Bool from:tonNode.blockIdExt to:tonNode.blockIdExt"
    " steps:(vector liteServer.BlockLink) = liteServer.PartialBlockProof;",
    f"liteServer.configInfo mode:# {_ID} state_proof:bytes config_proof:bytes = liteServer.ConfigInfo;",
    "liteServer.libraryResult result:(vector liteServer.libraryEntry) = liteServer.LibraryResult;",
    f"liteServer.libraryResultWithProof {_ID} mode:# result:(vector liteServer.libraryEntry) state_proof:bytes"
    " data_proof:bytes = liteServer.LibraryResultWithProof;",
    f"liteServer.shardBlockLink {_ID} proof:bytes = liteServer.ShardBlockLink;",
    "liteServer.shardBlockProof masterchain_id:tonNode.blockIdExt links:(vector liteServer.shardBlockLink)"
    " = liteServer.ShardBlockProof;",
    f"liteServer.lookupBlockResult {_ID} mode:# mc_block_id:tonNode.blockIdExt client_mc_state_proof:bytes"
    " mc_block_proof:bytes shard_links:(vector liteServer.shardBlockLink) header:bytes prev_header:bytes"
    " = liteServer.LookupBlockResult;",
    "liteServer.getMasterchainInfo = liteServer.MasterchainInfo;",
    "liteServer.getMasterchainInfoExt mode:# = liteServer.MasterchainInfoExt;",
    "liteServer.getTime = liteServer.CurrentTime;",
    "liteServer.getVersion = liteServer.Version;",
    f"liteServer.getBlock {_ID} = liteServer.BlockData;",
    f"liteServer.getState {_ID} = liteServer.BlockState;",
    f"liteServer.getBlockHeader {_ID} mode:# = liteServer.BlockHeader;",
    "liteServer.sendMessage body:bytes = liteServer.SendMsgStatus;",
    f"liteServer.getAccountState {_ID} account:liteServer.accountId = liteServer.AccountState;",
    f"liteServer.getAccountStatePrunned {_ID} account:liteServer.accountId = liteServer.AccountState;",
    f"liteServer.runSmcMethod mode:# {_ID} account:liteServer.accountId method_id:long params:bytes"
    " = liteServer.RunMethodResult;",
    f"liteServer.getShardInfo {_ID} workchain:int shard:long exact:Bool = liteServer.ShardInfo;",
    f"liteServer.getAllShardsInfo {_ID} = liteServer.AllShardsInfo;",
    f"liteServer.getOneTransaction {_ID} account:liteServer.accountId lt:long = liteServer.TransactionInfo;",
    "liteServer.getTransactions count:# account:liteServer.accountId lt:long hash:int256 = liteServer.TransactionList;",
    "liteServer.lookupBlock mode:# id:tonNode.blockId lt:mode.1?long utime:mode.2?int = liteServer.BlockHeader;",
    "liteServer.lookupBlockWithProof mode:# id:tonNode.blockId mc_block_id:tonNode.blockIdExt lt:mode.1?long"
    " utime:mode.2?int = liteServer.LookupBlockResult;",
    f"liteServer.listBlockTransactions {_ID} {_LIST} = liteServer.BlockTransactions;",
    f"liteServer.listBlockTransactionsExt {_ID} {_LIST} = liteServer.BlockTransactionsExt;",
    "liteServer.getBlockProof mode:# known_block:tonNode.blockIdExt target_block:mode.0?tonNode.blockIdExt"
    " = liteServer.PartialBlockProof;",
    f"liteServer.getConfigAll mode:# {_ID} = liteServer.ConfigInfo;",
    f"liteServer.getConfigParams mode:# {_ID} param_list:(vector int) = liteServer.ConfigInfo;",
    "liteServer.getLibraries library_list:(vector int256) = liteServer.LibraryResult;",
    f"liteServer.getLibrariesWithProof {_ID} mode:# library_list:(vector int256) = liteServer.LibraryResultWithProof;",
    f"liteServer.getShardBlockProof {_ID} = liteServer.ShardBlockProof;",
    "liteServer.queryPrefix = Object;",
    "liteServer.query data:bytes = Object;",
    "liteServer.waitMasterchainSeqno seqno:int timeout_ms:int = Object;",
)


def lite_schema() -> Schema:
    """The codec of :data:`LINES`."""
    return Schema(LINES)


def block_id_value(identity: BlockId) -> dict[str, Value]:
    """``tonNode.blockIdExt``."""
    return {
        "workchain": identity.workchain,
        "shard": identity.shard,
        "seqno": _signed(identity.seqno),
        "root_hash": identity.root_hash,
        "file_hash": identity.file_hash,
    }


def zerostate_value(block: Block) -> dict[str, Value]:
    """``tonNode.zeroStateIdExt``."""
    identity = block.id
    return {
        "workchain": identity.workchain,
        "root_hash": identity.root_hash,
        "file_hash": identity.file_hash,
    }


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
