"""The NVIDIA driver's kernel modules and device files, before the kernel takes no more modules.

Runs as root in ``chrysalis-gpu-modules.service``, ahead of the boot stages: the modules are unsigned, so they have to
be in before lockdown is raised. It ends well whatever happens, and leaves what happened in ``/run/chrysalis/gpu.json``;
the stage ``gpu`` says it (:mod:`appliance.boot.gpu`). A machine without a GPU still links the modules into its kernel
and runs their start, up to the driver's refusal of an empty bus.

Sources: the driver's ``softdep`` and ``libspdm_*.c`` (algorithms), ``nv-chardev-numbers.h`` (device numbers),
``/proc/driver/nvidia`` (its README, chapter "Proc interface").
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from appliance.boot.errors import ToolError
from appliance.boot.stages import write_atomically
from appliance.boot.system import System, run_tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

REPORT: Final = "/run/chrysalis/gpu.json"
VENDOR: Final = "0x10de"
ALGORITHMS: Final = (
    "ecdsa_generic", "ecdh_generic", "gcm", "aesni_intel", "ghash_generic", "ghash_clmulni_intel", "sha256_ssse3",
    "sha512_ssse3",
)  # fmt: skip
"""What the driver's SPDM library asks the kernel for when a confidential GPU starts, which is after modules are locked.
Some are part of the kernel, and a processor may lack what the fast ones need: that they do not load is no fault."""

MODULES: Final = ("nvidia", "nvidia_uvm")
MAJOR: Final = 195
CONTROL_MINOR: Final = 255
GROUP: Final = "chrysalis-gpu"
_UVM: Final = re.compile(r"^ *(\d+) nvidia-uvm$", re.MULTILINE)
_MINOR: Final = re.compile(r"^Device Minor:\s+(\d+)$", re.MULTILINE)
_SAID_CHARS: Final = 300
_MODPROBE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class GpuModules:
    """What happened.

    Attributes:
        loaded: Modules of the driver that are in the kernel.
        refused: Those that are not, and what was said.
        algorithms: Algorithms of the kernel that were loaded for it.
    """

    loaded: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    algorithms: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """One JSON object."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> GpuModules:
        """Read it back; anything else is as if nothing had been tried.

        It is root's own file: the shape is checked so that a fault is a reason and no traceback.
        """
        try:
            value = json.loads(data)
            return cls(
                tuple(map(str, value["loaded"])),
                tuple((str(name), str(said)) for name, said in value["refused"]),
                tuple(map(str, value["algorithms"])),
            )
        except (ValueError, TypeError, KeyError):
            return cls()


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """One character device: its path and numbers."""

    path: str
    major: int
    minor: int


def pci_devices(system: System) -> tuple[str, ...]:
    """Addresses of the vendor's display and compute devices on the PCI bus (class 03), in order.

    Source: PCI code and ID assignment specification, base class 03h; Linux sysfs-bus-pci.
    """
    found = []
    with suppress(OSError):
        for entry in sorted(system.path("/sys/bus/pci/devices").iterdir()):
            place = f"/sys/bus/pci/devices/{entry.name}"
            if system.text(f"{place}/vendor") == VENDOR and (system.text(f"{place}/class") or "").startswith("0x03"):
                found.append(entry.name)
    return tuple(found)


async def load(run: Callable[..., Awaitable[bytes]] = run_tool) -> GpuModules:
    """Load the algorithms, then the driver."""
    algorithms, _ = await _insert(ALGORITHMS, run)
    loaded, refused = await _insert(MODULES, run)
    return GpuModules(loaded, refused, algorithms)


async def _insert(
    names: Sequence[str], run: Callable[..., Awaitable[bytes]]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    loaded: list[str] = []
    refused: list[tuple[str, str]] = []
    for name in names:
        try:
            await run("/usr/sbin/modprobe", "--quiet" if name in ALGORITHMS else "--verbose", name, limit_s=_MODPROBE_S)
        except ToolError as error:
            refused.append((name, said(error.message)))
        else:
            loaded.append(name)
    return tuple(loaded), tuple(refused)


def said(message: str) -> str:
    """What modprobe said, without the command that was run: ``could not insert 'nvidia': No such device``."""
    _, _, words = message.rpartition("ERROR: ")
    return (words or message)[:_SAID_CHARS]


def device_files(devices: str, information: Sequence[str]) -> tuple[DeviceFile, ...]:
    """The device files that programs open.

    Args:
        devices: ``/proc/devices``: the number of nvidia-uvm is given out when it loads.
        information: ``/proc/driver/nvidia/gpus/*/information`` of each GPU.
    """
    files = [DeviceFile("/dev/nvidiactl", MAJOR, CONTROL_MINOR)]
    minors = sorted(int(found[1]) for text in information if (found := _MINOR.search(text)))
    files += [DeviceFile(f"/dev/nvidia{minor}", MAJOR, minor) for minor in minors]
    if uvm := _UVM.search(devices):
        files += [DeviceFile("/dev/nvidia-uvm", int(uvm[1]), 0), DeviceFile("/dev/nvidia-uvm-tools", int(uvm[1]), 1)]
    return tuple(files)


def make_device_files(system: System, files: Sequence[DeviceFile], group: int) -> None:
    """Make them, for root and one group.

    Raises:
        OSError: One cannot be made.
    """
    for file in files:
        path = system.path(file.path)
        with suppress(FileNotFoundError):
            path.unlink()
        os.mknod(path, stat.S_IFCHR, os.makedev(file.major, file.minor))
        os.chown(path, 0, group)
        path.chmod(0o660)


def gpu_information(system: System) -> tuple[str, ...]:
    """What the driver says about each GPU that it has taken."""
    try:
        names = sorted(entry.name for entry in system.path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return ()
    return tuple(system.text(f"/proc/driver/nvidia/gpus/{name}/information") or "" for name in names)


def main() -> int:
    """Load, make the device files, write the report."""
    import grp  # noqa: PLC0415 - where this runs as a program, the group is there

    system = System()
    report = asyncio.run(load())
    if "nvidia" in report.loaded:
        files = device_files(system.text("/proc/devices") or "", gpu_information(system))
        make_device_files(system, files, grp.getgrnam(GROUP).gr_gid)
    place = system.path(REPORT)
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(place, report.to_json(), 0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
