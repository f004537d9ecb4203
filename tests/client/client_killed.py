"""Run by a test: one client life after another, each killed (SIGKILL) one durable-write boundary later.

``python client_killed.py DIRECTORY``: life ``n`` works in ``DIRECTORY/n`` and dies at its ``n``-th boundary; the first
life that reaches its end is the last one, and its number goes to standard output. What left the process (requests, and
messages to the chain) stands in ``told``: one JSON value a line, written at the moment at which it leaves.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client_world import SECRET, STAKE, FakeChain, FakeWallet, charge, random_id, terms, used

from appliance.accounting.client_ledger import ClientLedger
from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.client.duties import Duties
from appliance.client.money import Purse, ceiling
from appliance.client.request import Limits, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

AT = terms()
BODY = b'{"model":"m","messages":[],"max_tokens":100000}'
REQUEST = prepare("POST", "/v1/chat/completions", BODY, Limits(4000, 100, 20.0), salt="aa")
"""Larger than a lease, so that every one has to be written."""
MOST = ceiling(REQUEST, AT.params)
LATER_S = 10_000


class Wallet(FakeWallet):
    """Sends for good: what it sent is on the chain of the next life too."""

    life: Life

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> None:
        self.life.boundary("transfer:before")
        for message in messages:
            assert message.body is not None
            self.life.tell(sent=encode_boc(message.body).hex())
        await super().transfer(messages)
        self.life.boundary("transfer:after")


class Life:
    """A client's money in one directory."""

    def __init__(self, directory: Path, *, die_at: int | None, age: int = 0) -> None:
        self.directory = directory
        self.die_at = die_at
        self.boundaries = 0
        self.log = os.open(directory / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.chain = FakeChain(1_800_000_000 + age * LATER_S)
        self.wallet = Wallet(self.chain, AT)
        self.wallet.life = self
        for told in read(directory):
            if "sent" in told:
                body = decode_boc(bytes.fromhex(told["sent"]), max_bytes=4096, max_cells=16)
                self.wallet.arrive(OutgoingMessage(AT.client_contract, STAKE, body))
        self.ledger = ClientLedger(directory / "client.sqlite", on_boundary=self.boundary)
        self.purse = Purse(self.ledger, budget=None, longest_s=20.0)
        self.duties = Duties(
            self.chain, self.wallet, self.purse, secret=SECRET, top_up=STAKE, clock=lambda: float(self.chain.utime)
        )

    def boundary(self, _name: str) -> None:
        self.boundaries += 1
        if self.boundaries == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, **what: object) -> None:
        os.write(self.log, json.dumps(what).encode() + b"\n")

    async def work(self) -> None:
        await self.duties.prepare(AT)
        await self.duties.prepare(AT)
        known = sum(told.get("used", 0) for told in read(self.directory))
        self.purse.opened(AT, parse_payment(charge(known).data, op=Op.CLIENT_CHARGE), known)
        for _ in range(2):
            requests = [random_id(), random_id()]
            for request in requests:
                self.purse.reserve(AT, request, REQUEST)
                self.tell(asked=MOST)
            self.tell(used=15)
            self.purse.settle(requests[0], used(10, 5))
            self.purse.leave(requests[1])
            self.purse.flush()
            self.tell(used=9)
            self.purse.reported(requests[1], 9)
            known += 24
            self.purse.charged(AT, parse_payment(charge(known).data, op=Op.CLIENT_CHARGE))
            await self.duties.maintain(AT)
        self.purse.close()


def read(directory: Path) -> list[dict[str, Any]]:
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
