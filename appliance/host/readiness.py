"""How far a guest's boot is: read from its attested status port, and from its console before that is up.

The port's certificate is the guest's own and is not judged here: this is a look, not a proof. What a machine is worth
is told by evidence (``chrysalis verify``, ``/v1/attestation``).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import time
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.host.errors import LaunchError, NotReadyError
from appliance.host.follow import plain
from appliance.host.machine import STATUS_PORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.host.running import RunningVm

ANSWER_S = 5.0
POLL_S = 1.0
MAX_ANSWER_BYTES = 1 << 20
FIRMWARE_SHELL = "UEFI Interactive Shell"
"""What EDK II ends in where no boot entry works."""
ENDED = frozenset({"done", "skipped"})
_LINE = re.compile(r"chrysalis: stage ([a-z-]{1,32}) (pending|running|done|failed|skipped)\b ?([^\r\n]{0,400})")


class Stage(BaseModel):
    """One stage of a guest's boot as the guest tells it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(max_length=64)
    state: str = Field(pattern="^(pending|running|done|failed|skipped)$")
    since: float = 0.0
    seconds: float = 0.0
    reason: str = Field(default="", max_length=4096)
    hint: str = Field(default="", max_length=4096)


def get_bytes(port: int, path: str, seconds: float = ANSWER_S) -> bytes:
    """Ask a guest's status port through its loopback forward.

    Raises:
        NotReadyError: No answer, another status than 200, or more than :data:`MAX_ANSWER_BYTES`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate carries evidence, not a name; see the module's first lines
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=seconds, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"the status port (127.0.0.1:{port}) does not answer: {error}") from None
    finally:
        connection.close()
    if len(data) > MAX_ANSWER_BYTES:
        raise NotReadyError(f"the status port answered {path} with more than {MAX_ANSWER_BYTES} bytes")
    if answer.status != 200:
        said, hint = _refusal(data)
        raise NotReadyError(f"the status port answered {path} with status {answer.status}: {said}", hint=hint)
    return data


def get_json(port: int, path: str, seconds: float = ANSWER_S) -> Any:
    """As :func:`get_bytes`, for an answer in JSON.

    Raises:
        NotReadyError: As there, or it is not JSON.
    """
    try:
        return json.loads(get_bytes(port, path, seconds))
    except (ValueError, RecursionError):
        raise NotReadyError(f"the status port answered {path} with what is not JSON") from None


def _refusal(data: bytes) -> tuple[str, str]:
    """The guest's words for a refusal, bounded and without control characters: error and hint."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return "no reason given", ""
    return plain(str(value.get("error", "no reason given")))[:400], plain(str(value.get("hint", "")))[:400]


def parse_stages(value: Any) -> tuple[Stage, ...]:
    """The stages in an answer: a list, or an object with a list ``stages``.

    Raises:
        NotReadyError: Neither.
    """
    listed = value.get("stages") if isinstance(value, dict) else value
    if not isinstance(listed, list) or len(listed) > 64:
        raise NotReadyError("the status port's answer has no list of stages")
    try:
        return tuple(Stage.model_validate(item) for item in listed)
    except ValidationError as error:
        raise NotReadyError(f"the status port's stages are malformed: {error.errors()[0]['msg']}") from None


def console_stages(text: str) -> tuple[Stage, ...]:
    """The last state of each stage that a console shows, in the order of their first appearance."""
    found: dict[str, Stage] = {}
    for name, state, reason in _LINE.findall(text):
        found[name] = Stage(name=name, state=state, reason=reason.strip())
    return tuple(found.values())


def look(vm: RunningVm) -> tuple[tuple[Stage, ...], str]:
    """A machine's stages now, and where they were read: ``status port`` or ``console``.

    Raises:
        LaunchError: The machine has no status port forwarded and nothing on its console.
    """
    port = vm.forwards.get(STATUS_PORT)
    if port is not None and vm.alive:
        try:
            return parse_stages(get_json(port, "/v1/stages")), "status port"
        except NotReadyError:
            pass  # not up yet, or it fell: the console says how far it came
    return console_stages(_read(vm.console)), "console"


async def until_stages(
    vm: RunningVm,
    *,
    until: str | None = None,
    seconds: float,
    report: Callable[[Stage], None] = lambda _stage: None,
) -> tuple[Stage, ...]:
    """Wait until a machine's boot has come so far.

    Args:
        vm: The machine.
        until: The stage that has to be done (or skipped); None: all that the guest's status port lists.
        seconds: The longest wait.
        report: Called with every change of a stage.

    Returns:
        The stages as they stand.

    Raises:
        NotReadyError: A stage failed (with its reason and hint), the firmware found nothing to boot, or the time is
            over.
        LaunchError: The machine ended; its last words are told.
    """
    seen: dict[str, str] = {}
    limit = time.monotonic() + seconds
    while True:
        alive = vm.alive  # looked at before the stages: what an ended machine said last counts
        stages, source = await asyncio.to_thread(look, vm)
        for stage in stages:
            if seen.get(stage.name) != stage.state:
                seen[stage.name] = stage.state
                report(stage)
        for stage in stages:
            if stage.state == "failed":
                raise NotReadyError(f"stage {stage.name} failed: {stage.reason or 'no reason given'}", hint=stage.hint)
        if _reached(stages, until, complete=source == "status port"):
            return stages
        if not stages and FIRMWARE_SHELL in _read(vm.console):
            raise NotReadyError(
                f"{vm.name}'s firmware found nothing to boot on its disk and waits in its shell",
                hint="chrysalis image verify says whether the image's files are whole",
            )
        if not alive:
            raise LaunchError(f"{vm.name} ended; it said:\n{vm.tail()}", hint=f"the whole of it: {vm.console}")
        if time.monotonic() > limit:
            at = next((stage.name for stage in stages if stage.state not in ENDED), "before its first stage")
            raise NotReadyError(
                f"{vm.name} is not ready after {seconds:g} s; it is at {at}; it said:\n{vm.tail()}",
                hint="without KVM the processor is emulated: a boot takes minutes; chrysalis vm logs shows it",
            )
        await asyncio.sleep(POLL_S)


def _reached(stages: tuple[Stage, ...], until: str | None, *, complete: bool) -> bool:
    if until is None:
        return complete and bool(stages) and all(stage.state in ENDED for stage in stages)
    return any(stage.name == until and stage.state in ENDED for stage in stages)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - MAX_ANSWER_BYTES))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""
