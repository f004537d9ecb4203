"""A software TPM beside a virtual machine: manufactured once, started before each launch, gone with the machine.

A TPM that the host emulates proves nothing to a stranger; who takes its word names the root that certified it.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from appliance.host.errors import HostError, LaunchError
from appliance.host.follow import tail
from appliance.host.kept import keep, spawn
from appliance.host.machine import FILES
from appliance.host.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.host.kept import ProcessIdentity

SETUP_S = 120.0
SOCKET_S = 20.0
POLL_S = 0.05
STOP_S = 5.0


def setup_command(state: Path) -> list[str]:
    """Manufacture a TPM with endorsement keys and a SHA-256 bank, without a certificate for them."""
    return [
        *("swtpm_setup", "--tpm2", "--tpmstate", str(state), "--createek", "--pcr-banks", "sha256"),
        *("--not-overwrite", "--logfile", str(state.parent / FILES.tpm_log)),
    ]


def serve_command() -> list[str]:
    """Serve the TPM to one machine; its current directory is the machine's. It ends when the machine does."""
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={FILES.tpm_state}"),
        *("--ctrl", f"type=unixio,path={FILES.tpm_socket}", "--log", f"file={FILES.tpm_log},level=1", "--terminate"),
    ]


def is_manufactured(state: Path) -> bool:
    """Whether there is a TPM in a directory already (swtpm(8): ``tpm2-00.permall``)."""
    return (state / "tpm2-00.permall").exists()


def manufacture(state: Path, tell: Callable[[list[str]], None]) -> None:
    """Make a TPM.

    Args:
        state: Its directory, which holds none.
        tell: Called with the command before it runs.

    Raises:
        HostError: swtpm_setup fails; its words are in the message.
    """
    command = setup_command(state)
    tell(command)
    command[0] = str(find_program(command[0]))
    try:
        done = subprocess.run(  # noqa: S603 - the command of setup_command
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SETUP_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"swtpm_setup did not end within {SETUP_S:g} s") from None
    if done.returncode != 0:
        log = state.parent / FILES.tpm_log
        said = (done.stdout + done.stderr).decode(errors="replace").strip() or tail(log, 8)
        raise HostError(f"swtpm_setup ended with status {done.returncode}: {said[-400:]}", hint=f"see {log}")


def start_swtpm(directory: Path, tell: Callable[[list[str]], None]) -> ProcessIdentity:
    """Serve the machine's TPM.

    Raises:
        LaunchError: It ended at once or opened no socket.
    """
    socket = directory / FILES.tpm_socket
    socket.unlink(missing_ok=True)
    command = serve_command()
    tell(command)
    command[0] = str(find_program(command[0]))
    process = spawn(command, directory=directory, log=directory / FILES.tpm_log)
    identity = keep(process)
    limit = time.monotonic() + SOCKET_S
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > limit:
            identity.end(STOP_S)
            raise LaunchError(
                f"swtpm served no socket; it said: {tail(directory / FILES.tpm_log, 8) or 'nothing'}",
                hint="is the TPM's directory writable?",
            )
        time.sleep(POLL_S)
    return identity
