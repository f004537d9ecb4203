"""How many transactions a second the lab's chain makes, against the bare TVM executing the same messages.

``python benchmarks/labchain.py [--json] [--wallets N] [--rounds N]``. In each round every wallet sends one payment by
an external message: two transactions. "bare" executes exactly the messages of the round on exactly the accounts they
met, in the same process and the same run, and keeps nothing; "block" makes, stores and publishes the block; "sent and
block" also takes the messages as a liteserver does, each of which is executed once more to see whether it is accepted.
The ratios say what blocks, states, proofs and storage cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.lab.chain.clock import Clock
from appliance.lab.chain.devnet import DevNet
from appliance.lab.chain.faucet import Faucet, Grant
from appliance.lab.chain.machine import Executed, TvmMachine
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import prepare_tools

TON = 10**9


@dataclass(frozen=True)
class Row:
    """One measurement: microseconds for one transaction, transactions a second, ratio to the bare TVM."""

    name: str
    microseconds: float
    per_second: int
    ratio: float


class Recorder(TvmMachine):
    """Keeps what each message met, so that it can be executed again."""

    def __init__(self, tvm: Tvm) -> None:
        super().__init__(tvm)
        self.seen: list[tuple[object, dict[str, object]]] = []

    def execute(self, *cells: object, **parameters: object) -> Executed:
        """Execute one message, and remember it."""
        self.seen.append((cells, parameters))
        return super().execute(*cells, **parameters)  # type: ignore[arg-type]  # passed through as it came


def measure(wallets: int, rounds: int) -> list[Row]:
    tools = prepare_tools()
    with Tvm(tools=tools) as tvm, tempfile.TemporaryDirectory() as directory:
        machine = Recorder(tvm)
        now = time.time()
        net = DevNet(machine, Path(directory), base_config=tools.slim_config(), clock=Clock(lambda: now))
        owners = [Faucet(Ed25519PrivateKey.generate()) for _ in range(wallets)]
        for owner in owners:
            net.grant(Grant(owner.address, 1000 * TON, state_init=owner.state_init))
        net.tick()
        bare = sending = making = 0.0
        count = 0
        for number in range(rounds):
            orders = []
            for index, owner in enumerate(owners):
                target = Address(0, (number * wallets + index + 1).to_bytes(32, "big"))
                order = owner.order(net.shard_account(owner.address), [Grant(target, TON)], net.clock.now())
                orders.append(encode_boc(order.cell))
            start = time.perf_counter()
            for order_boc in orders:
                net.send(order_boc)
            sending += time.perf_counter() - start
            machine.seen.clear()
            start = time.perf_counter()
            net.tick()
            making += time.perf_counter() - start
            replayed = list(machine.seen)
            count += len(replayed)
            start = time.perf_counter()
            for cells, parameters in replayed:
                tvm.transaction(*cells, **parameters)  # type: ignore[misc,arg-type]
            bare += time.perf_counter() - start
        net.close()
    rows = (("bare TVM", bare), ("block", making), ("sent and block", sending + making))
    return [Row(name, spent / count * 1e6, int(count / spent), spent / bare) for name, spent in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--wallets", type=int, default=20, help="payments a block")
    parser.add_argument("--rounds", type=int, default=10, help="blocks")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rows = measure(options.wallets, options.rounds)
    if options.json:
        print(json.dumps({"benchmark": "labchain", "rows": [asdict(row) for row in rows]}))
        return
    for row in rows:
        print(f"{row.name:16} {row.microseconds:8.0f} µs/transaction {row.per_second:6}/s  ratio {row.ratio:.2f}")


if __name__ == "__main__":
    main()
