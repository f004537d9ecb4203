"""The GPUs of a machine on QEMU's command line: passed through, or stood in for by devices with the same windows. Pure.

Each GPU is behind a PCI Express root port of its own, as the vendor's guides have it. Its option ROM is not shown to
firmware (``rombar=0``): nothing of the host's runs in the guest before the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.host.machine import Machine

GPU_WINDOWS = ("16M", "128G", "32M")
"""Memory windows of an NVIDIA H100, H200 or H20 (SXM and PCIe), all 64-bit and prefetchable, as ``lspci -v`` shows them
(regions 0, 2 and 4). They decide where firmware puts the machine's 64-bit window, which an ACPI table names."""


def gpu_options(machine: Machine) -> list[str]:
    """Root ports and GPUs, in order."""
    options: list[str] = []
    shared = machine.protection != "none" and not machine.stands_in and machine.gpus
    if shared:
        options += ["-object", "iommufd,id=iommufd"]
    for number, address in enumerate(machine.gpus, 1):
        port = f"gpu{number}"
        options += ["-device", f"pcie-root-port,id={port},chassis={number}"]
        if machine.stands_in:
            options += _stand_in(port)
        else:
            passed = f"vfio-pci,host={address},bus={port},rombar=0" + (",iommufd=iommufd" if shared else "")
            options += ["-device", passed]
    return options


def _stand_in(port: str) -> list[str]:
    """A GPU's windows: QEMU's test device has one of any size, so each window is a function of the device."""
    options = []
    for function, size in enumerate(GPU_WINDOWS):
        several = ",multifunction=on" if function == 0 else ""
        options += ["-device", f"pci-testdev,bus={port},addr=0.{function},membar={size}{several}"]
    return options
