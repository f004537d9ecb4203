"""How the devices of a machine are linked with each other: NVLink, and the switches in it.

A switch's signed report names the GPUs behind its ports by the identifiers in their device certificates, and a GPU's
names its switches; no host can change either. So on a board with switches the reports themselves say which GPUs
belong together, which equal nonces do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.gpu.claims import MultiGpu
from attestation.gpu.devices import finding, gpus_of, looked
from attestation.rules import Finding

if TYPE_CHECKING:
    from attestation.gpu.claims import GpuClaims
    from attestation.rules import Subject
    from attestation.verdict import Check


@dataclass(frozen=True, slots=True)
class Fabric:
    """Devices that are linked are linked with each other and with nothing else.

    Single GPUs name no link partner and come without switches. Under protected PCIe every GPU names the same switches,
    every switch the same GPUs, both sets are exactly the devices that are shown, and the switches are locked.

    Attributes:
        modes: What is allowed. Under protected PCIe NVLink is not encrypted, so that the board's links are trusted.
    """

    modes: frozenset[MultiGpu] = frozenset({MultiGpu.NONE, MultiGpu.PROTECTED_PCIE})

    def appraise(self, subject: Subject) -> Finding:
        """Compare what the devices say of each other."""
        return looked("gpu links", "links among the shown devices only", subject, self._look)

    def _look(self, devices: tuple[GpuClaims, ...]) -> Finding:
        gpus, switches = gpus_of(devices), [device for device in devices if device.kind == "switch"]
        modes = {device.multi_gpu for device in gpus}
        names = " and ".join(sorted(mode.value for mode in modes)) or "no GPU"
        allowed = " or ".join(sorted(mode.value for mode in self.modes))
        hint = "all GPUs of a machine are set to one mode, and the policy names which ones it takes"
        why = "How GPUs are linked decides which of their traffic is encrypted."
        mode = finding(
            "gpu link mode", len(modes) <= 1 and modes <= self.modes, names, f"one of {allowed}", hint, why=why
        )
        linked = bool(switches) or any(device.peers for device in devices)
        needed = MultiGpu.PROTECTED_PCIE in modes
        if not linked and not needed:
            return Finding(mode.checks + _links("", "no links"))
        return Finding(mode.checks + _links(_wrong_link(gpus, switches), f"{len(gpus)} GPUs, {len(switches)} switches"))


def _wrong_link(gpus: list[GpuClaims], switches: list[GpuClaims]) -> str:
    """What is wrong with the links of a fabric, in words, empty if nothing."""
    shown_gpus, shown_switches = {device.pdi for device in gpus}, {device.pdi for device in switches}
    if b"" in shown_gpus | shown_switches:
        return "a device without a certified identifier"
    for device in gpus:
        if device.peers != shown_switches:
            return f"GPU {device.index} is linked with {len(device.peers - shown_switches)} switches that are not shown"
    for device in switches:
        if device.peers != shown_gpus:
            strange, lost = len(device.peers - shown_gpus), len(shown_gpus - device.peers)
            return (
                f"switch {device.index} is linked with {strange} GPUs that are not shown, and not with {lost} that are"
            )
        if not device.locked:
            return f"switch {device.index} is not locked"
    return "" if switches else "GPUs that say they are linked, without a switch"


def _links(wrong: str, right: str) -> tuple[Check, ...]:
    return finding(
        "gpu links",
        not wrong,
        wrong or right,
        "every link among the shown devices, and the switches locked",
        "a GPU of another machine hangs on this fabric, or a device is not shown: show all of them",
        why="Data flows over every link; a partner that nobody looked at reads it.",
    ).checks
