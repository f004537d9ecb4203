"""What the vendor's own verifier says of the same evidence, where its command line tool ``nvattest`` is installed.

It never decides alone: it turns no refusal of ours into a verdict, and a disagreement is shown, and fails only where a
policy asks for agreement. The tool fetches its own manifests and revocation status, so it needs the vendor's services,
and it judges at the present time. Its output is bounded, read as JSON and believed as far as a second opinion goes.

Form: NVIDIA attestation SDK, ``nvattest attest`` with ``--gpu-evidence-source=file``; evidence as a JSON list of
``arch``, ``nonce``, ``evidence``, ``certificate`` and versions; result 0 is acceptance, 12 an appraisal that failed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from attestation.errors import EvidenceError
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.rim import vbios_version
from attestation.gpu.spdm import Opaque, parse_report
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.gpu.judge import DeviceJudgement

PROGRAM: Final = "nvattest"
MAX_OUTPUT: Final = 1024 * 1024
_DRAIN_S = 1.0
LIMIT_S: Final = 120.0
_ACCEPTED: Final = 0
_APPRAISAL_FAILED: Final = 12
_WORDS: Final = 200
_DEVICES: Final = {"gpu": "gpu", "switch": "nvswitch"}
_NEEDED: Final = ("nonce-match", "signature-verified", "parsed")

Stance = Literal["accepts", "refuses", "unavailable"]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the tool said.

    Attributes:
        stance: Whether it accepts the evidence, refuses it, or said nothing that could be understood.
        words: Its reason, cut.
    """

    stance: Stance
    words: str


async def ask(evidence: bytes, nonce: bytes, *, limit_s: float = LIMIT_S) -> Opinion:
    """Let the tool judge one device's evidence; its absence and its failures are opinions too, and nothing is raised.

    Args:
        evidence: :class:`attestation.gpu.evidence.DeviceEvidence`, encoded.
        nonce: What the device had to be asked with, 32 bytes.
        limit_s: Seconds that the tool has.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return Opinion("unavailable", f"{PROGRAM} is not installed")
    try:
        kind, record = _record(evidence, nonce)
    except EvidenceError as error:
        return Opinion("unavailable", f"not asked, since the evidence cannot be read: {error.message}")
    with tempfile.TemporaryDirectory(prefix="nvattest-") as place:
        path = Path(place) / "evidence.json"
        path.write_text(json.dumps([record]), encoding="ascii")
        device = _DEVICES[kind]
        try:
            async with asyncio.timeout(limit_s):
                output = await _run(
                    program,
                    *("--format", "json", "--log-level", "off", "attest", "--device", device, "--verifier", "local"),
                    *("--nonce", nonce.hex(), f"--{device}-evidence-source", "file"),
                    *(f"--{device}-evidence-file", str(path)),
                )
        except TimeoutError:
            return Opinion("unavailable", f"{PROGRAM} did not end within {limit_s:g} s")
        except OSError as error:
            return Opinion("unavailable", f"{PROGRAM} cannot be run: {error.strerror}")
    return read_output(output, nonce)


def read_output(output: bytes, nonce: bytes) -> Opinion:
    """Understand what the tool printed.

    Args:
        output: Its standard output.
        nonce: What it was asked about.
    """
    if len(output) > MAX_OUTPUT:
        return Opinion("unavailable", f"{PROGRAM} wrote more than {MAX_OUTPUT} bytes")
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return Opinion("unavailable", f"{PROGRAM} wrote {len(output)} bytes that are not JSON")
    if not isinstance(answer, dict) or not isinstance(answer.get("result_code"), int):
        return Opinion("unavailable", f"{PROGRAM} wrote JSON without a result")
    code, said = answer["result_code"], _cut(answer.get("result_message"))
    if code == _APPRAISAL_FAILED:
        return Opinion("refuses", f"result {code}, {said}")
    if code != _ACCEPTED:
        return Opinion("unavailable", f"result {code}, {said}")
    wrong = _wrong(answer.get("claims"), nonce)
    return Opinion("unavailable", f"result 0, but {wrong}") if wrong else Opinion("accepts", f"result 0, {said}")


def compare(judgement: DeviceJudgement, opinion: Opinion, *, required: bool = False) -> Check:
    """Our judgement beside the tool's, as a check.

    Args:
        judgement: What :func:`attestation.gpu.judge.judge_device` found.
        opinion: What the tool said.
        required: Whether a policy asks for agreement, so that silence and disagreement fail.
    """
    ours: Stance = "accepts" if judgement.claims is not None else "refuses"
    agrees = opinion.stance == ours
    asked = opinion.stance != "unavailable"
    return Check(
        "gpu second opinion",
        agrees or not required,
        f"{PROGRAM} {opinion.stance} ({opinion.words})" if asked else opinion.words,
        f"{PROGRAM} {ours}, as this verifier" if required or asked else "not checked: it was not to be had",
        "" if agrees else "two verifiers disagree or one is silent: look at versions, clocks and manifests of both",
        checked=required or agrees,
        why="A second verifier, written by others, would notice a fault in this one.",
    )


def _record(evidence: bytes, nonce: bytes) -> tuple[str, dict[str, str]]:
    shown = DeviceEvidence.parse(evidence)
    report = parse_report(shown.report)
    record = {
        "version": "1.0",
        "arch": shown.architecture.upper(),
        "nonce": nonce.hex(),
        "evidence": base64.b64encode(shown.report).decode(),
        "certificate": base64.b64encode(shown.chain).decode(),
        "vbios_version": vbios_version(report),
    }
    driver = report.text(Opaque.DRIVER_VERSION)
    return shown.kind, record | ({"driver_version": driver} if driver else {})


async def _run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # so that whatever it starts ends with it
    )
    output, stream = b"", process.stdout
    try:
        while stream is not None and len(output) <= MAX_OUTPUT and (part := await stream.read(65536)):
            output += part
        return output
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # What is still in the pipe: a reader that has paused never sees the end, and then the process has none either.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while stream is not None and await stream.read(65536):
                    pass
        await process.wait()


def _wrong(claims: Any, nonce: bytes) -> str:
    """What keeps the tool's claims from being an acceptance of this evidence, empty if nothing."""
    if not isinstance(claims, list) or len(claims) != 1 or not isinstance(claims[0], dict):
        return "its claims are not those of one device"
    device = claims[0]
    if device.get("measres") != "success":
        return f"its measurement result is {_cut(device.get('measres'))}"
    if str(device.get("eat_nonce", "")).lower() != nonce.hex():
        return "its claims carry another nonce"
    for needed in _NEEDED:
        found = [value for name, value in device.items() if name.endswith(f"-attestation-report-{needed}")]
        if found != [True]:
            return f"its claims do not say that the report's {needed.replace('-', ' ')} holds"
    return ""


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else "no words"
    return "".join(character if character.isprintable() else " " for character in text[:_WORDS])
