"""Message descriptors of a block and entries of the outbound queue.

In: what a block executed and sent. Out: the dictionaries of its ``BlockExtra`` and the queue's entries. Layout:
``block.tlb`` (``MsgEnvelope``, ``InMsgDescr``, ``OutMsgDescr``, ``EnqueuedMsg``). Simplified: every hop is inside the
one shard, so routes are the whole destination and nothing transits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.cells import Writer
from appliance.lab.chain.dictionaries import Augmentation, Dictionary
from appliance.lab.chain.layout import write_currency
from appliance.lab.chain.messages import Message, read_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.collation import Execution, Export

_WHOLE_ROUTE = 96  # interm_addr_regular$0: all bits of workchain and address prefix
ImportFees = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Envelope:
    """An internal message under way; all that is left of its forwarding fee travels with it."""

    message: Message

    def cell(self) -> Cell:
        """``msg_envelope#4``."""
        writer = Writer("message envelope").uint(4, 4)
        for _ in range(2):  # current and next address
            writer.uint(0, 1).uint(_WHOLE_ROUTE, 7)
        return writer.coins(self.message.forward_fee).ref(self.message.cell).end()


def queue_key(message: Message) -> int:
    """The 352-bit key of a queued message: workchain, first 64 bits of the address, hash of the message."""
    destination = message.destination
    if destination is None:
        msg = "a message without a destination cannot be queued"
        raise ValueError(msg)
    workchain = destination.workchain.to_bytes(4, "big", signed=True)
    return int.from_bytes(workchain + destination.hash[:8] + message.cell.hash, "big")


def enqueued(envelope: Envelope) -> Cell:
    """``EnqueuedMsg``."""
    return Writer("queued message").uint(envelope.message.created_lt, 64).ref(envelope.cell()).end()


def read_enqueued(entry: Cell) -> Message:
    """The message of an ``EnqueuedMsg`` that :func:`enqueued` made."""
    return read_message(entry.refs[0].refs[0])


def inbound_descriptor(executions: Iterable[Execution]) -> Dictionary[ImportFees]:
    """``InMsgDescr``: every message that was executed, by its hash."""
    descriptor = Dictionary(256, Augmentation((0, 0), _add_fees, _write_import_fees))
    for execution in executions:
        key = int.from_bytes(execution.message.cell.hash, "big")
        descriptor = descriptor.set(key, _inbound(execution), _import_fees(execution))
    return descriptor


def outbound_descriptor(exports: Iterable[Export], executions: Iterable[Execution]) -> Dictionary[int]:
    """``OutMsgDescr``: every message that was sent or left the queue, by its hash; the extra is the value exported."""
    descriptor = Dictionary(256, Augmentation(0, int.__add__, write_currency))
    arrived = {execution.message.cell.hash: execution for execution in executions}
    for export in exports:
        key = int.from_bytes(export.message.cell.hash, "big")
        value = export.message.value + export.message.forward_fee if export.fate == "queued" else 0
        descriptor = descriptor.set(key, _outbound(export, arrived), value)
    for execution in arrived.values():
        if execution.source == "queued":  # msg_export_deq_imm$100
            leaf = Writer("dequeued message").uint(0b100, 3).ref(Envelope(execution.message).cell())
            key = int.from_bytes(execution.message.cell.hash, "big")
            descriptor = descriptor.set(key, leaf.ref(_inbound(execution)).end(), 0)
    return descriptor


def _inbound(execution: Execution) -> Cell:
    message, transaction = execution.message, execution.transaction.cell
    if execution.source == "external":  # msg_import_ext$000
        return Writer("inbound message").uint(0, 3).ref(message.cell).ref(transaction).end()
    tag = 0b011 if execution.source == "immediate" else 0b100  # msg_import_imm, msg_import_fin
    writer = Writer("inbound message").uint(tag, 3).ref(Envelope(message).cell()).ref(transaction)
    return writer.coins(message.forward_fee).end()


def _import_fees(execution: Execution) -> ImportFees:
    message = execution.message
    if execution.source == "external":
        return 0, 0
    imported = message.value + message.forward_fee if execution.source == "queued" else 0
    return message.forward_fee, imported


def _outbound(export: Export, arrived: dict[bytes, Execution]) -> Cell:
    sender = export.sender.cell
    if export.fate == "external":  # msg_export_ext$000
        return Writer("outbound message").uint(0, 3).ref(export.message.cell).ref(sender).end()
    envelope = Envelope(export.message).cell()
    if export.fate == "queued":  # msg_export_new$001
        return Writer("outbound message").uint(0b001, 3).ref(envelope).ref(sender).end()
    reimport = _inbound(arrived[export.message.cell.hash])  # msg_export_imm$010
    return Writer("outbound message").uint(0b010, 3).ref(envelope).ref(sender).ref(reimport).end()


def _add_fees(left: ImportFees, right: ImportFees) -> ImportFees:
    return left[0] + right[0], left[1] + right[1]


def _write_import_fees(writer: Writer, fees: ImportFees) -> object:
    return write_currency(writer.coins(fees[0]), fees[1])
