"""The rules about a machine's GPUs and switches as a set; what each one shows is :mod:`attestation.gpu.judge`.

Equal nonces prove no co-location: any genuine GPU anywhere answers them. What ties these devices to this machine is
the measured guest, which holds the session with each and whose quote covers their evidence; what ties them to each
other, where there are switches, is that the switches' signed reports name the GPUs by their certified identifiers. A
machine allow-list (:class:`DevicesListed`) closes what is left to an attacker with hands on the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.gpu.devices import GROUP, UNCHECKED, finding, gpus_of, looked
from attestation.gpu.fabric import Fabric
from attestation.gpu.versions import DriverRange, VbiosRange
from attestation.rules import Finding, short
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attestation.gpu.claims import GpuClaims, MultiGpu
    from attestation.rules import Rule, Subject

__all__ = [
    "AnyDevice",
    "CcMode",
    "DevicesListed",
    "DriverRange",
    "Fabric",
    "GpuCount",
    "GpuDistinct",
    "SwitchCount",
    "VbiosRange",
    "gpu_rules",
]

DEVICES_A_MACHINE = 16
"""Most GPUs that a machine has by default: eight are usual."""


@dataclass(frozen=True, slots=True)
class GpuCount:
    """There are as many GPUs as the policy says.

    Attributes:
        least: Fewest.
        most: Most; without one, :data:`DEVICES_A_MACHINE`.
    """

    least: int = 1
    most: int = DEVICES_A_MACHINE

    def appraise(self, subject: Subject) -> Finding:
        """Count."""
        return _counted("gpu count", "gpu", self.least, self.most, subject)


@dataclass(frozen=True, slots=True)
class SwitchCount:
    """There are as many NVSwitches as the policy says; exactly ``least`` if ``most`` is not given."""

    least: int = 0
    most: int | None = None

    def appraise(self, subject: Subject) -> Finding:
        """Count."""
        return _counted("switch count", "switch", self.least, self.least if self.most is None else self.most, subject)


@dataclass(frozen=True, slots=True)
class GpuDistinct:
    """No device is shown twice."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the devices' own keys."""
        why = "One GPU that answers for two leaves a place for one that nobody looked at."

        def look(devices: tuple[GpuClaims, ...]) -> Finding:
            ids = [device.device_id for device in devices]
            twice = sorted({index for index, value in enumerate(ids) if ids.index(value) != index})
            seen = f"device {', '.join(map(str, twice))} was shown before" if twice else f"{len(ids)} different"
            return finding(
                "devices distinct", not twice, seen, "each device once", "one GPU answers for several", why=why
            )

        return looked("devices distinct", "each device once", subject, look)


@dataclass(frozen=True, slots=True)
class CcMode:
    """Confidential computing is on and devtools mode off, in every GPU.

    A report has no field for it: it shows in a measurement that a VBIOS manifest speaks of, and a manifest that does
    not speak of it leaves it unknown, which fails. The measured guest asks the driver too, before it uses a GPU.
    """

    def appraise(self, subject: Subject) -> Finding:
        """Look at every GPU's measured mode."""
        expected = "confidential computing on, devtools mode off"
        why = "Outside this mode, and in its debugging form, the host can read what the GPU computes."

        def look(devices: tuple[GpuClaims, ...]) -> Finding:
            wrong = [device.index for device in gpus_of(devices) if not device.cc_mode or device.devtools_mode]
            seen = f"not known to be on in GPU {_numbers(wrong)}" if wrong else "on, by measurement"
            hint = "set the CC mode to 'on' on the host and reset the GPUs; devtools mode voids the protection"
            return finding("gpu cc mode", not wrong, seen, expected, hint, why=why)

        return looked("gpu cc mode", expected, subject, look)


@dataclass(frozen=True, slots=True)
class DevicesListed:
    """Every device is one of a list.

    Attributes:
        device_ids: SHA-256 of each allowed device's own key, 32 bytes.
    """

    device_ids: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look every device up."""
        why = "Only a list of known devices keeps out one that somebody opened."

        def look(devices: tuple[GpuClaims, ...]) -> Finding:
            strange = [device for device in devices if device.device_id not in self.device_ids]
            seen = ", ".join(f"{item.kind} {item.index}: {short(item.device_id)}" for item in strange)
            hint = "add the device to the list after looking at it, or find out who swapped it"
            return finding("devices listed", not strange, seen or "all", "each device on the list", hint, why=why)

        return looked("devices listed", "each device on the list", subject, look)


def gpu_rules(
    *,
    count: GpuCount | None = None,
    driver: DriverRange | None = None,
    vbios: VbiosRange | None = None,
    switches: SwitchCount | None = None,
    devices: frozenset[bytes] | None = None,
    modes: frozenset[MultiGpu] | None = None,
) -> tuple[Rule, ...]:
    """The rules of a policy that asks for GPUs; what is not given is the default of its rule, or not asked.

    Args:
        count: How many GPUs, at least one by default.
        driver: Which drivers; without it any whose manifest NVIDIA signed.
        vbios: Which VBIOSes, likewise.
        switches: How many switches; without it as many as the GPUs' links say.
        devices: Allowed devices by id; without it any that NVIDIA made.
        modes: How GPUs may be linked.
    """
    rules: list[Rule] = [count or GpuCount(), GpuDistinct(), CcMode(), driver or DriverRange(), vbios or VbiosRange()]
    rules.append(Fabric(modes) if modes is not None else Fabric())
    if switches is not None:
        rules.append(switches)
    rules.append(DevicesListed(devices) if devices is not None else AnyDevice())
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class AnyDevice:
    """Says that no list of devices was asked for."""

    def appraise(self, subject: Subject) -> Finding:
        """List the devices that nobody looked up."""
        seen = ", ".join(f"{item.kind} {item.index}: {short(item.device_id)}" for item in subject.devices or ())
        why = "Without a list, a device that somebody opened is as good as any."
        return Finding((Check("devices listed", True, seen or "none", UNCHECKED, checked=False, why=why, group=GROUP),))


def _counted(name: str, kind: str, least: int, most: int, subject: Subject) -> Finding:
    expected = str(least) if least == most else f"{least} to {most}"
    why = "A device that is not shown is one that nobody looked at."

    def look(devices: tuple[GpuClaims, ...]) -> Finding:
        found = sum(device.kind == kind for device in devices)
        return finding(
            name, least <= found <= most, str(found), expected, "show every device, and only this machine's", why=why
        )

    return looked(name, expected, subject, look)


def _numbers(indices: Iterable[int]) -> str:
    return ", ".join(map(str, indices))
