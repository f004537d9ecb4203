"""Bytes from liteservers: the language against an independent codec, noise, and servers that break the frames."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from chain_support import key
from hypothesis import given
from hypothesis import strategies as st

from appliance.chain import lite_api
from appliance.chain.addresses import Address
from appliance.chain.errors import ChainError, ChainTooOldError, LayoutError, LiteserverError, TransportError
from appliance.chain.proofs import BackwardLink, ForwardLink
from appliance.chain.servers import Server, in_order
from appliance.chain.transport import LiteConnection, LiteserverAddress
from appliance.chain.types import BlockId
from appliance.lab.chain.adnl import AdnlServer
from appliance.lab.chain.lite_api import block_id_value, lite_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SCHEMA = lite_schema()
BLOCK = BlockId(-1, -(1 << 63), 7, b"\x01" * 32, b"\x02" * 32)
OTHER = BlockId(0, 1 << 62, 2**32 - 1, b"\x03" * 32, b"\x04" * 32)
ACCOUNT = Address(-1, b"\x05" * 32)
READERS: list[Callable[[bytes], object]] = [
    lite_api.read_masterchain_info,
    lite_api.read_block_proof,
    lite_api.read_block_header,
    lite_api.read_account_state,
    lite_api.read_transactions,
    lite_api.read_config,
    lite_api.read_send_status,
]


@pytest.mark.parametrize(
    ("ours", "name", "fields"),
    [
        (lite_api.get_masterchain_info(), "getMasterchainInfo", {}),
        (
            lite_api.get_block_proof(BLOCK, OTHER),
            "getBlockProof",
            {"mode": 1, "known_block": block_id_value(BLOCK), "target_block": block_id_value(OTHER)},
        ),
        (lite_api.get_block_header(BLOCK), "getBlockHeader", {"id": block_id_value(BLOCK), "mode": 0}),
        (
            lite_api.get_account_state(BLOCK, ACCOUNT),
            "getAccountState",
            {"id": block_id_value(BLOCK), "account": {"workchain": -1, "id": ACCOUNT.hash}},
        ),
        (
            lite_api.get_transactions(ACCOUNT, 123456789, b"\x06" * 32, 16),
            "getTransactions",
            {"count": 16, "account": {"workchain": -1, "id": ACCOUNT.hash}, "lt": 123456789, "hash": b"\x06" * 32},
        ),
        (lite_api.get_config(BLOCK), "getConfigAll", {"mode": 0, "id": block_id_value(BLOCK)}),
        (lite_api.send_message(b"\x07" * 300), "sendMessage", {"body": b"\x07" * 300}),
    ],
)
def test_queries_are_those_of_an_independent_codec(ours: bytes, name: str, fields: dict[str, Any]) -> None:
    assert ours == SCHEMA.encode(f"liteServer.{name}", **fields)
    assert lite_api.query(ours) == SCHEMA.encode("liteServer.query", data=ours)
    waiting = SCHEMA.encode("liteServer.waitMasterchainSeqno", seqno=9, timeout_ms=1500) + ours
    assert lite_api.query(ours, wait_for=9, wait_ms=1500) == SCHEMA.encode("liteServer.query", data=waiting)


def test_answers_are_those_of_an_independent_codec() -> None:
    ends = {"from": block_id_value(BLOCK), "to": block_id_value(OTHER)}
    signatures = [{"node_id_short": b"\x08" * 32, "signature": b"\x09" * 64}]
    steps = [
        {
            "@type": "liteServer.blockLinkForward",
            "to_key_block": True,
            **ends,
            "dest_proof": b"dest",
            "config_proof": b"c" * 1000,
            "signatures": {
                "@type": "liteServer.signatureSet.ordinary",
                "validator_set_hash": 5,
                "catchain_seqno": 6,
                "signatures": signatures,
            },
        },
        {
            "@type": "liteServer.blockLinkBack",
            "to_key_block": False,
            **ends,
            "dest_proof": b"",
            "proof": b"proof",
            "state_proof": b"state",
        },
    ]
    answer = SCHEMA.encode("liteServer.partialBlockProof", complete=False, **ends, steps=steps)
    proof = lite_api.read_block_proof(answer)
    assert (proof.complete, proof.source, proof.target) == (False, BLOCK, OTHER)
    forward, backward = proof.links
    assert isinstance(forward, ForwardLink)
    assert isinstance(backward, BackwardLink)
    assert forward.signatures.signatures == ((b"\x08" * 32, b"\x09" * 64),)
    assert (forward.config_proof, forward.to_key_block) == (b"c" * 1000, True)
    assert (backward.source_proof, backward.state_proof) == (b"proof", b"state")


def test_the_simplex_form_is_told_apart_by_its_number() -> None:
    """Its first two numbers are swapped; the candidate and its session follow the signatures."""
    tail = (7).to_bytes(4, "little") + (8).to_bytes(4, "little") + (1).to_bytes(4, "little")
    tail += b"\x08" * 32 + b"\x40" + b"\x09" * 64 + bytes(3)
    tail += b"\x0a" * 32 + (-3).to_bytes(4, "little", signed=True) + b"\x04abcd" + bytes(3)
    link = (0x520FCE1C).to_bytes(4, "little") + (0x997275B5).to_bytes(4, "little")
    block = (-1).to_bytes(4, "little", signed=True) + (-(1 << 63)).to_bytes(8, "little", signed=True)
    block += (7).to_bytes(4, "little") + b"\x01" * 32 + b"\x02" * 32
    head = (0x8ED0D2C1).to_bytes(4, "little") + (0x997275B5).to_bytes(4, "little") + block * 2
    body = head + (1).to_bytes(4, "little") + link + block * 2 + bytes(8)
    (found,) = lite_api.read_block_proof(body + (0xAC249800).to_bytes(4, "little") + tail).links
    assert isinstance(found, ForwardLink)
    signed = found.signatures
    assert (signed.session, signed.slot, signed.candidate) == (b"\x0a" * 32, -3, b"abcd")
    with pytest.raises(ChainTooOldError, match="SignatureSet"):
        lite_api.read_block_proof(body + (0xAC249801).to_bytes(4, "little") + tail)


def test_a_server_s_error_is_an_error() -> None:
    answer = SCHEMA.encode("liteServer.error", code=651, message="not in db")
    for read in READERS:
        with pytest.raises(LiteserverError, match="651: not in db"):
            read(answer)


@pytest.mark.parametrize("read", READERS)
@given(noise=st.binary(max_size=300))
def test_noise(read: Callable[[bytes], object], noise: bytes) -> None:
    with pytest.raises(ChainError):
        read(noise)


@given(data=st.data())
def test_a_proof_cut_short_or_with_a_rest(data: st.DataObject) -> None:
    value = {"id": block_id_value(BLOCK), "shardblk": block_id_value(OTHER)}
    answer = SCHEMA.encode("liteServer.accountState", **value, shard_proof=b"a" * 5, proof=b"b" * 300, state=b"c")
    assert lite_api.read_account_state(answer).state == b"c"
    cut = data.draw(st.integers(0, len(answer) - 1))
    with pytest.raises(LayoutError):
        lite_api.read_account_state(answer[:cut])
    with pytest.raises(LayoutError):
        lite_api.read_account_state(answer + b"\0")


def test_a_promise_of_many_items_costs_nothing() -> None:
    head = (0x6F26C60B).to_bytes(4, "little")
    with pytest.raises(LayoutError, match="lists 4294967295 items"):
        lite_api.read_transactions(head + b"\xff" * 4)


# Frames


@asynccontextmanager
async def speaking(answer: Callable[[AdnlServer, bytes], bytes]) -> AsyncIterator[LiteserverAddress]:
    """A server that shakes hands properly and then answers each packet with the bytes a test wants on the wire."""
    server_key = key("liteserver")

    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        adnl = AdnlServer(server_key, max_packet=1 << 20)
        greeted = False
        while data := await reader.read(65536):
            packets = adnl.receive(data)
            if adnl.ready and not greeted:
                greeted = True
                writer.write(adnl.frame(b""))
            for packet in packets:
                writer.write(answer(adnl, packet))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield LiteserverAddress("127.0.0.1", port, server_key.public_key().public_bytes_raw())
    finally:
        server.close()
        await server.wait_closed()
        for end in ends:
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()


def answered(packet: bytes, content: bytes) -> bytes:
    """``adnl.message.answer`` to a query packet."""
    head = bytes([len(content)]) if len(content) < 254 else b"\xfe" + len(content).to_bytes(3, "little")
    tail = head + content
    return (0x0FAC8416).to_bytes(4, "little") + packet[4:36] + tail + bytes(-len(tail) % 4)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 253, 254, 255, 256, 70_000])
async def test_answers_of_every_length(size: int) -> None:
    async with speaking(lambda adnl, packet: adnl.frame(answered(packet, b"x" * size))) as address:
        connection = LiteConnection(address)
        assert await connection.query(b"q" * size, timeout=20) == b"x" * size
        await connection.close()


async def test_what_nobody_asked_for_is_passed_over() -> None:
    def answer(adnl: AdnlServer, packet: bytes) -> bytes:
        pong = (0xDC69FB03).to_bytes(4, "little") + bytes(8)
        stray = answered(bytes(36), b"stray")
        return adnl.frame(pong) + adnl.frame(stray) + adnl.frame(b"") + adnl.frame(answered(packet, b"ok"))

    async with speaking(answer) as address:
        connection = LiteConnection(address)
        assert await connection.query(b"q", timeout=20) == b"ok"
        await connection.close()


@pytest.mark.parametrize(
    "content",
    [
        (0x0FAC8416).to_bytes(4, "little"),
        (0x0FAC8416).to_bytes(4, "little") + bytes(32),
        (0x0FAC8416).to_bytes(4, "little") + bytes(32) + b"\xfe",
        (0x0FAC8416).to_bytes(4, "little") + bytes(32) + b"\xff" + bytes(3),
        (0x0FAC8416).to_bytes(4, "little") + bytes(32) + b"\x05abc",
    ],
)
async def test_answers_that_do_not_add_up_end_the_connection(content: bytes) -> None:
    async with speaking(lambda adnl, _: adnl.frame(content)) as address:
        connection = LiteConnection(address)
        with pytest.raises(TransportError, match="broke the protocol"):
            await connection.query(b"q", timeout=20)
        await connection.close()


@pytest.mark.parametrize("noise", [b"\0" * 64, b"\xff" * 64, bytes(range(256))])
async def test_bytes_that_are_no_frame_end_the_connection(noise: bytes) -> None:
    async with speaking(lambda _adnl, _packet: noise) as address:
        connection = LiteConnection(address)
        with pytest.raises(TransportError, match=r"broke the|did not answer"):
            await connection.query(b"q", timeout=1)
        await connection.close()


async def test_a_server_that_says_nothing() -> None:
    async with speaking(lambda _adnl, _packet: b"") as address:
        connection = LiteConnection(address)
        with pytest.raises(TransportError, match="did not answer within"):
            await connection.query(b"q", timeout=0.05)
        await connection.close()


async def test_a_port_that_never_greets() -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    address = LiteserverAddress("127.0.0.1", listening.getsockname()[1], key("x").public_key().public_bytes_raw())
    connection = LiteConnection(address, connect_timeout=0.05)
    with pytest.raises(TransportError, match="did not accept"):
        await connection.query(b"q", timeout=5)
    listening.close()


async def test_one_connection_serves_many_at_once() -> None:
    async with speaking(lambda adnl, packet: adnl.frame(answered(packet, packet[37 : 37 + packet[36]]))) as address:
        connection = LiteConnection(address)
        asked = [bytes([n]) * 4 for n in range(50)]
        assert await asyncio.gather(*(connection.query(q, timeout=20) for q in asked)) == asked
        await connection.close()


@pytest.mark.parametrize(
    ("address", "text"),
    [("127.0.0.1", "key"), ("127.0.0.1:0", "key"), (":80", "key"), ("host:99999", "key"), ("host:80", "%%%")],
)
def test_addresses_that_make_no_sense(address: str, text: str) -> None:
    with pytest.raises(LayoutError):
        LiteserverAddress.parse(address, text)


def test_addresses() -> None:
    import base64

    text = base64.b64encode(bytes(range(32))).decode()
    assert LiteserverAddress.parse("[::1]:80", text) == LiteserverAddress("::1", 80, bytes(range(32)))
    with pytest.raises(LayoutError, match="key of 3 bytes"):
        LiteserverAddress.parse("host:80", "AAAA")


# The order in which servers are asked


async def test_whom_to_ask() -> None:
    from appliance.chain.errors import ProofError

    now = [100.0]
    servers = [
        Server(LiteserverAddress(name, 1, bytes(32)), connect_timeout=1, monotonic=lambda: now[0])
        for name in ("a", "b", "c")
    ]
    first, second, third = servers
    assert in_order(servers) == servers
    first.failed(ProofError("lied"))
    second.failed(TransportError("gone"))
    assert in_order(servers) == [third, second, first]
    assert first.status().reason == "lied"
    now[0] += 1.5
    assert in_order(servers) == [second, third, first]
    for _ in range(12):
        second.failed(TransportError("gone"))
    now[0] += 61
    assert second.usable
    assert not first.usable
    first.succeeded()
    assert in_order(servers) == servers
    first.failed(ChainTooOldError("block", 1, "2"))
    now[0] += 2
    assert first.usable
