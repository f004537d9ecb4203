"""A machine in a directory: the files of its kernel that the boot reads, as a booted release shows them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from machine_texts import HOST, MEASURED, OWNER

from appliance.boot.posture.kernel import SYSCTLS, ZERO
from appliance.boot.system import System
from appliance.boot.volume import pack

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
EXTRA = REPOSITORY / "image/mkosi.extra"
COMMAND_LINE = "console=ttyS0,115200 panic=-1 quiet"
ROOT_HASH = "ab" * 32
EPOCH = 1767225600
TABLE = f"0 1000 verity 1 254:2 254:3 4096 4096 125 1 sha256 {ROOT_HASH} {'00' * 32}"
RULES = (EXTRA / "etc/nftables.conf").read_text()
ME = (os.getuid(), os.getgid())


def members(**changed: Any) -> dict[str, bytes]:
    """The contents of a configuration volume; keywords replace ``measured``, ``owner``, ``host`` or add ``gas_key``."""
    found = {
        f"{name}.toml": tomli_w.dumps(changed.get(name, value)).encode()
        for name, value in (("measured", MEASURED), ("owner", OWNER), ("host", HOST))
    }
    return found | ({"gas.key": changed["gas_key"]} if "gas_key" in changed else {})


class Registers:
    """Remembers what registers were extended with."""

    def __init__(self) -> None:
        self.extended: list[tuple[int, bytes]] = []

    async def extend(self, register: int, digest: bytes, text: str) -> None:
        assert text
        self.extended.append((register, digest))


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when it holds; files of another task have no event."""
    while not holds():  # noqa: ASYNC110 - as it says
        await asyncio.sleep(0.01)


def write(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def attach(root: Path, serial: str, content: bytes, name: str = "vdb") -> None:
    """A disk with a serial number."""
    write(root, f"/sys/block/{name}/serial", serial + "\n")
    write(root, f"/dev/{name}", content)


def machine(root: Path, *, configured: bool = True) -> System:
    """A healthy machine of engine-cpu; with a configuration volume or without one."""
    image = {"profile": "engine-cpu", "debug": False, "source_date_epoch": EPOCH, "command_line": COMMAND_LINE}
    write(root, "/usr/lib/chrysalis/image.json", json.dumps(image))
    write(root, "/proc/cmdline", f"{COMMAND_LINE} roothash={ROOT_HASH}\n")
    write(root, "/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
    write(root, "/proc/self/limits", f"Limit  Soft  Hard  Units\nMax core file size{'0':>9}{'0':>21}{'bytes':>26}\n")
    write(root, "/proc/self/mountinfo", "22 1 254:0 / / ro,relatime shared:1 - erofs /dev/mapper/root ro\n")
    write(root, "/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    for register in (12, 13):
        write(root, f"/sys/class/tpm/tpm0/pcr-sha256/{register}", ZERO.upper() + "\n")
    for name, value in SYSCTLS.items():
        write(root, f"/proc/sys/{name.replace('.', '/')}", value + "\n")
    write(root, "/etc/nftables.conf", RULES)
    write(root, "/run/systemd/netif/state", "# private\nOPER_STATE=routable\nDNS=10.0.2.3 fec0::3\n")
    write(root, "/proc/net/tcp", "  sl  local_address rem_address   st\n" + socket_line("00000000:24E3", "0A"))
    write(root, "/proc/net/udp", "  sl  local_address rem_address   st\n" + socket_line("0F02000A:0044", "07"))
    system = System(root)
    system.stages.mkdir(parents=True)
    if configured:
        attach(root, "chrysalis-config", pack(members()))
    return system


def socket_line(local: str, state: str) -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 1 1 0 100 0\n"
