"""ADNL over TCP: an independent client's handshake, and what hostile bytes lead to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_support import served
from pytoniq_core.crypto.ciphers import Client, Server, aes_ctr_encrypt, create_aes_ctr_cipher, get_shared_key

from appliance.lab.chain.adnl import AdnlServer
from appliance.lab.chain.errors import AdnlError
from appliance.lab.chain.lite_api import block_id_value, lite_schema

if TYPE_CHECKING:
    from appliance.lab.chain.devnet import DevNet

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
SCHEMA = lite_schema()


class Peer:
    """A client made of pytoniq's primitives."""

    def __init__(self, server_key: bytes) -> None:
        rand = os.urandom(160)
        self._client = Client(Client.generate_ed25519_private_key())
        server = Server("", 0, server_key)
        self._receiving = create_aes_ctr_cipher(rand[:32], rand[64:80])
        self._sending = create_aes_ctr_cipher(rand[32:64], rand[80:96])
        digest = hashlib.sha256(rand).digest()
        secret = get_shared_key(self._client.x25519_private.encode(), server.x25519_public.encode())
        cipher = create_aes_ctr_cipher(secret[:16] + digest[16:32], digest[:4] + secret[20:32])
        self.handshake = (
            server.get_key_id() + self._client.ed25519_public.encode() + digest + aes_ctr_encrypt(cipher, rand)
        )

    def packet(self, payload: bytes, *, length: int | None = None, digest: bytes | None = None) -> bytes:
        body = os.urandom(32) + payload
        body += hashlib.sha256(body).digest() if digest is None else digest
        size = struct.pack("<I", len(body) if length is None else length)
        sealed: bytes = aes_ctr_encrypt(self._sending, size + body)
        return sealed

    def opened(self, data: bytes) -> bytes:
        plain: bytes = aes_ctr_encrypt(self._receiving, data)
        assert int.from_bytes(plain[:4], "little") == len(plain) - 4
        assert hashlib.sha256(plain[4:-32]).digest() == plain[-32:]
        return plain[36:-32]


def connected() -> tuple[Peer, AdnlServer]:
    peer = Peer(KEY.public_key().public_bytes_raw())
    server = AdnlServer(KEY, max_packet=1 << 12)
    assert server.receive(peer.handshake) == []
    assert server.ready
    return peer, server


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 100))
def test_payloads_arrive_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    peer, server = Peer(KEY.public_key().public_bytes_raw()), AdnlServer(KEY)
    stream = peer.handshake + b"".join(peer.packet(payload) for payload in payloads)
    found = []
    for start in range(0, len(stream), size):
        found += server.receive(stream[start : start + size])
    assert found == payloads
    assert peer.opened(server.frame(b"answer")) == b"answer"


@pytest.mark.parametrize("at", [0, 40, 70, 200])
def test_an_altered_handshake_is_refused(at: int) -> None:
    peer = Peer(KEY.public_key().public_bytes_raw())
    altered = bytearray(peer.handshake)
    altered[at] ^= 1
    assert AdnlServer(KEY).receive(peer.handshake) == []
    with pytest.raises(AdnlError):
        AdnlServer(KEY).receive(bytes(altered))


@settings(deadline=None)
@given(st.binary(min_size=256, max_size=600))
def test_random_bytes_are_no_handshake(data: bytes) -> None:
    with pytest.raises(AdnlError):
        AdnlServer(KEY).receive(data)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, (2**255 - 20).to_bytes(32, "little")])
def test_points_of_small_order_are_refused(point: bytes) -> None:
    peer = Peer(KEY.public_key().public_bytes_raw())
    with pytest.raises(AdnlError):
        AdnlServer(KEY).receive(peer.handshake[:32] + point + peer.handshake[64:])


@pytest.mark.parametrize("length", [0, 63, 1 << 12 | 1, 1 << 31])
def test_impossible_lengths_end_the_connection(length: int) -> None:
    peer, server = connected()
    with pytest.raises(AdnlError, match="packet of"):
        server.receive(peer.packet(b"x", length=length))


def test_a_wrong_hash_ends_the_connection() -> None:
    peer, server = connected()
    assert server.receive(peer.packet(b"right")) == [b"right"]
    with pytest.raises(AdnlError, match="hash"):
        server.receive(peer.packet(b"wrong", digest=bytes(32)))


async def opened(port: int, server_key: bytes) -> tuple[Peer, asyncio.StreamReader, asyncio.StreamWriter]:
    peer = Peer(server_key)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(peer.handshake)
    try:
        assert await packet(peer, reader) == b""
    except BaseException:
        writer.close()
        raise
    return peer, reader, writer


async def packet(peer: Peer, reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    length = int.from_bytes(aes_ctr_encrypt(peer._receiving, head), "little")
    body: bytes = aes_ctr_encrypt(peer._receiving, await reader.readexactly(length))
    assert hashlib.sha256(body[:-32]).digest() == body[-32:]
    return body[32:-32]


async def ask(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> dict[str, Any]:
    query = SCHEMA.encode("liteServer.query", data=data)
    writer.write(peer.packet(SCHEMA.encode("adnl.message.query", query_id=bytes(32), query=query)))
    answer = SCHEMA.decode(await packet(peer, reader))
    assert answer["query_id"] == bytes(32)
    return SCHEMA.decode(answer["answer"])


async def test_a_connection_survives_bad_queries_and_ends_at_bad_packets(net: DevNet) -> None:
    async with served(net) as server:
        peer, reader, writer = await opened(server.port, server.public_key)
        writer.write(peer.packet(SCHEMA.encode("tcp.ping", random_id=5)))
        assert SCHEMA.decode(await packet(peer, reader)) == {"@type": "tcp.pong", "random_id": 5}
        time_query = SCHEMA.encode("liteServer.getTime")
        assert (await ask(peer, reader, writer, time_query))["@type"] == "liteServer.currentTime"
        for bad in (b"", b"1234", time_query + bytes(4), SCHEMA.encode("liteServer.queryPrefix"), os.urandom(64)):
            answer = await ask(peer, reader, writer, bad)
            assert answer["@type"] == "liteServer.error"
            assert answer["code"] == 621
        assert (await ask(peer, reader, writer, time_query))["@type"] == "liteServer.currentTime"
        writer.write(peer.packet(b"no object at all"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await packet(peer, reader)
        writer.close()


def test_it_serves_on_uvloop_too(net: DevNet) -> None:
    async def run() -> dict[str, Any]:
        async with served(net) as server:
            peer, reader, writer = await opened(server.port, server.public_key)
            answer = await ask(peer, reader, writer, SCHEMA.encode("liteServer.getMasterchainInfo"))
            writer.close()
            return answer

    assert uvloop.run(run())["last"]["root_hash"] == net.view.master.id.root_hash


async def test_random_bytes_end_the_connection_and_nothing_else(net: DevNet) -> None:
    async with served(net) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(os.urandom(256))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1)
        writer.close()
        peer, reader, writer = await opened(server.port, server.public_key)
        info = await ask(peer, reader, writer, SCHEMA.encode("liteServer.getMasterchainInfo"))
        assert info["last"]["root_hash"] == net.view.master.id.root_hash
        writer.close()


async def test_connections_are_counted(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.lab.chain.liteserver.MAX_CONNECTIONS", 2)
    async with served(net) as server:
        kept = [await opened(server.port, server.public_key) for _ in range(2)]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await opened(server.port, server.public_key)
        kept[0][2].close()
        await kept[0][2].wait_closed()
        while len(server._connections) > 1:  # noqa: ASYNC110 - the server notices when it may
            await asyncio.sleep(0.01)
        peer, reader, writer = await opened(server.port, server.public_key)
        answer = await ask(peer, reader, writer, SCHEMA.encode("liteServer.getTime"))
        assert answer["@type"] == "liteServer.currentTime"
        writer.close()
        kept[1][2].close()


async def test_a_handshake_that_does_not_come_is_not_waited_for(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.lab.chain.liteserver.HANDSHAKE_S", 0.05)
    async with served(net) as server:
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", server.port)
        peer, reader, writer = await opened(server.port, server.public_key)
        assert await silent_reader.read() == b""
        answer = await ask(peer, reader, writer, SCHEMA.encode("liteServer.getTime"))
        assert answer["@type"] == "liteServer.currentTime"
        silent.close()
        writer.close()


async def test_a_client_that_does_not_read_is_not_read(net: DevNet) -> None:
    async with served(net) as server:
        peer, reader, writer = await opened(server.port, server.public_key)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream over a socket
        block = {"id": block_id_value(net.zerostate.id)}
        query = SCHEMA.encode("liteServer.query", data=SCHEMA.encode("liteServer.getState", **block))
        packets = b"".join(
            peer.packet(SCHEMA.encode("adnl.message.query", query_id=bytes(32), query=query)) for _ in range(3000)
        )
        writer.write(packets)
        before = -1
        while server.counts["getState"] != before:
            before = server.counts["getState"]
            await asyncio.sleep(0.2)
        assert 0 < before < 3000
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        for _ in range(3000):
            await packet(peer, reader)
        assert server.counts["getState"] == 3000
        writer.close()


async def test_many_queries_at_once_are_all_answered(net: DevNet) -> None:
    async with served(net) as server:
        peer, reader, writer = await opened(server.port, server.public_key)
        query = SCHEMA.encode("liteServer.query", data=SCHEMA.encode("liteServer.getMasterchainInfo"))
        wanted = [number.to_bytes(32, "big") for number in range(200)]
        for identifier in wanted:
            writer.write(peer.packet(SCHEMA.encode("adnl.message.query", query_id=identifier, query=query)))
        seen = [SCHEMA.decode(await packet(peer, reader))["query_id"] for _ in wanted]
        assert sorted(seen) == wanted
        writer.close()


async def test_waiting_for_a_block_ends_with_it_or_with_the_time(net: DevNet) -> None:
    async with served(net) as server:
        peer, reader, writer = await opened(server.port, server.public_key)
        info = SCHEMA.encode("liteServer.getMasterchainInfo")
        seqno = net.view.seqno + 1
        early = SCHEMA.encode("liteServer.waitMasterchainSeqno", seqno=seqno, timeout_ms=1)
        answer = await ask(peer, reader, writer, early + info)
        assert (answer["@type"], answer["code"]) == ("liteServer.error", 652)
        patient = SCHEMA.encode("liteServer.waitMasterchainSeqno", seqno=seqno, timeout_ms=20_000)
        waiting = asyncio.create_task(ask(peer, reader, writer, patient + info))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(net.tick)
        assert (await waiting)["last"]["seqno"] == seqno
        writer.close()
