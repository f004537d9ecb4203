"""What all answers of the liteserver share: the chain they speak of, and how blocks are named and found.

In: decoded queries (mappings of the schema's fields). Out: encoded answers, or :class:`QueryRefusedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from appliance.chain.addresses import Address
from appliance.chain.types import BlockId
from appliance.lab.chain.errors import LiteErrorCode, QueryRefusedError
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN

if TYPE_CHECKING:
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.layout import Block
    from appliance.lab.chain.tl import Schema

Query = Mapping[str, Any]
Handler = Callable[[Query], bytes]

VERSION = 0x101
CAPABILITIES = 7
_NEWEST = 0xFFFFFFFF


class Answers:
    """Base of the groups of answers; a group says in :meth:`table` which queries it answers."""

    def __init__(self, net: DevNet, schema: Schema) -> None:
        self.net = net
        self.schema = schema

    def table(self) -> dict[str, Handler]:
        """Query name, without ``liteServer.``, to what answers it."""
        raise NotImplementedError

    def head(self) -> View:
        """The height that this server takes for the newest."""
        return self.net.view

    def encode(self, name: str, **values: Any) -> bytes:
        """One object of the schema, without its ``liteServer.``."""
        return self.schema.encode(f"liteServer.{name}", **values)

    def block(self, value: Query) -> Block:
        """The block with this identity, of either chain."""
        identity = block_id(value)
        block = self.net.archive.find(identity)
        if block is None or identity.seqno > self.head().seqno:
            raise _unknown(identity)
        return block

    def view(self, value: Query) -> View:
        """The height of the block with this identity."""
        return self.net.archive.view(self.block(value).id.seqno)

    def master_view(self, value: Query) -> View:
        """The height of the masterchain block with this identity; the newest for the seqno ``0xffffffff``."""
        identity = block_id(value)
        if identity.workchain != MASTERCHAIN:
            raise QueryRefusedError(f"workchain {identity.workchain}, expected a masterchain block")
        return self.head() if identity.seqno == _NEWEST else self.view(value)


def block_id(value: Query) -> BlockId:
    """``tonNode.blockIdExt`` as a value."""
    seqno = value["seqno"] & 0xFFFFFFFF
    return BlockId(value["workchain"], value["shard"], seqno, value["root_hash"], value["file_hash"])


def account_address(value: Query) -> Address:
    """``liteServer.accountId`` of a chain that exists."""
    if value["workchain"] not in {MASTERCHAIN, BASECHAIN}:
        raise QueryRefusedError(f"workchain {value['workchain']}, expected -1 or 0")
    return Address(value["workchain"], value["id"])


def _unknown(identity: BlockId) -> QueryRefusedError:
    where = f"({identity.workchain},{identity.seqno})"
    return QueryRefusedError(f"cannot load block {where} : block is not in db", code=LiteErrorCode.NOT_READY)
