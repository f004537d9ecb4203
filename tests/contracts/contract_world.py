"""Accounts, messages and a small network in memory over the real TVM, for the contract tests."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core.tlb.account import Account
from pytoniq_core.tlb.transaction import Transaction

from appliance.chain import signed
from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer
from appliance.chain.envelopes import internal_message
from appliance.chain.layouts import (
    ClientConstants,
    ClientData,
    Params,
    ProxyData,
    RootState,
    WorkerData,
    build_root,
    parse_root,
)
from appliance.chain.messages import ClientTopUp, Op
from appliance.chain.stateinit import StateInit, client_state, proxy_state, worker_state

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.contracts import ContractCodes
    from appliance.lab.tvm import Tvm

TON = 1_000_000_000
START = 1_750_000_000
FAUCET = Address(0, b"\xfa" * 32)


def party(name: str) -> Address:
    """An account without code, by name."""
    return Address(0, hashlib.sha256(name.encode()).digest())


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key " + name.encode()).digest())


def public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


@dataclass(frozen=True)
class Executed:
    """One transaction: ``exit_code`` is None when the compute phase was skipped."""

    account: Address
    source: Address | None
    value: int
    body: Cell
    bounced: bool
    exit_code: int | None
    action_code: int | None
    aborted: bool
    fees: int
    outbound: tuple[Any, ...]

    @property
    def op(self) -> int | None:
        return Reader(self.body, "body").uint(32) if len(self.body.bits) >= 32 else None


@dataclass
class World:
    """Accounts by address; every message is followed until nothing moves, and money is counted each time."""

    tvm: Tvm
    now: int = START
    lt: int = 1_000_000
    accounts: dict[Address, Cell] = field(default_factory=dict)
    injected: int = 0
    fees: int = 0

    def balance(self, address: Address) -> int:
        account = self._account(address)
        return 0 if account is None else account.storage.balance.grams

    def data(self, address: Address) -> Cell:
        account = self._account(address)
        assert account is not None
        assert account.storage.state.type_ == "account_active"
        return account.storage.state.state_init.data

    def code(self, address: Address) -> Cell:
        account = self._account(address)
        assert account is not None
        return account.storage.state.state_init.code

    def _account(self, address: Address) -> Any:
        cell = self.accounts.get(address)
        return None if cell is None else Account.deserialize(cell.refs[0].begin_parse())

    def send(
        self,
        to: Address,
        value: int,
        body: Cell | None = None,
        *,
        source: Address = FAUCET,
        init: StateInit | None = None,
        bounce: bool = True,
    ) -> list[Executed]:
        """Bring ``value`` in from outside as if ``source`` had sent it."""
        self.lt += 1_000_000
        self.injected += value
        message = internal_message(
            source=source, destination=to, value=value, body=body, init=init, bounce=bounce, created_lt=self.lt
        )
        return self._follow(to, message)

    def bounce_from(self, source: Address, to: Address, value: int = TON, body: Cell | None = None) -> list[Executed]:
        """A bounced message: ``int_msg_info`` with its bounced bit set."""
        self.lt += 1_000_000
        self.injected += value
        writer = Writer("bounced").uint(0b0101, 4).address(source).address(to).coins(value)
        writer.uint(0, 1).coins(0).coins(0).uint(self.lt, 64).uint(self.now, 32).uint(0, 1)
        return self._follow(to, writer.maybe_ref(body).end())

    def external(self, to: Address, message: Cell) -> list[Executed]:
        return self._follow(to, message)

    def _follow(self, to: Address, message: Cell) -> list[Executed]:
        queue = deque([(to, message)])
        done: list[Executed] = []
        while queue:
            address, each = queue.popleft()
            executed, outbound = self._execute(address, each)
            done.append(executed)
            queue.extend(outbound)
        held = sum(self.balance(address) for address in self.accounts)
        assert held + self.fees == self.injected, "money appeared or vanished"
        return done

    def _execute(self, address: Address, message: Cell) -> tuple[Executed, list[tuple[Address, Cell]]]:
        self.lt += 1_000_000
        before = self.accounts.get(address, _absent())
        result = self.tvm.transaction(before, message, now=self.now, lt=self.lt)
        self.accounts[address] = result.shard_account
        transaction = Transaction.deserialize(result.transaction.begin_parse())
        phases = transaction.description
        compute, action = phases.compute_ph, phases.action
        outbound = []
        self.fees += transaction.total_fees.grams
        for out in transaction.out_msgs:
            self.fees += out.info.fwd_fee
            outbound.append((Address.of(out.info.dest), _raw_message(result.transaction, len(outbound))))
        info = transaction.in_msg.info
        internal = transaction.in_msg.is_internal
        return (
            Executed(
                account=address,
                source=Address.of(info.src) if internal else None,
                value=info.value_coins if internal else 0,
                body=transaction.in_msg.body,
                bounced=bool(internal and info.bounced),
                exit_code=compute.exit_code if compute.type_ == "vm" else None,
                action_code=action.result_code if action is not None else None,
                aborted=bool(phases.aborted),
                fees=transaction.total_fees.grams,
                outbound=tuple(transaction.out_msgs),
            ),
            outbound,
        )

    def get(self, address: Address, method: str, *stack: Any) -> tuple[Any, ...]:
        result = self.tvm.get_method(
            self.code(address),
            self.data(address),
            method,
            stack,
            address=address,
            balance=self.balance(address),
            now=self.now,
        )
        assert result.exit_code == 0, result
        return result.stack


def _absent() -> Cell:
    return Writer("ShardAccount").ref(Writer("Account").uint(0, 1).end()).raw(bytes(32), 32).uint(0, 64).end()


def _raw_message(transaction: Cell, index: int) -> Cell:
    """The outbound message cell as it is in the transaction, so that nothing is lost in re-serialising."""
    messages = Reader(transaction.refs[0], "messages")
    messages.maybe_ref()
    table = messages.dictionary(15, lambda reader: reader.ref())
    return table[index]


PARAMS = Params(
    params_version=1,
    unique_id=12345,
    is_test=True,
    price_per_token=1_000_000,
    worker_fee_per_token=100_000,
    prompt_tokens_price_multiplier=11_000,
    cached_tokens_price_multiplier=12_000,
    completion_tokens_price_multiplier=13_000,
    reasoning_tokens_price_multiplier=14_000,
    proxy_delay_before_close=3600,
    client_delay_before_close=1800,
    min_proxy_stake=TON,
    min_client_stake=2 * TON,
)


class Network(World):
    """A root, a proxy, a worker and a client contract, deployed and funded."""

    def __init__(self, tvm: Tvm, codes: ContractCodes, params: Params = PARAMS) -> None:
        super().__init__(tvm)
        self.codes = codes
        self.params = replace(params, proxy_code=codes.proxy, worker_code=codes.worker, client_code=codes.client)
        self.root_owner, self.proxy_owner = party("root owner"), party("proxy owner")
        self.worker_owner, self.client_owner = party("worker owner"), party("client owner")
        self.excesses = party("excesses")
        self.key = key("proxy")
        root = StateInit(codes.root, build_root(self.fresh_root()))
        self.root = root.address()
        proxy = proxy_state(self.root, self.params, self.proxy_owner, public(self.key))
        self.proxy = proxy.address()
        worker = worker_state(self.params, self.worker_owner, self.proxy, public(self.key))
        client = client_state(self.params, self.client_owner, self.proxy, public(self.key))
        self.worker, self.client = worker.address(), client.address()
        self.states = {"root": root, "proxy": proxy, "worker": worker, "client": client}
        for state, value in ((root, TON), (proxy, 100 * TON), (worker, TON // 10), (client, TON // 10)):
            (deployed,) = self.send(state.address(), value, init=state, bounce=False)
            assert (deployed.exit_code, deployed.aborted) == (0, False)

    def fresh_root(self) -> RootState:
        return RootState(
            owner=party("root owner"),
            version=1,
            proxy_hashes=frozenset(),
            registered_proxies=(),
            last_proxy_seqno=0,
            worker_hashes=frozenset(),
            model_hashes=frozenset(),
            params=self.params,
        )

    def root_state(self) -> RootState:
        return parse_root(self.data(self.root))

    def proxy_data(self) -> ProxyData:
        return ProxyData.from_cell(self.data(self.proxy))

    def worker_data(self) -> WorkerData:
        return WorkerData.from_cell(self.data(self.worker))

    def client_data(self) -> ClientData:
        return ClientData.from_cell(self.data(self.client))

    def client_data_constants(self) -> ClientConstants:
        return self.client_data().constants

    def payment(
        self, op: Op, tokens: int, contract: Address, *, signer: Ed25519PrivateKey | None = None, query_id: int = 7
    ) -> Cell:
        return signed.sign_payment(signer or self.key, op, query_id, tokens, contract, self.excesses).to_cell()

    def order(self, op: Op, contract: Address | None = None, *, signer: Ed25519PrivateKey | None = None) -> Cell:
        return signed.sign_close(signer or self.key, op, 8, contract or self.proxy, self.excesses).to_cell()

    def pay_worker(self, tokens: int, *, value: int = TON // 2, op: Op = Op.WORKER_PAYOUT) -> list[Executed]:
        return self.send(self.worker, value, self.payment(op, tokens, self.worker))

    def top_up(self, amount: int) -> list[Executed]:
        return self.send(self.client, amount + TON, ClientTopUp(1, amount, self.excesses).to_cell())


def refusal(executed: list[Executed]) -> int | None:
    """The exit code of the first transaction, which must have failed and sent its value back."""
    first = executed[0]
    assert first.aborted
    assert executed[-1].bounced
    return first.exit_code


def accepted(executed: list[Executed]) -> list[Executed]:
    """The same transactions, none of whose contracts failed."""
    for each in executed:
        assert each.exit_code in {0, None}, each
        assert each.action_code in {0, None}, each
    return executed
