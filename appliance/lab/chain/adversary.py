"""Dishonest liteservers, each with one lie: what a client must refuse.

In: an honest chain, or two. Out: groups of answers for :class:`~appliance.lab.chain.liteserver.LiteServer`. The
honest server beside it is the control: it differs from each of these in the lie only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bitarray import bitarray

from appliance.chain.boc import decode_boc, decode_boc_roots, encode_boc
from appliance.chain.cells import Reader, Writer
from appliance.lab.chain.answers_accounts import AccountAnswers
from appliance.lab.chain.answers_blocks import BlockAnswers
from appliance.lab.chain.answers_links import LinkAnswers
from appliance.lab.chain.exhibits import account_proof, header_proof
from appliance.lab.chain.ledger import account_key
from appliance.lab.chain.lite_api import block_id_value, zerostate_value
from appliance.lab.chain.messages import skip_to_balance
from appliance.lab.chain.proofs import merkle_proof
from appliance.lab.chain.states import shard_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import BlockId
    from appliance.lab.chain.answers import Answers, Query
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.config import Validator
    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.layout import Block
    from appliance.lab.chain.tl import Schema


def forged_chain(zerostate: BlockId) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Serve another chain, with a validator of its own, as if it grew from the honest one's ``zerostate``."""

    def answers(net: DevNet, schema: Schema) -> Iterable[Answers]:
        blocks = _ForgedBlocks(net, schema)
        blocks.zerostate = zerostate
        return blocks, AccountAnswers(net, schema), _ForgedLinks(net, schema)

    return answers


class _ForgedBlocks(BlockAnswers):
    """The forged chain's head under the honest chain's zerostate."""

    zerostate: BlockId

    def masterchain_info(self, _query: Query) -> bytes:
        view = self.head()
        return self.encode(
            "masterchainInfo",
            last=block_id_value(view.master.id),
            state_root_hash=view.master_state.hash,
            init=zerostate_value(self.zerostate),
        )


class _ForgedLinks(LinkAnswers):
    """One forward link from the trusted block; its configuration and signatures are the forged chain's."""

    def block_proof(self, query: Query) -> bytes:
        known = query["known_block"]
        target = self.master_view(query["target_block"]).master if query["mode"] & 1 else self.head().master
        step = {**self.link(self.net.key_block, target), "from": known}
        return self.encode(
            "partialBlockProof",
            complete=True,
            **{"from": known, "to": block_id_value(target.id), "steps": [step]},
        )


def repeated_signature(times: int) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Count the one signature ``times`` times, as if so many validators had signed."""

    class RepeatedLinks(LinkAnswers):
        def signatures(self, block: Block, validator: Validator) -> dict[str, Any]:
            honest = super().signatures(block, validator)
            return {**honest, "signatures": honest["signatures"] * times}

    return _with(LinkAnswers, RepeatedLinks)


def foreign_signature(key: Validator) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Sign every link with a key that the configuration does not name."""

    class ForeignLinks(LinkAnswers):
        def signatures(self, block: Block, validator: Validator) -> dict[str, Any]:
            honest = super().signatures(block, validator)
            member = {"node_id_short": key.node_id, "signature": key.sign(block.id)}
            return {**honest, "signatures": [member]}

    return _with(LinkAnswers, ForeignLinks)


def stale(height: int) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Stay at a height: everything newer does not exist for this server. All it says is true, but old."""

    def answers(net: DevNet, schema: Schema) -> Iterable[Answers]:
        class Stale:
            def head(self) -> View:
                return net.archive.view(height)

        groups = []
        for honest in (BlockAnswers, AccountAnswers, LinkAnswers):
            kind: type[Any] = type(f"Stale{honest.__name__}", (Stale, honest), {})
            groups.append(kind(net, schema))
        return groups

    return answers


def hidden_account(address: Address) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Say that an account does not exist, and prove nothing."""

    class Hiding(AccountAnswers):
        def account_state(self, query: Query) -> bytes:
            if query["account"]["id"] != address.hash:
                return super().account_state(query)
            view = self.master_view(query["id"])
            return self.encode(
                "accountState",
                id=block_id_value(view.master.id),
                shardblk=block_id_value(view.shard.id),
                shard_proof=b"",
                proof=b"",
                state=b"",
            )

    return _with(AccountAnswers, Hiding)


def hidden_account_with_proof(address: Address, other: Address) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Say that an account does not exist, with a true proof of something else: the way to ``other``."""

    class Hiding(AccountAnswers):
        def account_state(self, query: Query) -> bytes:
            if query["account"]["id"] != address.hash:
                return super().account_state(query)
            view = self.master_view(query["id"])
            answer = self.schema.decode(super().account_state(query))
            answer |= {"state": b"", "proof": account_proof(view, other)}
            return self.encode("accountState", **_fields(answer))

    return _with(AccountAnswers, Hiding)


def richer_account(address: Address, balance: int) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Show an account with another balance, and the honest proof, which is for the true one."""

    class Richer(AccountAnswers):
        def account_state(self, query: Query) -> bytes:
            answer = self.schema.decode(super().account_state(query))
            if query["account"]["id"] == address.hash and answer["state"]:
                answer["state"] = encode_boc(_with_balance(decode_boc(answer["state"]), balance))
            return self.encode("accountState", **_fields(answer))

    return _with(AccountAnswers, Richer)


def altered_state(address: Address, balance: int) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Show another balance, with a proof in a state that was altered to fit and belongs to no block."""

    class Altered(AccountAnswers):
        def account_state(self, query: Query) -> bytes:
            answer = self.schema.decode(super().account_state(query))
            if query["account"]["id"] != address.hash or not answer["state"]:
                return self.encode("accountState", **_fields(answer))
            view = self.master_view(query["id"])
            account = _with_balance(decode_boc(answer["state"]), balance)
            leaf = self.net.shard_account(address, view)
            changed = Writer("shard account").ref(account).bits(bitarray(leaf.bits)).end()
            accounts = view.ledger.accounts.set(account_key(address.hash), changed, balance)
            state = shard_state(replace(view.ledger, accounts=accounts), None)
            keep = {state.hash, state.refs[1].hash} | accounts.path(account_key(address.hash))
            answer["state"] = encode_boc(account)
            answer["proof"] = encode_boc(header_proof(view.shard), merkle_proof(state, keep))
            return self.encode("accountState", **_fields(answer))

    return _with(AccountAnswers, Altered)


def missing_transaction(position: int) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Leave one transaction out of every list (``position`` from the newest), so that the chain of hashes breaks."""

    class Missing(AccountAnswers):
        def transactions(self, query: Query) -> bytes:
            answer = self.schema.decode(super().transactions(query))
            roots = decode_boc_roots(answer["transactions"])
            if len(roots) > position:
                del roots[position], answer["ids"][position]
            return self.encode("transactionList", ids=answer["ids"], transactions=encode_boc(*roots))

    return _with(AccountAnswers, Missing)


def swapped_transactions(net_of: Address) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """Answer every list with the newest transactions of another account."""

    class Swapped(AccountAnswers):
        def transactions(self, query: Query) -> bytes:
            leaf = self.net.shard_account(net_of)
            bits = leaf.bits.to01()
            other = {"workchain": net_of.workchain, "id": net_of.hash}
            digest, lt = int(bits[:256], 2).to_bytes(32, "big"), int(bits[256:320], 2)
            return super().transactions({**query, "account": other, "lt": lt, "hash": digest})

    return _with(AccountAnswers, Swapped)


def _with(honest: type[Answers], dishonest: type[Answers]) -> Callable[[DevNet, Schema], Iterable[Answers]]:
    """All groups of an honest server but one."""

    def answers(net: DevNet, schema: Schema) -> Iterable[Answers]:
        kinds: tuple[type[Answers], ...] = (BlockAnswers, AccountAnswers, LinkAnswers)
        return [(dishonest if kind is honest else kind)(net, schema) for kind in kinds]

    return answers


def _with_balance(account: Cell, nanotons: int) -> Cell:
    """The account with another balance and nothing else changed."""
    reader = Reader(account, "account")
    reader.flag()
    skip_to_balance(reader)
    before = len(account.bits) - reader.bits_left
    reader.coins()
    writer = Writer("account").bits(bitarray(account.bits[:before])).coins(nanotons)
    writer.bits(reader.bits(reader.bits_left))
    for reference in account.refs:
        writer.ref(reference)
    return writer.end()


def _fields(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "@type"}
