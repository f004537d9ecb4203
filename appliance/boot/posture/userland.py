"""User space: the firewall that is loaded, the programs that run, and the ways in that are shut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from appliance.boot.posture.checks import PostureCheck, none
from appliance.boot.system import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.boot.system import System

RULES: Final = "/etc/nftables.conf"
CREDENTIALS: Final = ("@system", "@encrypted", "@initrd")
_RUNNING: Final = re.compile(
    r"/usr/lib/systemd/systemd[a-z0-9-]*|/usr/bin/(openssl|udevadm|python3(\.\d+)?|tpm2|kmod|mount|nvidia-persistenced)"
    r"|/usr/sbin/(nft|dmsetup|veritysetup|mke2fs)"
)
"""Programs that may run on a release image while its stages run."""
_TOOLS: Final = (
    "bpftrace", "dropbear", "gdb", "gdbserver", "lldb", "ltrace", "nc", "ncat", "perf", "socat", "sshd", "strace",
    "tcpdump", "telnetd",
)  # fmt: skip
_ELEMENTS: Final = re.compile(r"elements = \{[^}]*\}")


async def userland_checks(system: System) -> list[PostureCheck]:
    """Everything about user space; raises ``ToolError`` where the firewall cannot be asked."""
    loaded = (await run_tool("nft", "--stateless", "list", "ruleset")).decode("utf-8", "replace")
    return [
        firewall(loaded, system.text(RULES) or ""),
        none("running programs", foreign_programs(system), "only programs of the image's services run"),
        none("debuggers and remote shells", present_tools(system), "a release image carries none"),
        none("credentials", credentials(system), "a host can offer them by SMBIOS, fw_cfg and the ESP: import is off"),
    ]


def firewall(loaded: str, own: str) -> PostureCheck:
    """The rules that are loaded are those of the image's file, up to comments and filled sets."""
    same = canonical(loaded) == canonical(own)
    drops = sum(f"hook {hook} priority filter; policy drop" in loaded for hook in ("input", "forward", "output"))
    return PostureCheck(
        "firewall",
        same and drops == 3,
        "the image's rules" if same else "other rules",
        "the image's rules, default drop both ways",
        "see docs/boot.md for the table of flows",
    )


def canonical(rules: str) -> str:
    """Rules without file comments, set contents and white space."""
    lines = [line for line in rules.splitlines() if not line.lstrip().startswith(("#", "flush ruleset"))]
    return " ".join(_ELEMENTS.sub("", "\n".join(lines)).split())


def foreign_programs(system: System) -> Iterator[str]:
    """Executables of running processes that the image's services do not use; kernel threads have none."""
    for entry in system.path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                program = str((entry / "exe").readlink())
            except OSError:
                continue
            if not _RUNNING.fullmatch(program):
                yield program


def present_tools(system: System) -> Iterator[str]:
    """Programs that a release image must not carry."""
    for name in _TOOLS:
        for directory in ("/usr/bin", "/usr/sbin", "/usr/local/bin"):
            if system.path(f"{directory}/{name}").exists():
                yield f"{directory}/{name}"


def credentials(system: System) -> Iterator[str]:
    """Credentials that the service manager took from outside."""
    for name in CREDENTIALS:
        directory = system.path(f"/run/credentials/{name}")
        if directory.is_dir():
            yield from (f"{name}/{entry.name}" for entry in sorted(directory.iterdir()))
