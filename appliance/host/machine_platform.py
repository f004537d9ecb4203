"""Machine type, accelerator, processor and the protected guest's object, as QEMU's command line takes them. Pure.

A protected machine can be started in two ways. Really: by KVM with its protection. Or *standing in*: under emulation
and without protection, so that QEMU builds the ACPI tables of the real one on a host that has neither the processor,
nor the memory, nor the GPUs. What the second leaves out or adds moves no table; each case is argued here:

* ``kernel-irqchip=split`` says who emulates the interrupt controllers; the tables describe the same ones (QEMU,
  ``hw/i386/acpi-common.c``). Emulation has no such property.
* ``pic=off`` is written out, on both ways, where QEMU turns the legacy interrupt controller off by itself for TDX
  (``target/i386/kvm/tdx.c``): the MADT's flag PCAT_COMPAT follows it.
* The memory is anonymous and not reserved: where it comes from is in no table.
* The processor is ``max`` (TDX) or the measured model (SEV-SNP) with the vendor and the address width of the real one:
  QEMU moves memory beyond the HyperTransport hole for AMD (``hw/i386/pc.c``), and firmware puts 64-bit windows at the
  top of what the processor can address.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.host.machine import Machine

QGS_VSOCK = {"type": "vsock", "cid": "2", "port": "4050"}
"""The host's quote generation service where Intel's packages put it."""
SNP_CPU = "EPYC-v4"
ADDRESS_BITS = 46
"""Every server with TDX or SEV-SNP addresses at least this much, and OVMF uses no more of it
(``OvmfPkg/Library/PlatformInitLib/MemDetect.c``, ``PlatformAddressWidthFromCpuid``)."""


def platform_options(machine: Machine) -> list[str]:
    """The options that say what kind of machine it is."""
    kind = [machine.machine_type, f"accel={machine.accel}", "smm=off", *_TYPE_OPTIONS[machine.protection]]
    kind += machine.machine_options
    objects: list[str] = []
    if machine.stands_in:
        objects = ["-object", f"memory-backend-ram,id=ram,size={machine.memory_mib}M,reserve=off"]
        kind.append("memory-backend=ram")
    elif machine.protection == "snp":
        objects = ["-object", f"memory-backend-memfd,id=ram,size={machine.memory_mib}M,share=true,prealloc=false"]
        kind.append("memory-backend=ram")
    elif machine.protection == "tdx":
        kind.append("kernel-irqchip=split")
    if machine.protection != "none" and not machine.stands_in:
        objects += ["-object", _guest(machine)]
        kind.append(f"confidential-guest-support={machine.protection}")
    return [*objects, "-machine", ",".join(kind), "-cpu", _processor(machine)]


_TYPE_OPTIONS = {"none": (), "tdx": ("hpet=off", "pic=off"), "snp": ("vmport=off",)}
"""Machine properties that a protected guest has by the documents named in :func:`_guest`."""


def _guest(machine: Machine) -> str:
    """The object that protects: it carries the measured configuration's digest."""
    if machine.protection == "tdx":
        # QEMU 10.1: docs/system/i386/tdx.rst. MRCONFIGID has 48 bytes: the digest, then zeros.
        guest = {
            "qom-type": "tdx-guest",
            "id": "tdx",
            "mrconfigid": base64.b64encode(machine.config_digest.ljust(48, b"\0")).decode(),
            "quote-generation-socket": QGS_VSOCK,
        }
        return json.dumps(guest, separators=(",", ":"))
    # QEMU 9.1: docs/system/i386/amd-memory-encryption.rst. Policy 0x30000: SMT allowed, debugging not.
    digest = base64.b64encode(machine.config_digest).decode()
    hashes = ",kernel-hashes=on" if machine.boot == "direct" else ""
    return f"sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=1,policy=0x30000,host-data={digest}{hashes}"


def _processor(machine: Machine) -> str:
    if machine.protection == "snp":
        # The model is measured. Its own 40 bits of addresses leave no room for a GPU's windows.
        width = f"phys-bits={ADDRESS_BITS}" if machine.stands_in else "host-phys-bits=on"
        return f"{machine.cpu or SNP_CPU},{width}"
    if machine.protection == "tdx":
        return f"max,vendor=GenuineIntel,phys-bits={ADDRESS_BITS}" if machine.stands_in else machine.cpu or "host"
    if machine.stands_in and machine.cpu == "host":
        return f"max,phys-bits={ADDRESS_BITS}"
    return machine.cpu or ("host" if machine.accel == "kvm" else "max")
