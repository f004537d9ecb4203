"""Answers about accounts: states, get-methods, transactions, messages, and the configuration they run under."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.errors import LayoutError
from appliance.lab.chain.answers import Answers, Handler, Query, account_address
from appliance.lab.chain.errors import DevNetError, QueryRefusedError
from appliance.lab.chain.exhibits import (
    account_proof,
    config_proof,
    header_proof,
    key_block_proof,
    pruned_account,
    shard_proof,
    transactions_proof,
)
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN, Block
from appliance.lab.chain.lite_api import block_id_value
from appliance.lab.chain.messages import read_transaction
from appliance.lab.chain.proofs import cell_hashes, merkle_proof

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.store import TransactionRow

MAX_TRANSACTIONS = 16
MAX_BLOCK_TRANSACTIONS = 256
_FROM_KEY_BLOCK = 0x8000
_STACK_BYTES = 1 << 16
_ACCOUNT, _LT, _HASH = 1, 2, 4
_PROOF, _REVERSE, _AFTER = 32, 64, 128
_SHARD_PROOF, _STATE_PROOF, _RESULT = 1, 2, 4


class AccountAnswers(Answers):
    """Accounts, their transactions and messages."""

    def table(self) -> dict[str, Handler]:
        """The queries of this group."""
        return {
            "sendMessage": self.send_message,
            "getAccountState": self.account_state,
            "getAccountStatePrunned": self.account_state_pruned,
            "runSmcMethod": self.run_method,
            "getTransactions": self.transactions,
            "getOneTransaction": self.one_transaction,
            "listBlockTransactions": self.block_transactions,
            "listBlockTransactionsExt": self.block_transactions_ext,
            "getConfigAll": self.config,
            "getConfigParams": self.config,
            "getLibraries": self.libraries,
            "getLibrariesWithProof": self.libraries_with_proof,
        }

    def send_message(self, query: Query) -> bytes:
        """Take an external message."""
        self.net.send(query["body"])
        return self.encode("sendMsgStatus", status=1)

    def account_state(self, query: Query) -> bytes:
        """An account with its proof, or the proof that there is none."""
        view, address = self.master_view(query["id"]), account_address(query["account"])
        account = self.net.shard_account(address, view).refs[0]
        state = encode_boc(account) if account.refs or len(account.bits) > 1 else b""
        return self._account(view, address, state)

    def account_state_pruned(self, query: Query) -> bytes:
        """The same, with code and data as hashes only."""
        view, address = self.master_view(query["id"]), account_address(query["account"])
        account = self.net.shard_account(address, view).refs[0]
        state = encode_boc(pruned_account(account)) if account.refs or len(account.bits) > 1 else b""
        return self._account(view, address, state)

    def run_method(self, query: Query) -> bytes:
        """A get-method's result. Nothing proves it: it is this server's word."""
        view, address, mode = self.master_view(query["id"]), account_address(query["account"]), query["mode"] & 7
        stack = None
        if query["params"]:
            try:
                stack = decode_boc(query["params"], max_bytes=_STACK_BYTES)
            except LayoutError as error:
                raise QueryRefusedError(f"cannot deserialize parameter list: {error.message}") from error
        exit_code, result = self.net.run_method(address, view, query["method_id"] & 0xFFFFFFFF, stack)
        return self.encode(
            "runMethodResult",
            mode=mode,
            id=block_id_value(view.master.id),
            shardblk=block_id_value(self._block_of(view, address).id),
            shard_proof=shard_proof(view) if mode & _SHARD_PROOF else b"",
            proof=account_proof(view, address) if mode & _SHARD_PROOF else b"",
            state_proof=self._state_proof(view, address) if mode & _STATE_PROOF else b"",
            exit_code=exit_code,
            result=encode_boc(result) if result is not None else b"",
        )

    def transactions(self, query: Query) -> bytes:
        """Transactions of an account, newest first, from the given one back."""
        address, lt, expected = account_address(query["account"]), query["lt"], query["hash"]
        rows: list[TransactionRow] = []
        while lt and len(rows) < min(query["count"], MAX_TRANSACTIONS):
            row = self.net.store.transaction(address.hash, lt)
            if row is None or row.hash != expected or row.seqno > self.head().seqno:
                break
            rows.append(row)
            head = read_transaction(self._transaction(row))
            lt, expected = head.previous_lt, head.previous_hash
        if not rows and query["count"]:
            raise QueryRefusedError("cannot compute block with specified transaction: lt not in db")
        blocks = [block_id_value(self._shard(row.seqno).id) for row in rows]
        cells = [self._transaction(row) for row in rows]
        return self.encode("transactionList", ids=blocks, transactions=encode_boc(*cells) if cells else b"")

    def one_transaction(self, query: Query) -> bytes:
        """One transaction and its proof in its block; both empty when the block has none such."""
        block, address = self.block(query["id"]), account_address(query["account"])
        row = self.net.store.transaction(address.hash, query["lt"])
        if row is None or block.id.workchain != BASECHAIN or row.seqno != block.id.seqno:
            return self.encode("transactionInfo", id=block_id_value(block.id), proof=b"", transaction=b"")
        return self.encode(
            "transactionInfo",
            id=block_id_value(block.id),
            proof=encode_boc(transactions_proof(block, self._hashes(block))),
            transaction=row.boc,
        )

    def block_transactions(self, query: Query) -> bytes:
        """Which transactions a block has."""
        block, rows, incomplete = self._listed(query)
        mode = query["mode"] & (_ACCOUNT | _LT | _HASH)
        ids = [{"mode": mode, "account": row.address, "lt": row.lt, "hash": row.hash} for row in rows]
        return self.encode(
            "blockTransactions",
            id=block_id_value(block.id),
            req_count=query["count"],
            incomplete=incomplete,
            ids=ids,
            proof=self._list_proof(query, block),
        )

    def block_transactions_ext(self, query: Query) -> bytes:
        """The transactions of a block themselves."""
        block, rows, incomplete = self._listed(query)
        cells = [self._transaction(row) for row in rows]
        return self.encode(
            "blockTransactionsExt",
            id=block_id_value(block.id),
            req_count=query["count"],
            incomplete=incomplete,
            transactions=encode_boc(*cells) if cells else b"",
            proof=self._list_proof(query, block),
        )

    def config(self, query: Query) -> bytes:
        """The configuration of a masterchain block, or of the key block before it; all or some parameters."""
        view, mode = self.master_view(query["id"]), query["mode"]
        if mode & _FROM_KEY_BLOCK and view.seqno:
            seqno = self.net.store.last_key_block(view.seqno)
            key_block = self.net.archive.block(MASTERCHAIN, seqno or 0)
            if key_block is not None and key_block.id.seqno:
                proof = encode_boc(key_block_proof(key_block))
                identity = block_id_value(key_block.id)
                return self.encode("configInfo", mode=mode, id=identity, state_proof=b"", config_proof=proof)
        return self.encode(
            "configInfo",
            mode=mode,
            id=block_id_value(view.master.id),
            state_proof=encode_boc(header_proof(view.master)) if view.seqno else b"",
            config_proof=encode_boc(config_proof(view, query.get("param_list"))),
        )

    def libraries(self, _query: Query) -> bytes:
        """Public libraries; this chain has none."""
        return self.encode("libraryResult", result=[])

    def libraries_with_proof(self, query: Query) -> bytes:
        """The same, with the state that has none."""
        view = self.master_view(query["id"])
        totals = view.master_state.refs[2]
        return self.encode(
            "libraryResultWithProof",
            id=block_id_value(view.master.id),
            mode=query["mode"],
            result=[],
            state_proof=encode_boc(header_proof(view.master)),
            data_proof=encode_boc(merkle_proof(view.master_state, {view.master_state.hash, totals.hash})),
        )

    def _account(self, view: View, address: Address, state: bytes) -> bytes:
        return self.encode(
            "accountState",
            id=block_id_value(view.master.id),
            shardblk=block_id_value(self._block_of(view, address).id),
            shard_proof=b"" if address.workchain == MASTERCHAIN else shard_proof(view),
            proof=account_proof(view, address),
            state=state,
        )

    def _state_proof(self, view: View, address: Address) -> bytes:
        account = self.net.shard_account(address, view).refs[0]
        return encode_boc(merkle_proof(account, cell_hashes(account))) if account.refs else b""

    def _block_of(self, view: View, address: Address) -> Block:
        return view.master if address.workchain == MASTERCHAIN else view.shard

    def _listed(self, query: Query) -> tuple[Block, list[TransactionRow], bool]:
        block, mode = self.block(query["id"]), query["mode"]
        rows = self._rows(block)
        if mode & _REVERSE:
            rows.reverse()
        if mode & _AFTER:
            after = (query["after"]["account"], query["after"]["lt"])
            sign = -1 if mode & _REVERSE else 1
            rows = [row for row in rows if sign * _compare((row.address, row.lt), after) > 0]
        count = min(query["count"], MAX_BLOCK_TRANSACTIONS)
        return block, rows[:count], len(rows) > count

    def _list_proof(self, query: Query, block: Block) -> bytes:
        wanted = query["mode"] & _PROOF and block.id.seqno
        return encode_boc(transactions_proof(block, self._hashes(block))) if wanted else b""

    def _rows(self, block: Block) -> list[TransactionRow]:
        return self.net.store.block_transactions(block.id.seqno) if block.id.workchain == BASECHAIN else []

    def _hashes(self, block: Block) -> list[bytes]:
        return [row.hash for row in self._rows(block)]

    def _transaction(self, row: TransactionRow) -> Cell:
        return decode_boc(row.boc, max_bytes=1 << 24, max_cells=1 << 18)

    def _shard(self, seqno: int) -> Block:
        block = self.net.archive.block(BASECHAIN, seqno)
        if block is None:
            raise DevNetError(f"there is no block {seqno}")
        return block


def _compare(left: tuple[bytes, int], right: tuple[bytes, int]) -> int:
    return (left > right) - (left < right)
