from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import uvloop
from attest_support import Lab, Recorder, settle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from attestation import policy
from attestation.certificate import build_certificate
from attestation.claims import certificate_report_data
from attestation.errors import HandshakeError, RefusedError
from attestation.platforms import FakeTdx
from attestation.ratls import Identity, RatlsDialer, RatlsListener, open_pool
from attestation.ratls import pow as proof
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attestation.verdict import Verdict


class Served:
    """A listener on loopback and the protocols it made."""

    def __init__(self) -> None:
        self.protocols: list[Recorder] = []
        self._arrived = asyncio.Event()

    async def first(self) -> Recorder:
        await self._arrived.wait()
        return self.protocols[0]

    def factory(self) -> Recorder:
        protocol = Recorder(echo=True)
        self.protocols.append(protocol)
        self._arrived.set()
        return protocol

    async def start(self, listener: RatlsListener) -> int:
        self.server = await listener.serve(self.factory, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])


async def _pair(lab: Lab, *, difficulty: int = 4) -> tuple[Served, int, RatlsDialer]:
    served = Served()
    port = await served.start(RatlsListener(await lab.identity(), lab.verifier, difficulty))
    return served, port, RatlsDialer(await lab.identity(), lab.verifier)


async def test_both_sides_know_a_verified_peer_and_data_flows(lab: Lab) -> None:
    served, port, dialer = await _pair(lab)
    transport, protocol = await dialer.connect(Recorder, "127.0.0.1", port)
    assert isinstance(protocol, Recorder)
    transport.write(b"hello ")
    transport.writelines([b"wor", bytearray(b"ld")])
    assert await protocol.wait_for(11) == b"hello world"
    mine, theirs = transport.get_extra_info("peer"), served.protocols[0].transport.get_extra_info("peer")
    assert mine.verdict.accepted
    assert mine.verdict.explain()[0].startswith("no assurance")
    assert mine.image_hash == theirs.image_hash != bytes(32)
    assert mine.public_key != theirs.public_key
    assert transport.get_extra_info("cipher") in {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}
    transport.close()
    await served.protocols[0].lost.wait()
    await protocol.lost.wait()
    served.server.close()


async def test_a_large_transfer_pauses_the_writer_and_arrives_whole(lab: Lab) -> None:
    served, port, dialer = await _pair(lab)
    transport, protocol = await dialer.connect(Recorder, "127.0.0.1", port)
    assert isinstance(protocol, Recorder)
    await asyncio.sleep(0)
    far = await served.first()
    await far.made.wait()
    far.echo = False
    far.transport.pause_reading()
    data = bytes(range(256)) * 32768
    transport.write(data)
    transport.write(b"end")
    await asyncio.sleep(0)
    assert protocol.paused == 1
    assert transport.get_write_buffer_size() > 0
    far.transport.resume_reading()
    assert await far.wait_for(len(data) + 3) == data + b"end"
    await protocol.until_resumed.wait()
    transport.close()
    await protocol.lost.wait()
    served.server.close()


async def test_closing_sends_what_was_written(lab: Lab) -> None:
    served, port, dialer = await _pair(lab)
    transport, protocol = await dialer.connect(Recorder, "127.0.0.1", port)
    assert isinstance(protocol, Recorder)
    transport.write(b"last words")
    transport.close()
    transport.write(b"too late")
    await protocol.lost.wait()
    await (await served.first()).lost.wait()
    assert served.protocols[0].received == b"last words"
    served.server.close()


async def test_a_peer_without_evidence_never_reaches_the_application(lab: Lab) -> None:
    served, port, _ = await _pair(lab)
    bare = await Identity.create(None)
    _, protocol = await RatlsDialer(bare, lab.verifier).connect(Recorder, "127.0.0.1", port)
    assert isinstance(protocol, Recorder)
    protocol.transport.write(b"let me in")
    await protocol.lost.wait()
    assert not served.protocols
    served.server.close()


async def test_a_server_without_evidence_is_refused_before_a_byte_is_sent(lab: Lab) -> None:
    served = Served()
    accept_all = Verifier(policy.for_name("any"))
    port = await served.start(RatlsListener(await Identity.create(None), accept_all, 0))
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    with pytest.raises(RefusedError, match="quote is none") as caught:
        await RatlsDialer(await lab.identity(), lab.verifier).connect(factory, "127.0.0.1", port)
    assert caught.value.verdict.failed
    assert not made
    transport, _ = await RatlsDialer(await lab.identity(), accept_all).connect(factory, "127.0.0.1", port)  # control
    transport.abort()
    served.server.close()


async def test_fake_tdx_peers_meet(lab: Lab) -> None:
    served = Served()
    fake = Verifier(policy.for_name("fake_tdx"))
    port = await served.start(RatlsListener(await Identity.create(FakeTdx()), fake, 0))
    transport, _ = await RatlsDialer(await Identity.create(FakeTdx()), fake).connect(Recorder, "127.0.0.1", port)
    peer = transport.get_extra_info("peer")
    assert peer.image_hash.hex() == "5c55c8f4db4010ba9203d83536d0609856af8c847ac039e37e7dde8fbd574b61"
    assert peer.verdict.assurance == "none"
    transport.abort()
    with pytest.raises(RefusedError):
        await RatlsDialer(await lab.identity(), lab.verifier).connect(Recorder, "127.0.0.1", port)
    served.server.close()


@pytest.mark.parametrize(
    ("label", "alter"),
    [
        (
            "tls 1.2",
            lambda context: (context.set_min_proto_version(0), context.set_max_proto_version(SSL.TLS1_2_VERSION)),
        ),
        ("another suite", lambda context: context.set_tls13_ciphersuites(b"TLS_CHACHA20_POLY1305_SHA256")),
    ],
)
async def test_only_the_protocols_tls_is_spoken(lab: Lab, label: str, alter: Callable[[SSL.Context], object]) -> None:
    served, port, dialer = await _pair(lab)
    other = await lab.identity()
    alter(other.context)
    with pytest.raises(HandshakeError, match=r"TLS|closed"):
        await RatlsDialer(other, lab.verifier).connect(Recorder, "127.0.0.1", port)
    transport, _ = await dialer.connect(Recorder, "127.0.0.1", port)  # control
    transport.abort()
    served.server.close()


async def test_too_hard_a_challenge_and_a_slow_peer_end_the_attempt(lab: Lab) -> None:
    served, port, _ = await _pair(lab, difficulty=40)
    identity = await lab.identity()
    with pytest.raises(HandshakeError, match="difficulty 40"):
        await RatlsDialer(identity, lab.verifier).connect(Recorder, "127.0.0.1", port)
    with pytest.raises(HandshakeError, match=r"within 0\.05 s"):
        await RatlsDialer(identity, lab.verifier, 50, timeout=0.05).connect(Recorder, "127.0.0.1", port)
    served.server.close()


async def test_work_is_done_in_a_pool(lab: Lab) -> None:
    served, port, _ = await _pair(lab, difficulty=14)
    with open_pool() as pool:
        dialer = RatlsDialer(await lab.identity(), lab.verifier, 20, pool)
        transport, _ = await dialer.connect(Recorder, "127.0.0.1", port)
        transport.abort()
    served.server.close()


async def test_a_listener_bounds_handshakes(lab: Lab) -> None:
    served = Served()
    port = await served.start(RatlsListener(await lab.identity(), lab.verifier, 0, max_handshakes=1, timeout=1.0))
    stuck, hanging = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.05)
    dialer = RatlsDialer(await lab.identity(), lab.verifier)
    with pytest.raises(HandshakeError, match="closed"):
        await dialer.connect(Recorder, "127.0.0.1", port)
    await stuck.read()  # to its end: the listener closes it once its time is over, which makes room
    transport, _ = await dialer.connect(Recorder, "127.0.0.1", port)
    transport.abort()
    hanging.close()
    served.server.close()


async def test_refresh_keeps_the_key_and_replaces_the_certificate(lab: Lab) -> None:
    identity = await lab.identity()
    before, key = identity.certificate, identity.public_key
    await identity.refresh(bundle_digest=b"\x07" * 32)
    assert identity.certificate != before
    assert identity.public_key == key
    verdict = await lab.verifier.verify_certificate(identity.certificate)
    assert verdict.accepted


async def test_the_certificate_is_kept_fresh(lab: Lab) -> None:
    identity = await lab.identity()
    before = identity.certificate
    keeping = asyncio.ensure_future(identity.keep_fresh(interval=0.01))
    async with asyncio.timeout(20):
        while identity.certificate == before:  # noqa: ASYNC110 - the certificate has no event to wait for
            await asyncio.sleep(0.01)
    keeping.cancel()


def test_it_works_under_another_event_loop() -> None:
    async def meet() -> bytes:
        fake = Verifier(policy.for_name("fake_tdx"))
        served = Served()
        port = await served.start(RatlsListener(await Identity.create(FakeTdx()), fake, 2))
        transport, protocol = await RatlsDialer(await Identity.create(FakeTdx()), fake).connect(
            Recorder, "127.0.0.1", port
        )
        assert isinstance(protocol, Recorder)
        transport.write(b"x" * 300_000)
        received = await protocol.wait_for(300_000)
        transport.close()
        await protocol.lost.wait()
        await (await served.first()).lost.wait()
        served.server.close()
        return received

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(meet()) == b"x" * 300_000


async def _stream(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Connect with the standard library: proof of work by hand, then its TLS."""

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        challenge = proof.Challenge.decode(plain.recv(proof.CHALLENGE_SIZE, socket.MSG_WAITALL), max_difficulty=8)
        nonce = proof.search(challenge.salt, challenge.difficulty, 0, 1 << 16)
        assert nonce is not None
        plain.sendall(proof.encode_solution(nonce))
        return context.wrap_socket(plain)

    return await asyncio.to_thread(connect)


async def test_another_tls_stack_meets_our_listener(tmp_path: Path) -> None:
    """The standard library's TLS, which shares no code with ours but OpenSSL itself."""
    fake = Verifier(policy.for_name("fake_tdx"))
    served = Served()
    port = await served.start(RatlsListener(await Identity.create(FakeTdx()), fake, 6))
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()

    def context(quote: bytes) -> ssl.SSLContext:
        der = build_certificate(key, quote, now=time.time() - 60)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        file = tmp_path / "pair.pem"
        file.write_text(pem + ssl.DER_cert_to_PEM_cert(der))
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        made.load_cert_chain(file)
        return made

    good = await _stream(port, context(certificate_report_data(public)))
    assert good.version() == "TLSv1.3"
    await asyncio.to_thread(good.sendall, b"hello")
    assert await asyncio.to_thread(good.recv, 5) == b"hello"
    assert (await served.first()).transport.get_extra_info("peer").public_key == public
    good.close()
    bad = await _stream(port, context(bytes(64)))
    assert await asyncio.to_thread(_read_end, bad) == b""
    bad.close()
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    bare = await _stream(port, nobody)  # its handshake ends before the listener misses the certificate
    assert await asyncio.to_thread(_read_end, bare) == b""
    bare.close()
    assert len(served.protocols) == 1
    served.server.close()
    await settle()


@pytest.mark.parametrize("wrong", ["nonce", "magic", "tls first", "too much"])
async def test_no_tls_without_work(lab: Lab, wrong: str) -> None:
    served, port, _ = await _pair(lab, difficulty=12)
    for attack in (True, False):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        challenge = proof.Challenge.decode(await reader.readexactly(proof.CHALLENGE_SIZE), max_difficulty=12)
        nonce = proof.search(challenge.salt, challenge.difficulty, 0, 1 << 20)
        assert nonce is not None
        solution = proof.encode_solution(nonce)
        client = SSL.Connection((await lab.identity()).context, None)
        client.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            client.do_handshake()
        hello = client.bio_read(1 << 16)
        attacks = {
            "nonce": proof.encode_solution(next(i for i in range(9999) if not challenge.solved_by(i))) + hello,
            "magic": b"\0" + solution[1:] + hello,
            "tls first": hello,
            "too much": solution + b"\x16\x03\x01\x40\x00" + bytes(2 << 20),
        }
        writer.write(attacks[wrong] if attack else solution + hello)  # solution and hello in one piece are fine
        try:
            answer = await reader.read(3)
        except ConnectionError:
            answer = b""
        assert answer in ({b"", b"\x15\x03\x03"} if attack else {b"\x16\x03\x03"})
        writer.transport.abort()
    served.server.close()


def _read_end(stream: ssl.SSLSocket) -> bytes:
    try:
        return stream.recv(1)
    except (ConnectionError, ssl.SSLError):
        return b""


@pytest.mark.parametrize("honest", [True, False])
async def test_a_listener_tells_whom_it_refused(lab: Lab, honest: bool) -> None:
    refused: list[Verdict] = []
    told = asyncio.Event()

    def note(verdict: Verdict) -> None:
        refused.append(verdict)
        told.set()

    served = Served()
    port = await served.start(RatlsListener(await lab.identity(), lab.verifier, 0, on_refused=note))
    dialer = RatlsDialer(await lab.identity() if honest else await Identity.create(FakeTdx()), lab.verifier)
    transport, _ = await dialer.connect(Recorder, "127.0.0.1", port)
    if honest:
        await served.first()
    else:
        await told.wait()
        assert refused[0].failed
    assert len(refused) == (0 if honest else 1)
    transport.close()
    served.server.close()
