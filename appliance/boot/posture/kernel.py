"""The kernel's side: how it was started, what the image's registers hold, what it refuses from now on.

Sources: Linux ``Documentation/admin-guide/kernel-parameters.txt``, ``security/lockdown``,
``Documentation/admin-guide/sysctl``; dm-verity's table, ``Documentation/admin-guide/device-mapper/verity.rst``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from appliance.boot.posture.checks import PostureCheck, equal, none
from appliance.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from appliance.boot.image import ImageInfo
    from appliance.boot.system import System

LOCKDOWN: Final = "/sys/kernel/security/lockdown"
LEVEL: Final = "confidentiality"
MODULES_DISABLED: Final = "/proc/sys/kernel/modules_disabled"
REGISTERS: Final = "/sys/class/tpm/tpm0/pcr-sha256"
ZERO: Final = "0" * 64

SYSCTLS: Final[Mapping[str, str]] = {
    "fs.protected_fifos": "2",
    "fs.protected_hardlinks": "1",
    "fs.protected_regular": "2",
    "fs.protected_symlinks": "1",
    "fs.suid_dumpable": "0",
    "kernel.core_pattern": "|/bin/false",
    "kernel.dmesg_restrict": "1",
    "kernel.kexec_load_disabled": "1",
    "kernel.kptr_restrict": "2",
    "kernel.modules_disabled": "1",
    "kernel.randomize_va_space": "2",
    "kernel.sysrq": "0",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.yama.ptrace_scope": "3",
    "net.ipv4.ip_forward": "0",
}
"""Set by ``sysctl.d/99-chrysalis.conf`` of the image; the settings that later code cannot take back stand here too."""

_ROOT_HASH: Final = re.compile(r"roothash=([0-9a-f]{64})")
_MOUNT: Final = re.compile(r"^\d+ \d+ (\d+:\d+) \S+ / (\S+) .*?- (\S+) (\S+)", re.MULTILINE)


def lock(system: System) -> None:
    """Raise lockdown and end the loading of modules: both only go one way until the next boot.

    Raises:
        StageError: The kernel refuses.
    """
    for file, value in ((LOCKDOWN, LEVEL), (MODULES_DISABLED, "1")):
        held = system.text(file) or ""
        if held == value or f"[{value}]" in held:
            continue
        try:
            system.path(file).write_text(value)
        except OSError as error:
            raise StageError(f"{file} cannot be set to {value}: {error.strerror}") from None


def kernel_checks(system: System, image: ImageInfo, root_table: str) -> Iterator[PostureCheck]:
    """Everything about the kernel.

    Args:
        system: The machine.
        image: What the image says about itself.
        root_table: The device-mapper table of the root device.
    """
    line = system.text("/proc/cmdline") or ""
    yield command_line(line, image.command_line)
    yield root_device(system.text("/proc/self/mountinfo") or "", root_table, line)
    yield from registers(system)
    yield equal(
        "lockdown",
        selected(system.text(LOCKDOWN)),
        LEVEL,
        "the kernel was built without lockdown, or something raised another level",
    )
    yield none("swap", (system.text("/proc/swaps") or "").splitlines()[1:], "no swap is configured: what added it?")
    for name, value in SYSCTLS.items():
        yield equal(f"sysctl {name}", system.text(f"/proc/sys/{name.replace('.', '/')}"), value)
    yield equal("core file size", core_limit(system.text("/proc/self/limits") or ""), "0")


def command_line(seen: str, own: str) -> PostureCheck:
    """The kernel's command line is the image's own and the root hash, in the image's order, nothing else."""
    kept = [word for word in seen.split() if not _ROOT_HASH.fullmatch(word)]
    hashes = [word for word in seen.split() if _ROOT_HASH.fullmatch(word)]
    passed = kept == own.split() and len(hashes) == 1
    expected = own.split()
    extra = [word for word in kept if word not in expected]
    missing = [word for word in expected if word not in kept]
    differs = "".join(
        [
            f" added: {' '.join(extra)}" if extra else "",
            f" missing: {' '.join(missing)}" if missing else "",
            f" {len(hashes)} root hashes" if len(hashes) != 1 else "",
        ]
    )
    return PostureCheck(
        "kernel command line",
        passed,
        "the image's own" if passed else (differs.strip() or "another order")[:300],
        "the image's own and its root hash",
        "a host can add to it by an SMBIOS string or a boot entry; registers 9 and 12 show it to verifiers",
    )


def root_device(mounts: str, table: str, line: str) -> PostureCheck:
    """The root is the EROFS that dm-verity opened by the hash on the command line, read-only."""
    found = next((entry for entry in _MOUNT.finditer(mounts) if "/" in entry.group(0)), None)
    named = _ROOT_HASH.search(line)
    kind = found.group(3) if found else "none"
    options = found.group(2).split(",") if found else []
    words = table.split()
    verity = len(words) > 10 and words[2] == "verity" and named is not None and named.group(1) in words
    seen = f"{kind} {'ro' if 'ro' in options else 'rw'}, {'its root hash' if verity else 'another table'}"
    return PostureCheck(
        "root file system",
        seen == "erofs ro, its root hash",
        seen,
        "erofs ro, its root hash",
        "boot the image as built",
    )


def registers(system: System) -> Iterator[PostureCheck]:
    """What a host can add to an image is measured into registers 12 and 13: both stay zero. Without a TPM, nothing."""
    if not system.path(REGISTERS).is_dir():
        return
    yield equal(
        "register 12",
        (system.text(f"{REGISTERS}/12") or "").lower(),
        ZERO,
        "the host overrides the command line or adds credentials or addons",
    )
    yield equal("register 13", (system.text(f"{REGISTERS}/13") or "").lower(), ZERO, "the host adds a system extension")


def selected(text: str | None) -> str | None:
    """The chosen one of ``none [integrity] confidentiality``."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found.group(1) if found else None


def core_limit(limits: str) -> str | None:
    """The hard limit of core files in ``/proc/PID/limits``."""
    found = re.search(r"^Max core file size\s+\S+\s+(\S+)", limits, re.MULTILINE)
    return found.group(1) if found else None
