"""How far a boot is: told by the status port, by the console before it, and bounded where either is hostile."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.host.errors import LaunchError, NotReadyError
from appliance.host.kept import keep, spawn
from appliance.host.machine import STATUS_PORT
from appliance.host.readiness import (
    MAX_ANSWER_BYTES,
    Stage,
    console_stages,
    get_json,
    look,
    parse_stages,
    until_stages,
)
from appliance.host.record import Kept, Record, write_record
from appliance.host.running import RunningVm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

CONSOLE = (
    "\x1b[2JBdsDxe: starting\r\n"
    "chrysalis: stage configuration running\r\n"
    "chrysalis: stage configuration done 0.3 s\r\n"
    "[   20.1] something of the kernel's\r\n"
    "chrysalis: stage clock running waits for the network\r\n"
)


class Guest:
    """What a guest's status port would say, over TLS with a certificate of nobody's."""

    def __init__(self, directory: Path) -> None:
        self.answer: bytes | None = None
        self.status = "200 OK"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guest")])
        now = datetime.datetime.now(datetime.UTC)
        # As an RA-TLS certificate does: a critical extension that no library knows.
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"evidence")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(unknown, critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / "guest.pem").write_bytes(certificate.public_bytes(pem) + private)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory / "guest.pem")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self.answer is not None:
            head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.answer)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + self.answer)
        writer.close()


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[tuple[Guest, int]]:
    found = Guest(tmp_path)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=found.context)
    async with server:
        yield found, server.sockets[0].getsockname()[1]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[int], RunningVm]]:
    """A machine whose QEMU is a process that sleeps."""
    made = []

    def make(port: int) -> RunningVm:
        command = [sys.executable, "-c", "import time; time.sleep(300)"]
        identity = keep(spawn(command, directory=tmp_path, log=tmp_path / "log"))
        made.append(identity)
        record = Record(
            name="vm", image="/image", manifest="", boot="disk", accel="tcg", accel_reason="asked for",
            protection="none", launched=0.0, forwards={STATUS_PORT: port}, commands=(), qemu=Kept.of(identity),
            swtpm=None,
        )  # fmt: skip
        write_record(tmp_path, record)
        return RunningVm(tmp_path, record)

    yield make
    for identity in made:
        identity.end(5.0)


def stages(**states: str) -> bytes:
    listed = [{"name": name, "state": state, "since": 1.0, "seconds": 2.0} for name, state in states.items()]
    return json.dumps({"stages": listed}).encode()


def test_the_console_tells_the_last_state_of_each_stage() -> None:
    assert console_stages(CONSOLE) == (
        Stage(name="configuration", state="done", reason="0.3 s"),
        Stage(name="clock", state="running", reason="waits for the network"),
    )
    assert console_stages("chrysalis: stage clock dancing") == ()


@given(st.text())
def test_any_console_is_read(text: str) -> None:
    console_stages(text + "chrysalis: stage " + text)


@pytest.mark.parametrize(
    "value",
    [None, 1, "x", {}, {"stages": {}}, [1], [{"name": "a"}], [{"name": "a", "state": "gone"}], [{"state": "done"}] * 65,
     [{"name": "a" * 65, "state": "done"}], [{"name": "a", "state": "done", "reason": "x" * 5000}]],
)  # fmt: skip
def test_what_are_no_stages_is_refused(value: Any) -> None:
    assert parse_stages([{"name": "a", "state": "done", "more": 1}]) == (Stage(name="a", state="done"),)  # control
    with pytest.raises(NotReadyError):
        parse_stages(value)


async def test_the_status_port_is_read_whatever_its_certificate_says(guest: tuple[Guest, int]) -> None:
    served, port = guest
    served.answer = stages(configuration="done")
    value = await asyncio.to_thread(get_json, port, "/v1/stages")
    assert parse_stages(value)[0].name == "configuration"


@pytest.mark.parametrize("answer", [b"", b"{", b"[" * 100_000, b" " * (MAX_ANSWER_BYTES + 1)])
async def test_a_hostile_answer_is_a_named_error(guest: tuple[Guest, int], answer: bytes) -> None:
    served, port = guest
    served.answer = answer
    with pytest.raises(NotReadyError):
        await asyncio.to_thread(get_json, port, "/v1/stages")


async def test_other_statuses_and_silence_are_named_errors(guest: tuple[Guest, int]) -> None:
    served, port = guest
    with pytest.raises(NotReadyError, match="does not answer"):
        await asyncio.to_thread(get_json, port, "/v1/stages")
    served.status, served.answer = "503 No", b"[]"
    with pytest.raises(NotReadyError, match="status 503: no reason given"):
        await asyncio.to_thread(get_json, port, "/v1/stages")
    served.answer = json.dumps({"error": "no key\x1b[2J yet", "hint": "see /v1/stages"}).encode()
    with pytest.raises(NotReadyError, match="status 503: no key yet") as caught:
        await asyncio.to_thread(get_json, port, "/v1/attestation")
    assert caught.value.hint == "see /v1/stages"


async def test_a_boot_is_followed_to_its_end(
    guest: tuple[Guest, int], running: Callable[[int], RunningVm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.host.readiness.POLL_S", 0.02)
    served, port = guest
    vm = running(port)
    vm.console.write_text(CONSOLE)
    told: list[tuple[str, str]] = []

    def report(stage: Stage) -> None:
        told.append((stage.name, stage.state))
        if told[-1] == ("clock", "running"):  # the console said so; from here on the port answers
            served.answer = stages(configuration="done", clock="done", gpu="running")
        elif told[-1] == ("gpu", "running"):
            served.answer = stages(configuration="done", clock="done", gpu="skipped")

    found = await until_stages(vm, seconds=30, report=report)
    assert [stage.state for stage in found] == ["done", "done", "skipped"]
    assert told == [
        ("configuration", "done"),
        ("clock", "running"),
        ("clock", "done"),
        ("gpu", "running"),
        ("gpu", "skipped"),
    ]


async def test_one_stage_can_be_waited_for_by_the_console_alone(running: Callable[[int], RunningVm]) -> None:
    vm = running(1)  # nobody answers there
    vm.console.write_text(CONSOLE)
    found = await until_stages(vm, until="configuration", seconds=30)
    assert found[0].state == "done"


async def test_a_failed_stage_is_told_with_its_reason(
    guest: tuple[Guest, int], running: Callable[[int], RunningVm]
) -> None:
    served, port = guest
    listed = [{"name": "gpu", "state": "failed", "reason": "no device", "hint": "attach one"}]
    served.answer = json.dumps(listed).encode()
    with pytest.raises(NotReadyError, match="stage gpu failed: no device") as caught:
        await until_stages(running(port), seconds=30)
    assert caught.value.hint == "attach one"


async def test_a_machine_that_ended_tells_its_last_words(running: Callable[[int], RunningVm]) -> None:
    vm = running(1)
    vm.console.write_text("Kernel panic - not syncing: no root\n")
    vm.record.qemu.identity.end(5.0)
    with pytest.raises(LaunchError, match="Kernel panic"):
        await until_stages(vm, seconds=30)


async def test_a_firmware_that_finds_nothing_to_boot_is_told_at_once(running: Callable[[int], RunningVm]) -> None:
    vm = running(1)
    vm.console.write_text("\x1b[2JUEFI Interactive Shell v2.2\r\nEDK II\r\n\x1b[1mShell>")
    with pytest.raises(NotReadyError, match="found nothing to boot"):
        await until_stages(vm, seconds=30)
    vm.console.write_text("UEFI Interactive Shell v2.2\r\n" + CONSOLE)  # control: a guest that says so later
    await until_stages(vm, until="configuration", seconds=30)


async def test_waiting_ends(running: Callable[[int], RunningVm]) -> None:
    vm = running(1)
    vm.console.write_text(CONSOLE)
    with pytest.raises(NotReadyError, match="not ready after 0 s; it is at clock"):
        await until_stages(vm, seconds=0)
    assert look(vm)[1] == "console"
