"""Programs that the host has to have: found on the path, or an error that names the Debian package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from appliance.host.errors import HostError, MissingProgramError

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
}
MIN_QEMU = (7, 2)
ANSWER_S = 30.0


def find_program(name: str) -> Path:
    """Where a program is.

    Raises:
        MissingProgramError: Nowhere on ``PATH`` or in the system's own directories.
    """
    # Administration programs are outside an ordinary user's path on Debian.
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if found is None:
        package = PACKAGES.get(name, name)
        raise MissingProgramError(f"{name} is not installed", hint=f"apt install {package}")
    return Path(found)


def require(*names: str) -> None:
    """Find several programs; one error names all that are missing.

    Raises:
        MissingProgramError: At least one is not installed.
    """
    missing = []
    for name in names:
        try:
            find_program(name)
        except MissingProgramError:
            missing.append(name)
    if missing:
        packages = sorted({PACKAGES.get(name, name) for name in missing})
        raise MissingProgramError(f"not installed: {', '.join(missing)}", hint=f"apt install {' '.join(packages)}")


def qemu_version() -> tuple[int, int]:
    """Major and minor version of the installed QEMU.

    Raises:
        MissingProgramError: There is none.
        HostError: It says no version, or is older than 7.2.
    """
    major, minor, *_ = map(int, qemu_release("qemu-system-x86_64").split("."))
    if (major, minor) < MIN_QEMU:
        raise HostError(f"QEMU {major}.{minor}, expected 7.2 or newer", hint="Debian 12 and later have it")
    return major, minor


def qemu_release(program: str) -> str:
    """The whole version of a QEMU, for example ``7.2.22``.

    Args:
        program: Its name, or where it is.

    Raises:
        MissingProgramError: It is not there.
        HostError: It says no version.
    """
    text = said_by(program, "--version")
    found = re.search(r"version (\d+\.\d+(?:\.\d+)?)", text)
    if found is None:
        raise HostError(f"{program} --version says {text[:80]!r}, expected a version")
    return found[1]


def said_by(program: str, *arguments: str) -> str:
    """What a program prints about itself.

    Raises:
        MissingProgramError: It is not installed.
        HostError: It does not end.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a program that was looked up, with fixed arguments
            (find_program(program), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"{program} {' '.join(arguments)} did not end within {ANSWER_S:g} s") from None
    return done.stdout.decode(errors="replace")
