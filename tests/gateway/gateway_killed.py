"""Run by a test: one gateway life after another, each killed (SIGKILL) one durable-write boundary later.

``python gateway_killed.py DIRECTORY``: life ``n`` works in ``DIRECTORY/n`` and dies at its ``n``-th boundary; the
first life that reaches its end is the last one, and its number goes to standard output. What a life has told its peers
and what its chain has seen stands in ``told``: one JSON value a line, written before the life goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from gateway_chain import FakeChain, FakeWallet
from gateway_world import KEY, WALLET, address, terms

from appliance.accounting.gateway_ledger import GatewayLedger, InstanceRow
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.gateway.book import Book, Sequence
from appliance.gateway.contract_events import MarkerSeen, event_of, marker_body
from appliance.gateway.epoch import Session
from appliance.gateway.payments import Payments
from appliance.gateway.settlement import Settlement

ROUNDS = 2


class Life:
    """A gateway's money in one directory."""

    def __init__(self, directory: Path, *, die_at: int | None) -> None:
        self.directory = directory
        self.die_at = die_at
        self.boundaries = 0
        self.chain = FakeChain(terms())
        self.chain.client_request(1)
        self.log = os.open(directory / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for told in read(directory):
            if "marker" in told:
                seqno, session = told["marker"]
                self.chain.happen(WALLET, marker_body(seqno, bytes.fromhex(session), 1))
        self.known = len(self.chain.found)
        self.ledger = GatewayLedger(directory / "gateway.sqlite", on_boundary=self.boundary)
        session = Session.open(self.ledger)
        contract = self.chain.terms.contract.raw()
        rows = {row.contract: row for row in self.ledger.instances()}
        self.book = Book(
            rows.get(contract, InstanceRow(contract, 3)),
            sequence=Sequence(self.ledger.seqno),
            session=session.hash,
            sessions=session.known,
            workers=self.ledger.workers(contract),
            clients=self.ledger.clients(contract),
        )
        self.payments = Payments(KEY, WALLET)
        self.settlement = Settlement(
            self.ledger,
            self.book,
            self.chain.terms,
            self.payments,
            self.chain,
            FakeWallet(self.chain),
            heard=lambda _: None,
            trouble=lambda _: None,
            monotonic=lambda: 0.0,
            commit_interval=1.0,
            payout_min=1,
        )

    def boundary(self, _name: str) -> None:
        self.boundaries += 1
        if self.boundaries == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, **what: object) -> None:
        os.write(self.log, json.dumps(what).encode() + b"\n")

    def tell_chain(self) -> None:
        """What the chain has seen stays seen, whatever happens to this process."""
        for transaction in self.chain.found[self.known :]:
            event = event_of(transaction, self.chain.terms, WALLET)
            if isinstance(event, MarkerSeen):
                self.tell(marker=[event.seqno, event.session.hex()])
        self.known = len(self.chain.found)

    def tell_peers(self) -> None:
        """What a peer is told after a request: its totals and the newest signed payment."""
        owner = address(2002)
        worker = self.book.worker(owner, self.chain.terms.worker_contract(owner))
        payment = parse_payment(self.payments.worker(worker).data, op=Op.WORKER_PAYOUT)
        self.tell(db=worker.db, signed=payment.tokens)

    async def work(self) -> None:
        await self.settlement.start()
        self.tell_peers()
        owner = address(2002)
        for _ in range(ROUNDS):
            client = self.book.client(address(1001))
            worker = self.book.worker(owner, self.chain.terms.worker_contract(owner))
            assert client is not None
            self.book.charge(client, worker, 10)
            await self.settlement.commit()
            self.tell_peers()
            self.book.charge(client, worker, 10)
            await self.confirm()
            await self.settlement._pay_out()
        # A marker that was on its way when an earlier life ended covers only what it covered then.
        await self.confirm()
        self.ledger.close()

    async def confirm(self) -> None:
        await self.settlement.mark()
        self.tell_chain()
        await self.settlement._read_contract()
        self.tell_peers()


def read(directory: Path) -> list[dict[str, object]]:
    """What was told in a directory."""
    path = directory / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(root: Path) -> int:
    for number in range(1, 500):
        directory = root / str(number)
        directory.mkdir()
        child = os.fork()
        if child == 0:
            status = 3
            try:
                asyncio.run(Life(directory, die_at=number).work())
                status = 0
            finally:
                os._exit(status)
        _, result = os.waitpid(child, 0)
        if os.WIFEXITED(result):
            assert os.WEXITSTATUS(result) == 0, f"life {number} failed"
            return number
        assert os.WTERMSIG(result) == signal.SIGKILL
    raise AssertionError("no life came to its end")


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]))}\n")
