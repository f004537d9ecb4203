"""The GPUs of a machine on QEMU's command line: passed through, or stood in for by what has the same windows. Pure.

Each GPU is behind a PCI Express root port of its own, as the vendor's guides have it. Its option ROM is not shown to
firmware (``rombar=0``): nothing of the host's runs in the guest before the image.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.host.machine import Machine


def gpu_options(machine: Machine) -> list[str]:
    """Root ports and GPUs, in order."""
    options: list[str] = []
    shared = machine.protection != "none" and not machine.stands_in and machine.gpus
    if shared:
        options += ["-object", "iommufd,id=iommufd"]
    for number, (port, address) in enumerate(zip(root_ports(machine), machine.gpus, strict=True), 1):
        options += ["-device", f"pcie-root-port,id={port},chassis={number}"]
        passed = f"vfio-pci,host={address},bus={port},rombar=0" + (",iommufd=iommufd" if shared else "")
        options += ["-device", _stand_in(port) if machine.stands_in else passed]
    return options


def _stand_in(port: str) -> str:
    where = {"type": "unix", "path": stand_in_socket(port)}
    device = {"driver": "vfio-user-pci", "bus": port, "rombar": 0, "socket": where}
    return json.dumps(device, separators=(",", ":"))


def stand_in_socket(port: str) -> str:
    """Name of the socket of what stands in for the GPU behind a root port (``appliance.host.gpu_stand_in``)."""
    return f"{port}.sock"


def root_ports(machine: Machine) -> list[str]:
    """Names of the GPUs' root ports, in order."""
    return [f"gpu{number}" for number in range(1, len(machine.gpus) + 1)]
