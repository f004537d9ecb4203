from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from attest_support import Lab, Recorder, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import policy
from attestation.errors import AttestationError, HandshakeError
from attestation.ratls import Identity, RatlsDialer, RatlsListener, RouterDialer, RouterListener, socks5
from attestation.ratls import frame as frames
from attestation.ratls.__main__ import parse_reverse, parse_socks, run
from attestation.ratls.router import Router
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.lab.tee import SyntheticTdx

NONE = frames.AttestationFrame(None, b"", b"", b"\x01" * 32, ("127.0.0.1", 50000), ("127.0.0.1", 11101))
SOME = frames.AttestationFrame(bytes(384), b"\x02" * 64, b"\x03" * 48, b"\x01" * 32, ("10.0.0.1", 1), ("10.0.0.2", 2))


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def _routers(lab: Lab, target: int) -> tuple[Router, Router, int, int]:
    """A worker's router with a SOCKS5 port and a gateway's with a reverse port."""
    verifiers = {"simulated": lab.verifier, "any": Verifier(policy.for_name("any"))}
    near = Router(await lab.identity(), verifiers, pow_difficulty=4)
    far = Router(await lab.identity(), verifiers, pow_difficulty=4)
    reverse = await far.reverse("simulated", ("127.0.0.1", target))
    socks = await near.socks5("simulated", passwords=True)
    return near, far, _port(socks), _port(reverse)


async def test_plain_programs_meet_through_two_routers(lab: Lab) -> None:
    made: list[Recorder] = []

    def accept() -> Recorder:
        made.append(Recorder(echo=True))
        return made[-1]

    service = await RouterListener().serve(accept, "127.0.0.1", 0)
    near, far, socks, reverse = await _routers(lab, _port(service))
    transport, protocol = await RouterDialer("127.0.0.1", socks).connect(Recorder, "localhost", reverse)
    assert isinstance(protocol, Recorder)
    data = bytes(range(256)) * 8192
    transport.write(data)
    assert await protocol.wait_for(len(data)) == data
    peer, back = transport.get_extra_info("peer"), made[0].transport.get_extra_info("peer")
    assert peer.image_hash == back.image_hash != bytes(32)
    assert peer.verdict is None
    assert len(peer.public_key) == 32
    assert back.source.startswith("127.0.0.1:")
    transport.close()
    await made[0].lost.wait()
    await near.close()
    await far.close()
    service.close()


async def test_our_own_dialer_and_listener_meet_routers(lab: Lab) -> None:
    service = await RouterListener().serve(lambda: Recorder(echo=True), "127.0.0.1", 0)
    near, far, socks, reverse = await _routers(lab, _port(service))
    direct = await RatlsListener(await lab.identity(), lab.verifier, 4).serve(
        lambda: Recorder(echo=True), "127.0.0.1", 0
    )
    first, one = await RatlsDialer(await lab.identity(), lab.verifier).connect(Recorder, "127.0.0.1", reverse)
    second, two = await RouterDialer("127.0.0.1", socks).connect(Recorder, "127.0.0.1", _port(direct))
    for transport, protocol in ((first, one), (second, two)):
        assert isinstance(protocol, Recorder)
        transport.write(b"ping")
        assert await protocol.wait_for(4) == b"ping"
        transport.abort()
    await near.close()
    await far.close()
    direct.close()
    service.close()


async def test_a_router_closes_without_a_reply_when_the_peer_is_refused(lab: Lab) -> None:
    service = await RouterListener().serve(Recorder, "127.0.0.1", 0)
    near, far, socks, _ = await _routers(lab, _port(service))
    bare = RatlsListener(await Identity.create(None), Verifier(policy.for_name("any")), 0)
    stranger = await bare.serve(Recorder, "127.0.0.1", 0)
    dialer = RouterDialer("127.0.0.1", socks)
    with pytest.raises(HandshakeError, match="could not reach or verify"):
        await dialer.connect(Recorder, "127.0.0.1", _port(stranger))
    reader, writer = await asyncio.open_connection("127.0.0.1", socks)  # control: the user name selects policy "any"
    writer.write(b"\x05\x02\x00\x02")
    assert await reader.readexactly(2) == b"\x05\x02"
    writer.write(b"\x01\x03any\x01x")
    assert await reader.readexactly(2) == b"\x01\x00"
    writer.write(socks5.connect_request("127.0.0.1", _port(stranger)))
    assert (await reader.readexactly(10)).startswith(socks5.REPLY_PREFIX)
    length = frames.frame_length(await reader.readexactly(4))
    assert frames.decode_frame(await reader.readexactly(length)).peer.image_hash == bytes(32)
    writer.close()
    await near.close()
    await far.close()
    stranger.close()
    service.close()


async def test_router_and_target_out_of_reach(lab: Lab) -> None:
    gone = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = _port(gone)
    gone.close()
    await gone.wait_closed()
    with pytest.raises(HandshakeError, match="cannot reach the router"):
        await RouterDialer("127.0.0.1", port).connect(Recorder, "127.0.0.1", 1)
    near, far, socks, _ = await _routers(lab, port)
    with pytest.raises(HandshakeError, match="router closed"):
        await RouterDialer("127.0.0.1", socks).connect(Recorder, "127.0.0.1", port)
    await near.close()
    await far.close()


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\x04\x00", "SOCKS5 greeting"),
        (b"\x05\xff", "SOCKS5 greeting"),
        (b"\x05\x00\x05\x05\x00\x01" + bytes(6), "connection refused"),
        (b"\x05\x00" + socks5.success_reply("127.0.0.1", 9) + b"\xff\xff\xff\xff", "at most 16536"),
        (b"\x05\x00" + socks5.success_reply("127.0.0.1", 9) + b"\x04\x00\x00\x00\x07\x00\x00\x00", "flag 7"),
    ],
)
async def test_a_router_that_misbehaves(sent: bytes, message: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    with pytest.raises(HandshakeError, match=message):
        await RouterDialer("127.0.0.1", _port(server), timeout=5).connect(Recorder, "127.0.0.1", 9)
    server.close()
    await settle()


async def test_a_silent_router_ends_in_a_time_limit() -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    with pytest.raises(HandshakeError, match=r"within 0\.1 s"):
        await RouterDialer("127.0.0.1", _port(server), timeout=0.1).connect(Recorder, "127.0.0.1", 9)
    made: list[Recorder] = []
    service = await RouterListener(timeout=0.1).serve(lambda: made.append(Recorder()) or made[-1], "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(service))
    assert await reader.read() == b""
    assert not made
    writer.close()
    server.close()
    service.close()
    await settle()


async def test_a_listener_behind_a_router_reads_the_frame_in_any_pieces() -> None:
    made: list[Recorder] = []
    service = await RouterListener().serve(lambda: made.append(Recorder()) or made[-1], "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", _port(service))
    for byte in SOME.encode() + b"hello":
        writer.write(bytes([byte]))
        await writer.drain()
    writer.close()
    await settle()
    await made[0].lost.wait()
    assert made[0].received == b"hello"
    assert made[0].transport.get_extra_info("peer") == SOME.peer
    service.close()


@pytest.mark.parametrize("frame", [NONE, SOME])
def test_frames_survive_a_round_trip(frame: frames.AttestationFrame) -> None:
    data = frame.encode()
    assert frames.frame_length(data[:4]) == len(data) - 4
    again = frames.decode_frame(data[4:])
    assert again.encode() == data
    assert again.peer == frame.peer


def test_frames_of_the_reference(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["attested_peer_info"]
    for name in ("none", "fake_tdx", "quote_dat"):
        data = bytes.fromhex(vectors[name]["frame_hex"])
        frame = frames.decode_frame(data[4:])
        assert frame.peer.image_hash.hex() == vectors[name]["image_hash"]
        assert frame.peer.public_key is not None
        assert frame.peer.public_key.hex() == vectors["public_key_hex"]
        assert frame.encode() == data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (SOME.encode()[4:] + b"\0", "trailing"),
        (SOME.encode()[4:-1], "ends inside"),
        (b"\x01\0\0\0\x01\0\0\0" + SOME.encode()[12:], "kind SGX"),
        (b"\x01\0\0\0\x09\0\0\0" + SOME.encode()[12:], "kind 9"),
        (b"\x02\0\0\0" + SOME.encode()[8:], "flag 2"),
        (bytes(52) + b"\x41" + bytes(67), "65 bytes"),
        (NONE.encode()[4:-8] + b"\x01\x00\x00\x07" + bytes(4), "padding"),
    ],
)
def test_bad_frames_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(HandshakeError, match=message):
        frames.decode_frame(body)


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_no_bytes_break_the_frame_parser(data: bytes) -> None:
    for body in (data, bytes(4) + data, b"\x01\0\0\0\0\0\0\0" + data):
        try:
            frame = frames.decode_frame(body)
        except HandshakeError:
            continue
        assert frame.encode()[4:] == body


@settings(deadline=None)
@given(st.binary(max_size=64), st.lists(st.integers(1, 9), max_size=20), st.booleans())
def test_no_bytes_break_the_socks_server(data: bytes, cuts: list[int], passwords: bool) -> None:
    """And how the bytes are cut changes nothing."""

    def run(pieces: list[bytes]) -> tuple[bytes, tuple[str, int] | None, bool]:
        server = socks5.SocksServer(passwords)
        out = b""
        try:
            for piece in pieces:
                out += server.feed(piece)
        except HandshakeError:
            return b"", None, True
        return out, server.target, False

    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces = [piece for piece in (*pieces, rest) if piece]
    assert run(pieces) == run([data] if data else [])


def test_socks_bytes_of_the_reference(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["socks5"]
    assert vectors["greeting"] == socks5.GREETING.hex()
    assert vectors["greeting_reply"] == socks5.GREETING_REPLY.hex()
    assert vectors["connect"] == socks5.connect_request("203.0.113.7", 11001).hex()
    assert vectors["reply_prefix"] == socks5.REPLY_PREFIX.hex()
    assert vectors["reply_len"] == socks5.REPLY_SIZE
    server = socks5.SocksServer()
    sent = server.feed(bytes.fromhex(vectors["greeting"])) + server.feed(bytes.fromhex(vectors["connect"]))
    assert sent == bytes.fromhex(vectors["greeting_reply"])
    assert server.target == ("203.0.113.7", 11001)


@pytest.mark.parametrize(("host", "port"), [("::1", 1), ("example.org", 1), ("127.0.0.1", 0), ("127.0.0.1", 65536)])
def test_only_ipv4_addresses_go_through_socks(host: str, port: int) -> None:
    with pytest.raises(HandshakeError):
        socks5.connect_request(host, port)


def test_the_programs_ports() -> None:
    assert parse_socks("8116@tdx") == (8116, "tdx")
    assert parse_reverse("11001:localhost:11101@any") == (11001, ("localhost", 11101), "any")
    for parse, text in (
        (parse_socks, "8116"),
        (parse_socks, "x@tdx"),
        (parse_reverse, "1:2@any"),
        (parse_reverse, "1:h:2"),
    ):
        with pytest.raises(AttestationError):
            parse(text)


async def test_the_router_as_a_program(tmp_path: Path, world: SyntheticTdx) -> None:
    """Two of them, one in front of a listener: what an operator would start."""
    root = tmp_path / "root.der"
    root.write_bytes(world.root_der)
    service = await RouterListener().serve(lambda: Recorder(echo=True), "127.0.0.1", 0)
    reserved = [await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0) for _ in range(2)]
    socks, reverse = (_port(server) for server in reserved)
    for server in reserved:
        server.close()
    options = argparse.Namespace(
        socks5=[f"{socks}@fake_tdx"],
        reverse=[f"{reverse}:127.0.0.1:{_port(service)}@fake_tdx"],
        platform="fake_tdx",
        quote_source=None,
        collateral=None,
        simulated_root=[root],
        difficulty=2,
        max_difficulty=8,
        listen="127.0.0.1",
    )
    running = asyncio.ensure_future(run(options))
    dialer = RouterDialer("127.0.0.1", socks)
    async with asyncio.timeout(20):
        while True:
            try:
                transport, protocol = await dialer.connect(Recorder, "127.0.0.1", reverse)
                break
            except HandshakeError:
                await asyncio.sleep(0.02)
    assert isinstance(protocol, Recorder)
    transport.write(b"through one program twice")
    assert await protocol.wait_for(25) == b"through one program twice"
    transport.close()
    await protocol.lost.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    service.close()
    await settle()
