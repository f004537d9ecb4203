"""The accounts as a model: whatever is written, killed and replayed, nothing is signed lower or numbered twice."""

from __future__ import annotations

from gateway_world import address
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.accounting.gateway_ledger import NO_MARKER, Batch, ClientRow, InstanceRow, WorkerRow
from appliance.gateway.book import Book, ClientAccount, Reservation, Sequence, WorkerAccount

CONTRACT = address(1).raw()


class Life:
    """A book over a disk that is a dictionary and a chain that is a list; ``crash`` starts a new process."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerRow] = {}
        self.clients: dict[str, ClientRow] = {}
        self.instance = InstanceRow(CONTRACT, 1)
        self.seqno = 0
        self.sessions: set[bytes] = set()
        self.numbers: list[int] = []
        self.chain: list[tuple[str, int, bytes]] = []
        self.signed = self.told = 0
        self.crash()

    def crash(self) -> None:
        session = len(self.sessions).to_bytes(32, "big")
        self.sessions.add(session)
        self.book = Book(
            self.instance,
            sequence=Sequence(self.seqno),
            session=session,
            sessions=frozenset(self.sessions),
            workers=self.workers.values(),
            clients=self.clients.values(),
        )
        self.read()
        assert self.worker.committed >= self.signed, "a lower total would be signed"
        assert self.worker.db >= self.told, "a total that was told as written is lost"

    def read(self) -> None:
        """Take the chain's news into account and write that down, as the settlement does."""
        for lt, (kind, number, session) in enumerate(self.chain, start=1):
            if lt > self.book.instance.last_lt:
                if kind == "marker":
                    self.book.observe_marker(number, session)
                else:
                    self.book.observe_worker(address(3), address(4), number)
        self.book.advance(len(self.chain))
        self.write(self.book.batch("observe"))

    def write(self, batch: Batch | None, *, fails: bool = False) -> None:
        if batch is None:
            return
        if fails:
            self.book.failed(batch)
            return
        if batch.workers or batch.clients:
            assert batch.seqno not in self.numbers, "a sequence number was used twice"
            self.numbers.append(batch.seqno)
        assert batch.seqno >= self.seqno
        self.seqno = batch.seqno
        self.instance = batch.instance
        self.workers |= {row.owner: row for row in batch.workers}
        self.clients |= {row.owner: row for row in batch.clients}
        self.book.written(batch)

    @property
    def worker(self) -> WorkerAccount:
        return self.book.worker(address(3), address(4))

    @property
    def client(self) -> ClientAccount:
        found = self.book.client(address(5))
        return found or self.book.observe_client(
            address(5), address(6), status=0, balance=10**9, stake=10**9, used=0, secret_hash=bytes(32)
        )

    def check(self) -> None:
        worker = self.worker
        assert 0 <= worker.committed <= worker.confirmed <= worker.marked <= worker.tokens
        assert worker.committed <= worker.db <= worker.tokens
        # Both are what a peer may have been told by now.
        self.signed = max(self.signed, worker.committed)
        self.told = max(self.told, worker.db)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["charge", "charge", "write", "write fails", "mark", "mark fails", "mark arrives", "read", "pay", "crash"]
        ),
        st.integers(0, 50),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_history_signs_lower_or_repeats_a_number(steps: list[tuple[str, int]]) -> None:
    life = Life()
    for what, amount in steps:
        match what:
            case "charge":
                life.book.charge(life.client, life.worker, amount)
            case "write" | "write fails":
                life.write(life.book.batch("usage"), fails=what == "write fails")
            case "mark" | "mark fails":
                life.write(life.book.marker_batch(), fails=what == "mark fails")
            case "mark arrives" if life.instance.marker_seqno != NO_MARKER:
                life.chain.append(("marker", life.instance.marker_seqno, life.instance.marker_session))
            case "read":
                life.read()
            case "pay":
                life.chain.append(("paid", life.signed, b""))
            case "crash":
                life.crash()
            case _:
                continue
        life.check()
    life.crash()
    assert life.book.foreign_markers == 0


@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(0, 10**6))
def test_reservations_are_given_back_once(amounts: list[int], used: int) -> None:
    account = ClientAccount(address(1), address(2), balance=10**12, stake=10**12, tokens=used)
    before = account.available(20, 10**12)
    held = [Reservation(account, amount) for amount in amounts]
    assert account.available(20, 10**12) == before - sum(amounts)
    for reservation in held:
        with reservation:
            reservation.release()
    assert account.reserved == 0
    assert account.available(20, 10**12) == before


def test_available_is_the_least_cover() -> None:
    account = ClientAccount(address(1), address(2), balance=1000, stake=3000, tokens=7, on_chain=5, reserved=3)
    assert account.available(10, 10**9) == 100 + 5 - 3 - 7
    assert account.available(10, 500) == 50 + 5 - 3 - 7
    account.balance = 9000
    assert account.available(10, 10**9) == 300 + 5 - 3 - 7
    assert account.available(0, 10**9) == 10**12 + 5 - 3 - 7
