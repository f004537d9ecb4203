"""Software TPMs for tests: a real swtpm, booted as an image would boot it, with the log that its firmware would leave.

Other rooms' tests use it too. A machine without swtpm fails these tests; ``CHRYSALIS_WITHOUT_VM=1`` asks to skip them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from attestation import policy
from attestation.platforms import Tpm
from attestation.tpm.evidence import TpmEvidence, parse_evidence
from attestation.tpm.logs import LogFiles
from attestation.tpm.references import TpmReference
from attestation.verifier import Verifier
from measurements import tpm as predictor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from appliance.lab.tpm_world import TpmWorld
    from measurements.tpm import TpmPrediction

PROGRAMS = ("swtpm", "swtpm_setup", "tpm2_quote")
MEASURED = bytes(range(32))
"""Digest of the measured configuration of the machines made here."""

DER = serialization.Encoding.DER
_START_S = 20.0


def require_programs() -> None:
    """Fail where the programs are missing, or skip if that was asked for."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("CHRYSALIS_WITHOUT_VM") == "1":
        pytest.skip(f"without {', '.join(missing)}, as CHRYSALIS_WITHOUT_VM=1 asks")
    if missing:
        pytest.fail(f"{', '.join(missing)} not installed: install swtpm, swtpm-tools and tpm2-tools")


def tcg2_log(events: Iterable[tuple[int, int, bytes, bytes]], *, header: bytes | None = None) -> bytes:
    """A log of one SHA-256 bank: register, type, digest, data."""
    specification = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HHB", 0xB, 32, 0)
    content = header if header is not None else specification
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(content)) + content
    for register, kind, digest, data in events:
        log += struct.pack("<IIIH", register, kind, 1, 0xB) + digest + struct.pack("<I", len(data)) + data
    return log


@dataclass
class SoftwareTpm:
    """A running swtpm.

    Attributes:
        directory: State, socket and logs.
        firmware: Events that firmware would have logged so far.
    """

    directory: Path
    process: subprocess.Popen[bytes]
    firmware: list[tuple[int, int, bytes, bytes]] = field(default_factory=list)

    @property
    def tcti(self) -> str:
        """As tpm2-tools take it."""
        return f"swtpm:path={self.directory / 'tpm.sock'}"

    @property
    def files(self) -> LogFiles:
        """Where this machine's logs are."""
        folder = self.directory
        return LogFiles(
            firmware=folder / "firmware.log",
            systemd=folder / "systemd.log",
            kernel=folder / "kernel.log",
            own=folder / "own.jsonl",
        )

    def tool(self, *command: str | Path, check: bool = True) -> bytes:
        """Run one of tpm2-tools on it."""
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "TPM2TOOLS_TCTI": self.tcti, "TSS2_LOG": "all+none"},
            capture_output=True,
            cwd=self.directory,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stderr.decode()}")
        return done.stdout

    def extend(self, register: int, digest: bytes) -> None:
        """Extend a register and log nothing."""
        self.tool("tpm2_pcrextend", f"{register}:sha256={digest.hex()}")

    def measure(self, register: int, kind: int, digest: bytes, data: bytes = b"") -> None:
        """Extend a register and log it as firmware does."""
        self.extend(register, digest)
        self.firmware.append((register, kind, digest, data))
        self.files.firmware.write_bytes(tcg2_log(self.firmware))

    def boot(self, prediction: TpmPrediction, measured: bytes = MEASURED) -> None:
        """Measure what a machine measures that boots an image: firmware, then systemd's phases, then the guest.

        All of it is extended in one go, so that a test waits for one program.
        """
        words: list[str] = []
        phases = [f"phase {phase}" for phase in prediction.phases]
        separator = hashlib.sha256(bytes(4)).digest()
        firmware = [
            (0, 8, b"\x11" * 32, b"firmware"),
            (2, 4, separator, bytes(4)),
            (7, 0x80000001, b"\x77" * 32, b"SecureBoot"),
        ]
        lines = b""
        for register, events in prediction.events.items():
            for event in events:
                if event.name in phases:
                    text = event.name.removeprefix("phase ")
                    lines += (
                        b'\x1e{"pcr":%d,"digests":[{"hashAlg":"sha256","digest":"%s"}],"content_type":"systemd",'
                        b'"content":{"string":"%s","eventType":"phase"}}\n'
                        % (register, event.digest.hex().encode(), text.encode())
                    )
                else:
                    firmware.append((register, 0xD, event.digest, event.name.encode()))
                words.append(f"{register}:sha256={event.digest.hex()}")
        words[:0] = [f"{register}:sha256={digest.hex()}" for register, _, digest, _ in firmware[:3]]
        configuration = predictor.configuration_digest(measured)
        words.append(f"14:sha256={configuration.hex()}")
        self.tool("tpm2_pcrextend", *words)
        self.firmware = firmware
        self.files.firmware.write_bytes(tcg2_log(firmware))
        self.files.systemd.write_bytes(lines)
        self.files.own.write_text(
            f'{{"pcr": 14, "sha256": "{configuration.hex()}", "text": "measured configuration"}}\n'
        )

    def restart(self) -> None:
        """Power it off and on, as a reset of its machine does."""
        self.stop()
        self.process = _start(self.directory)
        self.firmware = []

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


@dataclass(frozen=True)
class Made:
    """A machine and what it showed for ``report_data``."""

    world: TpmWorld
    tpm: SoftwareTpm
    prediction: TpmPrediction
    report_data: bytes
    certificate_form: bytes
    fresh_form: bytes

    @property
    def evidence(self) -> TpmEvidence:
        return parse_evidence(self.fresh_form)


@contextlib.contextmanager
def software_tpm(world: TpmWorld | None) -> Iterator[SoftwareTpm]:
    """A manufactured, started TPM; without a world it has no endorsement certificate.

    Its sockets need a short path, so it lives in a directory of its own under the system's.
    """
    require_programs()
    with tempfile.TemporaryDirectory(prefix="swtpm-") as name:
        directory = Path(name)
        if world is not None:
            world.prepare_swtpm(directory)
        machine = SoftwareTpm(directory, _start(directory))
        try:
            yield machine
        finally:
            machine.stop()


def _start(directory: Path) -> subprocess.Popen[bytes]:
    for stale in (directory / "tpm.sock", directory / "tpm.sock.ctrl"):
        stale.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}"),
            *("--server", f"type=unixio,path={directory / 'tpm.sock'}"),
            *("--ctrl", f"type=unixio,path={directory / 'tpm.sock.ctrl'}"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ends = time.monotonic() + _START_S
    while not (directory / "tpm.sock").exists():
        if process.poll() is not None or time.monotonic() > ends:
            raise AssertionError(f"swtpm did not start (status {process.poll()})")
        time.sleep(0.01)
    return process


@contextlib.asynccontextmanager
async def platform(world: TpmWorld, machine: SoftwareTpm) -> AsyncIterator[Tpm]:
    """The production platform on a software TPM, with the world's authority at hand."""
    async with world.serve() as port:
        yield Tpm(
            machine.tcti,
            machine.directory / "keys",
            f"http://127.0.0.1:{port}",
            snapshot=machine.directory / "snapshot.cbor",
            files=machine.files,
        )


def reference(prediction: TpmPrediction, measured: bytes | None = MEASURED, name: str = "release 1") -> TpmReference:
    """What a verifier expects of an image and, if given, a configuration."""
    more = {} if measured is None else {14: predictor.configuration_register(measured)}
    return TpmReference(name, {**prediction.registers, **more})


def verifier(world: TpmWorld, *references: TpmReference, now: float | None = None) -> Verifier:
    """A verifier that trusts the world's TPMs alone."""
    chosen = policy.for_name("simulated", tpm_roots=world.roots, tpm_references=references)
    return Verifier(chosen, None, clock=time.time if now is None else lambda: now)


def values(registers: Mapping[int, bytes]) -> dict[int, str]:
    """Registers as hex, which tests compare more readably."""
    return {register: value.hex() for register, value in registers.items()}
