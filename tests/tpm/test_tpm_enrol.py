"""Enrolment with a real software TPM: what the authority certifies, and what it and the TPM refuse."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import tpm_support as support
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.lab.errors import LabError
from appliance.lab.tpm_ca import KEY_LIFE, MAX_SESSIONS, SESSION_S, AttestationCa, Authority
from appliance.lab.tpm_world import TpmWorld
from attestation.errors import AttestationError, CollectionError, EvidenceError
from attestation.platforms import tpm as platforms
from attestation.platforms.tpm import Tpm
from attestation.tpm.credential import make_credential
from attestation.tpm.enrol import MAX_BODY, AttestationAuthority
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.keys import parse_public
from attestation.tpm.tools import TpmTools

if TYPE_CHECKING:
    from pathlib import Path

AK_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"


@pytest.fixture(scope="module")
def machine(world: TpmWorld) -> Any:
    with support.software_tpm(world) as running:
        yield running


@pytest.fixture(scope="module")
def second(world: TpmWorld) -> Any:
    with support.software_tpm(world) as running:
        yield running


def tools(machine: support.SoftwareTpm) -> TpmTools:
    return TpmTools(machine.tcti, machine.directory / "tools")


def key_with(machine: support.SoftwareTpm, attributes: str, kind: str = "ecc256:ecdsa-sha256:null") -> bytes:
    """A primary key with other attributes; its TPM2B_PUBLIC."""
    machine.tool("tpm2_flushcontext", "-t")
    machine.tool("tpm2_createprimary", "-C", "n", "-G", kind, "-a", attributes, "-c", "other.ctx")
    machine.tool("tpm2_readpublic", "-c", "other.ctx", "-f", "tss", "-o", "other.pub")
    return (machine.directory / "other.pub").read_bytes()


def endorsement(machine: support.SoftwareTpm, index: str = "0x1c00002") -> bytes:
    return machine.tool("tpm2_nvread", index)


async def test_a_key_is_certified_and_named_after_its_machine(world: TpmWorld, machine: support.SoftwareTpm) -> None:
    async with support.platform(world, machine) as platform:
        await platform.prepare()
        evidence = parse_evidence(await platform.collect(bytes(64)))
    leaf = x509.load_der_x509_certificate(evidence.chain[0])
    assert leaf.public_key() == parse_public(evidence.key).key
    listed = machine.tool("tpm2_readpublic", "-c", machine.directory / "keys" / "attestation-key.ctx").decode()
    assert f"name: {parse_public(evidence.key).name.hex()}" in listed


@pytest.mark.parametrize("index", [0x01C00002, 0x01C00016], ids=["RSA 2048", "P-384"])
async def test_each_endorsement_key_will_do(
    world: TpmWorld, machine: support.SoftwareTpm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: int
) -> None:
    kinds = [key for key in platforms._ENDORSEMENT_KEYS if key.index == index]
    monkeypatch.setattr(platforms, "_ENDORSEMENT_KEYS", kinds)
    async with world.serve() as port:
        platform = Tpm(machine.tcti, tmp_path, f"http://127.0.0.1:{port}", files=machine.files)
        await platform.prepare()
    assert (tmp_path / platforms.CHAIN_FILE).exists()


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
async def test_endorsement_keys_that_are_made_when_needed(machine: support.SoftwareTpm, kind: str) -> None:
    """L-1 and L-2 of the profile, not persistent: the TPM opens what was made for their public part."""
    machine.tool("tpm2_flushcontext", "-t")
    machine.tool("tpm2_createek", "-G", kind, "-c", "ek.ctx", "-u", "ek.pub")
    machine.tool("tpm2_flushcontext", "-t")
    parent = parse_public((machine.directory / "ek.pub").read_bytes())
    context = machine.directory / "ak.ctx"
    public = parse_public(await tools(machine).make_attestation_key(context))
    credential = make_credential(parent.key, public.name, b"secret of this length")
    assert (
        await tools(machine).activate(context, kind, credential.to_file(), by_policy=True) == b"secret of this length"
    )


async def test_the_key_of_another_tpm_is_not_activated(
    world: TpmWorld, machine: support.SoftwareTpm, second: support.SoftwareTpm
) -> None:
    """With this machine's endorsement certificate and the other's attestation key, neither TPM opens the credential."""
    mine, theirs = machine.directory / "mine.ctx", second.directory / "theirs.ctx"
    own = await tools(machine).make_attestation_key(mine)
    foreign = await tools(second).make_attestation_key(theirs)
    session, credential = world.ca.enrol(endorsement(machine), own)
    secret = await tools(machine).activate(mine, 0x81010001, credential, by_policy=True)
    assert len(world.ca.activate(session, secret)) == 2
    _, credential = world.ca.enrol(endorsement(machine), foreign)
    for where, context in ((machine, mine), (second, theirs)):
        with pytest.raises(CollectionError, match="tpm2_activatecredential failed"):
            await tools(where).activate(context, 0x81010001, credential, by_policy=True)


async def test_an_exchange_ends_with_its_own_secret_and_once(world: TpmWorld, machine: support.SoftwareTpm) -> None:
    context = machine.directory / "ak.ctx"
    public = await tools(machine).make_attestation_key(context)
    first, credential = world.ca.enrol(endorsement(machine), public)
    other, _ = world.ca.enrol(endorsement(machine), public)
    secret = await tools(machine).activate(context, 0x81010001, credential, by_policy=True)
    with pytest.raises(EvidenceError, match="not the one in the credential"):
        world.ca.activate(other, secret)
    with pytest.raises(EvidenceError, match="no such enrolment"):
        world.ca.activate(other, secret)
    assert world.ca.activate(first, secret)
    with pytest.raises(EvidenceError, match="no such enrolment"):
        world.ca.activate(first, secret)


@pytest.mark.parametrize(
    ("attributes", "kind", "reason"),
    [
        (AK_ATTRIBUTES.replace("|restricted", ""), "ecc256:ecdsa-sha256:null", "not restricted"),
        ("fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt", "ecc256:aes128cfb", "not sign"),
        (AK_ATTRIBUTES.replace("fixedparent|", "").replace("fixedtpm|", ""), "ecc256:ecdsa-sha256:null", "not fixed"),
    ],
)
def test_keys_that_are_no_attestation_keys_are_refused(
    world: TpmWorld, machine: support.SoftwareTpm, attributes: str, kind: str, reason: str
) -> None:
    assert world.ca.enrol(endorsement(machine), key_with(machine, AK_ATTRIBUTES))
    with pytest.raises(EvidenceError, match=reason):
        world.ca.enrol(endorsement(machine), key_with(machine, attributes, kind))


def test_endorsement_certificates_of_strangers_are_refused(
    world: TpmWorld, machine: support.SoftwareTpm, tmp_path: Path
) -> None:
    public = key_with(machine, AK_ATTRIBUTES)
    stranger = TpmWorld(tmp_path)
    assert world.ca.enrol(endorsement(machine), public)
    with pytest.raises(EvidenceError, match="not issued by"):
        stranger.ca.enrol(endorsement(machine), public)
    with pytest.raises(EvidenceError, match="cannot be read"):
        world.ca.enrol(b"no certificate", public)
    forged = world.ca.certify(parse_public(public).key, bytes(32))
    with pytest.raises(EvidenceError):
        world.ca.enrol(forged, public)


def test_exchanges_are_bounded_and_forgotten(machine: support.SoftwareTpm) -> None:
    now = [time.time()]
    root = Authority("root", lambda: now[0])
    middle = Authority("Chrysalis lab endorsement authority", lambda: now[0], root)
    ca = AttestationCa(root, (middle.der,), lambda: now[0])
    key = rsa.generate_private_key(65537, 2048).public_key()
    own = x509.BasicConstraints(ca=False, path_length=None)
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    purpose = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")])
    name = x509.Name([])
    certificate = middle.issue(name, key, KEY_LIFE, own, usage, purpose).public_bytes(support.DER)
    public = key_with(machine, AK_ATTRIBUTES)
    for _ in range(MAX_SESSIONS):
        session, _ = ca.enrol(certificate, public)
    with pytest.raises(LabError, match="under way"):
        ca.enrol(certificate, public)
    now[0] += SESSION_S + 1
    with pytest.raises(EvidenceError, match="no such enrolment"):
        ca.activate(session, bytes(32))
    assert ca.enrol(certificate, public)


async def test_a_tpm_without_certificate_says_so(world: TpmWorld) -> None:
    with support.software_tpm(None) as bare:
        async with support.platform(world, bare) as platform:
            with pytest.raises(CollectionError, match="without an endorsement certificate"):
                await platform.prepare()


async def test_certificates_are_kept_shared_and_renewed(
    world: TpmWorld, machine: support.SoftwareTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]

    def service(name: str, url: str | None) -> Tpm:
        return Tpm(machine.tcti, tmp_path / name, url, files=machine.files, clock=lambda: now[0])

    async def shown(platform: Tpm) -> bytes:
        return parse_evidence(await platform.collect(bytes(64))).chain[0]

    async with world.serve() as port:
        url = f"http://127.0.0.1:{port}"
        first = service("first", url)
        certificate = await shown(first)
        assert await shown(first) == certificate
        assert await shown(service("first", None)) == certificate
        alone = service("second", None)
        with pytest.raises(CollectionError, match="without a certificate"):
            await alone.collect(bytes(64))
        monkeypatch.setattr(platforms, "SHARED_CHAIN", tmp_path / "first" / platforms.CHAIN_FILE)
        assert await shown(alone) == certificate
        now[0] += KEY_LIFE.total_seconds() * 0.7
        assert await shown(first) != certificate
        (tmp_path / "first" / platforms.CHAIN_FILE).write_bytes(b"damaged")
        assert await shown(service("third", url))


async def test_extensions_of_our_own_are_logged(world: TpmWorld) -> None:
    with support.software_tpm(world) as machine:
        async with support.platform(world, machine) as platform:
            before = await platform.registers()
            await platform.extend(14, bytes(32), "measured configuration")
            after = await platform.registers()
            evidence = parse_evidence(await platform.collect_with_logs(bytes(64)))
    assert {register for register in before if before[register] != after[register]} == {14}
    assert dict(enumerate(evidence.registers)) == after
    assert evidence.logs is not None
    assert [(event.register, event.text) for event in evidence.logs.system] == [(14, "measured configuration")]


async def test_programs_that_fail_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Tpm(f"swtpm:path={tmp_path / 'nowhere'}", tmp_path)
    with pytest.raises(CollectionError, match="tpm2_flushcontext failed") as caught:
        await nowhere.registers()
    assert "is there a TPM" in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CollectionError, match="does not start"):
        await nowhere.registers()
    sleeper = tmp_path / "tpm2_flushcontext"
    sleeper.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    sleeper.chmod(0o755)
    with pytest.raises(CollectionError, match="gave no answer"):
        await TpmTools("swtpm", tmp_path, timeout=0.2).registers((0,))
    with pytest.raises(LabError, match="does not start"):
        TpmWorld(tmp_path / "world").prepare_swtpm(tmp_path / "state")


def test_a_second_tpm_in_a_directory_is_refused(world: TpmWorld, machine: support.SoftwareTpm) -> None:
    with pytest.raises(LabError, match="swtpm_setup ended"):
        world.prepare_swtpm(machine.directory)


# The exchange over HTTP ---------------------------------------------------------------------------------------------


async def post(port: int, path: str, body: bytes) -> tuple[int, Any]:
    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", path, body=body)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    status, raw = await asyncio.to_thread(ask)
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ek_certificate": 1, "ak_public": 2}',
        b'{"ek_certificate": "!", "ak_public": ""}',
        b'{"ek_certificate": "AA==", "ak_public": "AA==", "more": ""}',
        b"[" * 5000,
    ],
)
async def test_requests_that_are_none_are_refused(world: TpmWorld, body: bytes) -> None:
    async with world.serve() as port:
        status, answer = await post(port, "/enrol", body)
        assert status == 403
        assert answer["error"]
        status, answer = await post(port, "/activate", body)
        assert status == 403
        status, _ = await post(port, "/enrol", b" " * (MAX_BODY + 1))
        assert status == 413
        with pytest.raises(LabError, match="cannot listen"):
            async with world.serve(port=port):
                pass


async def test_the_client_explains_what_goes_wrong(unused_tcp_port: int) -> None:
    with pytest.raises(CollectionError, match="expected an http"):
        AttestationAuthority("ftp://somewhere")
    closed = AttestationAuthority(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(CollectionError, match="does not answer /enrol"):
        await asyncio.to_thread(closed.enrol, b"", b"")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"no json", "no JSON object"),
        (200, b"[]", "no JSON object"),
        (200, b"{}", "without a session"),
        (200, b'{"session": "s"}', "credential that is not"),
        (200, b'{"session": "s", "credential": "!"}', "credential that is not"),
        (200, b'{"session": "' + b"s" * 200 + b'"}', "without a session"),
        (200, b" " * (MAX_BODY + 1), "no JSON object"),
        (403, b'{"error": "not you"}', "refuses: not you"),
        (500, b"{}", "refuses: status 500"),
    ],
)
async def test_answers_that_are_none_are_refused(status: int, body: bytes, message: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        authority = AttestationAuthority(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(CollectionError, match=message):
            await asyncio.to_thread(authority.enrol, b"certificate", b"key")


async def test_certificates_that_are_none_are_refused() -> None:
    """The second answer: of chains that are no chains, and of another key than the one that was asked about."""
    chains = [[], ["!"], ["AA=="] * 5, "text"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"certificates": chains.pop(0)}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        authority = AttestationAuthority(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        while chains:
            with pytest.raises(CollectionError, match="certificate"):
                await asyncio.to_thread(authority.activate, "s", b"secret")


def test_secrets_and_endorsement_keys_of_other_sizes_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert make_credential(key, bytes(34), bytes(32)).blob
    for length in (0, 33):
        with pytest.raises(EvidenceError, match="secret of"):
            make_credential(key, bytes(34), bytes(length))
    for odd in (
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        rsa.generate_private_key(65537, 2056).public_key(),
    ):
        with pytest.raises(AttestationError, match="endorsement key of"):
            make_credential(odd, bytes(34), bytes(32))
    assert base64.b64encode(make_credential(key, bytes(34), b"x").to_file()).startswith(b"utzA3g")
