"""What a reference network really said: every frame of the traces, both as objects and through a connection."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from appliance.wire.codec import decode, encode
from appliance.wire.connection import Connection, Role
from appliance.wire.events import AnswerReceived, Failed, MessageReceived, QueryFailed, QueryReceived, Ready
from appliance.wire.messages import HttpRequest, HttpResponse, TcpPacket, TcpQuery, TcpQueryAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def frames(shared: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every numbered frame of every trace, with the trace's name."""
    root = shared / "vectors" / "cocoon-traces"
    for path in sorted(root.rglob("*.json")):
        for entry in json.loads(path.read_text()):
            if "seqno" in entry:
                yield path.relative_to(root).as_posix(), entry


def test_every_frame_is_read_and_written_again(shared: Path, record_property: Any) -> None:
    count: Counter[str] = Counter()
    for name, entry in frames(shared):
        data = bytes.fromhex(entry["hex"])
        packet = decode(data[8:])
        assert encode(packet) == data[8:], (name, entry["note"])
        assert entry["decoded"]["@type"] == packet.TL_NAME
        count["frames"] += 1
        if isinstance(packet, TcpPacket | TcpQuery | TcpQueryAnswer):
            inner = decode(packet.data)
            assert encode(inner) == packet.data, (name, entry["note"])
            assert entry["decoded"]["data"]["@type"] == inner.TL_NAME
            count["inner objects"] += 1
            if hasattr(inner, "query"):
                assert encode(decode(inner.query, HttpRequest)) == inner.query
                count["http requests"] += 1
            if inner.TL_NAME.endswith(".queryAnswerEx"):
                assert encode(decode(inner.answer, HttpResponse)) == inner.answer
                count["http responses"] += 1
    for what, number in count.items():
        record_property(what, number)
    assert count["frames"] == 798
    assert count["inner objects"] == 660
    assert count["http requests"] == 67
    assert count["http responses"] == 59


def conversations(shared: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for name, entry in frames(shared):
        found[name, entry["conn"]].append(entry)
    return found


@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_a_connection_in_the_place_of_either_side_understands_the_other(shared: Path, piece: int) -> None:
    """Feed one direction of a recorded connection to ours in that peer's place; replay our side's queries by id."""
    count: Counter[str] = Counter()
    for (name, _), entries in conversations(shared).items():
        connector = entries[0]["dir"].split("->")[0]
        for role in Role:
            connection = Connection(role)
            connection.start()
            for entry in entries:
                ours = (entry["dir"].split("->")[0] == connector) == (role is Role.CONNECTING)
                packet = decode(bytes.fromhex(entry["hex"])[8:])
                if ours:
                    if isinstance(packet, TcpQuery):
                        connection._make_id = lambda query_id=packet.id: query_id  # type: ignore[misc]
                        connection.send_query(decode(packet.data))  # type: ignore[arg-type]
                    continue
                data = bytes.fromhex(entry["hex"])
                for at in range(0, len(data), piece):
                    for event in connection.receive_data(data[at : at + piece]):
                        assert not isinstance(event, Failed), (name, entry["note"])
                        count[type(event).__name__] += 1
            assert connection.counters.dropped == connection.counters.refused == 0
    assert set(count) <= {k.__name__ for k in (Ready, MessageReceived, QueryReceived, AnswerReceived, QueryFailed)}
    assert count["Ready"] == 2 * len(conversations(shared))
    assert count["MessageReceived"] > 200
    assert count["AnswerReceived"] > 50


def test_our_side_of_the_handshake_is_byte_for_byte_the_references(shared: Path) -> None:
    checked = 0
    for entries in conversations(shared).values():
        ids = [e["decoded"]["id"] for e in entries if e["note"] == "tcp.connect"]
        connecting = Connection(Role.CONNECTING, make_id=lambda ids=ids: ids[0])  # type: ignore[misc]
        accepting = Connection(Role.ACCEPTING)
        connecting.start()
        accepting.start()
        greeting = connecting.data_to_send()
        accepting.receive_data(greeting)
        assert greeting.hex() == next(e["hex"] for e in entries if e["note"] == "tcp.connect")
        assert accepting.data_to_send().hex() == next(e["hex"] for e in entries if e["note"] == "tcp.connected")
        checked += 1
    assert checked > 10


def test_the_frames_of_the_vectors(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["frames"]
    for role, incoming, outgoing in (
        (Role.CONNECTING, "proxy_to_worker_hex", "worker_to_proxy_hex"),
        (Role.ACCEPTING, "worker_to_proxy_hex", "proxy_to_worker_hex"),
    ):
        connection = Connection(role)
        connection.start()
        sent = [decode(bytes.fromhex(text)[8:]) for text in vectors[outgoing]]
        heard = [bytes.fromhex(text) for text in vectors[incoming]]
        queries = [packet for packet in sent if isinstance(packet, TcpQuery)]
        events = connection.receive_data(heard[0])
        for query in queries:
            connection._make_id = lambda query_id=query.id: query_id  # type: ignore[misc]
            connection.send_query(decode(query.data))  # type: ignore[arg-type]
        for data in heard[1:]:
            events += connection.receive_data(data)
        names = [type(event).__name__ for event in events]
        kind = "AnswerReceived" if role is Role.CONNECTING else "QueryReceived"
        assert names == ["Ready", kind, kind, kind, "MessageReceived"]
