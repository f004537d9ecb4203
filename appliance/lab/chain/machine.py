"""The TVM process as the chain uses it.

In: a :class:`~appliance.lab.tvm.Tvm`. Out: the chain's :class:`Machine`: messages executed, get-methods run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytoniq_core.boc.slice import Slice
from pytoniq_core.tlb.vm_stack import VmStack

from appliance.lab.chain.collation import Executor
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.messages import read_account
from appliance.lab.tvm import Tvm, TvmError, TvmRefusedError

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

NOT_ACTIVE = -256
"""Exit code of a get-method of an account that is not active, as liteservers answer."""


class Machine(Executor, Protocol):
    """The TVM as the chain uses it: messages, get-methods, and the configuration that contracts see."""

    def configure(self, config: Cell) -> None:
        """Use another configuration (root of ``Hashmap 32 ^Cell``)."""
        ...

    def run_method(
        self, shard_account: Cell, address: Address, *, method_id: int, stack: Cell | None, now: int
    ) -> tuple[int, Cell | None]:
        """Exit code and resulting ``VmStack`` of a get-method; :data:`NOT_ACTIVE` and None without code."""
        ...


@dataclass(frozen=True, slots=True)
class Executed:
    """What became of one message (:class:`~appliance.lab.chain.collation.Outcome`)."""

    shard_account: Cell | None
    transaction: Cell | None
    refusal: str = ""


class TvmMachine:
    """The real machine; the process stays its owner's."""

    def __init__(self, tvm: Tvm) -> None:
        self._tvm = tvm

    def configure(self, config: Cell) -> None:
        """Use another configuration."""
        self._tvm.set_config(config)

    def execute(self, shard_account: Cell, message: Cell, *, now: int, lt: int, seed: bytes) -> Executed:
        """Execute one message; raises :class:`DevNetError` when the TVM itself fails."""
        try:
            result = self._tvm.transaction(shard_account, message, now=now, lt=lt, seed=seed)
        except TvmRefusedError as error:
            reason = error.message.removeprefix("the message was refused: ")
            return Executed(None, None, f"{reason}, exitcode={error.exit_code}")
        except TvmError as error:
            raise DevNetError(error.message, hint=error.hint) from error
        return Executed(result.shard_account, result.transaction)

    def run_method(
        self, shard_account: Cell, address: Address, *, method_id: int, stack: Cell | None, now: int
    ) -> tuple[int, Cell | None]:
        """Run a get-method; raises :class:`DevNetError` for arguments that are no stack or a failing TVM."""
        account = read_account(shard_account.refs[0])
        if account.code is None or account.data is None:
            return NOT_ACTIVE, None
        values = [] if stack is None else _stack_values(stack)
        try:
            result = self._tvm.get_method(
                account.code, account.data, method_id, values, address=address, balance=account.balance, now=now
            )
        except TvmError as error:
            raise DevNetError(error.message, hint=error.hint) from error
        return result.exit_code, VmStack.serialize(list(result.stack))


def _stack_values(stack: Cell) -> list[Any]:
    try:
        return list(VmStack.deserialize(Slice.from_cell(stack)))
    except Exception as error:
        raise DevNetError(f"the arguments of a get-method are no stack: {type(error).__name__}") from error
