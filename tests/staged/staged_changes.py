"""Every single change of a booted machine: how it is made, what it moves there, and which cause has to be named."""

from __future__ import annotations

import copy
import datetime as dt
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import staged_boots as boots

from appliance.lab.firmware_variables import added
from appliance.lab.secure_boot import SecureBootKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from staged_boots import Site

    from measurements.explanation import Explanation
    from measurements.prediction import Input
    from measurements.shape import Boot

OTHER_FIRMWARE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))
"""Debian 12's firmware, whose code checks signatures; the image's own, Debian 13's, was built without."""

MEMORY_MIB, MEMORY_ABOVE_MIB = 2560, 4096
"""More memory below 4 GiB moves the window for devices, which a table names; what lies above is in no table."""
VCPUS = 3
MACHINE, OLDER_MACHINE = "pc-q35-7.1", "pc-q35-6.0"
"""QEMU 7.2 builds the same tables for the first as for its newest type; 6.0 plugs devices in another way."""
ADDED_DEVICE = "virtio-rng-pci,disable-legacy=on"
OWNERS_STRING = "type=11,value=staged by a test"
OWNERS_PARAMETER = "type=11,value=io.systemd.stub.kernel-cmdline-extra=chrysalis.staged=1"


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        name: For people, and for ``CHRYSALIS_STAGED_DRAWS``.
        boot: How the machine is started, changed and unchanged.
        prepare: Changes the machine before it starts.
        moves: Registers that it moves; none where it moves none of those that a machine of this kind has.
        cause: The input that has to be named; None where nothing moves.
        shaped: What of the machine's shape is changed, as a shape file has it.
        other_firmware: Whether the unchanged machine has Debian 12's firmware.
        in_files: Whether files and shape of the changed machine tell it, so that it can be predicted, too.
    """

    name: str
    boot: Boot
    prepare: Callable[[Site], None]
    moves: frozenset[str]
    cause: Input | None
    shaped: Mapping[str, object] = field(default_factory=dict)
    other_firmware: bool = False
    in_files: bool = True

    @property
    def slug(self) -> str:
        """Its name as a file's."""
        return self.name.replace(",", "").replace(" ", "-")

    @property
    def base(self) -> str:
        """Which unchanged machine it is a change of, as a file's name."""
        return f"unchanged-{self.boot}" + ("-other-firmware" if self.other_firmware else "")

    @property
    def needs_other_firmware(self) -> bool:
        """Whether it takes the second firmware."""
        return self.other_firmware or self.name == "firmware"


def unchanged(_site: Site) -> None:
    """Nothing: the control."""


def _memory(site: Site) -> None:
    site.options["memory_mib"] = MEMORY_MIB


def _memory_above(site: Site) -> None:
    site.options["memory_mib"] = MEMORY_ABOVE_MIB


def _vcpus(site: Site) -> None:
    site.options["cpus"] = VCPUS


def _device(site: Site) -> None:
    site.options["devices"] = (ADDED_DEVICE,)


def _machine(site: Site) -> None:
    site.options["machine_type"] = MACHINE


def _older_machine(site: Site) -> None:
    site.options["machine_type"] = OLDER_MACHINE


def _string(site: Site) -> None:
    site.options["extra"] = ("-smbios", OWNERS_STRING)


def _parameter(site: Site) -> None:
    site.options["extra"] = ("-smbios", OWNERS_PARAMETER)


def _command_line(site: Site) -> None:
    text = boots.section(site.uki, ".cmdline").rstrip(b"\0\n ")
    site.replace("chrysalis.efi", boots.with_section(site.uki, ".cmdline", text + b" chrysalis.staged=1"))


def _initrd(site: Site) -> None:
    held = boots.section(site.uki, ".initrd")
    held += bytes(-len(held) % 4) + boots.cpio("staged", b"")
    site.replace("chrysalis.efi", boots.with_section(site.uki, ".initrd", held))


def with_other_firmware(site: Site) -> None:
    """Debian 12's firmware, with its empty variables."""
    for name, path in zip(("OVMF_CODE.fd", "OVMF_VARS.fd"), OTHER_FIRMWARE, strict=True):
        site.replace(name, path.read_bytes())


def _secure_boot(site: Site) -> None:
    keys = SecureBootKeys.new(dt.datetime.now(dt.UTC))
    with_other_firmware(site)
    site.replace("OVMF_VARS.fd", added(OTHER_FIRMWARE[1].read_bytes(), keys.variables()))
    site.replace("chrysalis.efi", keys.sign(site.uki))


def _configuration(site: Site) -> None:
    site.measured = copy.deepcopy(site.measured)
    site.measured["network"]["global_id"] += 1


def _named_model(site: Site) -> None:
    site.measured = copy.deepcopy(site.measured) | {"model": f"tiny@2:{'ce' * 32}"}


def _model(site: Site) -> None:
    site.model.write_bytes(b"another model".ljust(1 << 20, b"\0"))


def judge(change: Change, found: Explanation) -> None:
    """Hold an explanation by the log alone against the change that was made."""
    assert found.log_refuted is None
    # Debian 12's build does not say which it is, as register 0 does; what the kernel makes of that one follows.
    assert found.unpredicted.keys() == ({"pcr0", "pcr10"} if change.other_firmware else set())
    differing = change.moves - found.unpredicted.keys()
    assert {item.register for item in found.findings} == differing
    assert found.equal is (not differing)
    for item in found.findings:
        assert item.event
        assert item.causes
        assert all(cause.remedy for cause in item.causes)
    if change.cause is None:
        return
    firsts = {item.causes[0].input for item in found.findings}
    named = {cause.input for item in found.findings for cause in item.causes}
    # Which of the things that tables are made of has moved them, the log does not tell: a candidate does.
    assert change.cause in (named if change.shaped else firsts)


def drawn(seed: int, count: str) -> tuple[Change, ...]:
    """Changes at random.

    Args:
        seed: Of the draw.
        count: How many, or ``all``.
    """
    if count == "all":
        return CHANGES
    return tuple(random.Random(seed).sample(CHANGES, min(int(count), len(CHANGES))))  # noqa: S311 - a draw for tests


NOTHING: frozenset[str] = frozenset()
IMAGE = frozenset({"pcr4", "pcr9", "pcr10", "pcr11"})
SETTINGS = frozenset({"pcr1", "pcr10"})
"""Register 10 holds the kernel's digest over registers 0 to 9: it moves whenever one of them does."""

CONTROLS = (
    Change("nothing, from disk", "disk", unchanged, NOTHING, None),
    Change("nothing, direct", "direct", unchanged, NOTHING, None),
)
CHANGES = (
    Change("memory", "disk", _memory, SETTINGS, "memory", {"memory_mib": MEMORY_MIB}),
    Change("memory above 4 GiB", "disk", _memory_above, NOTHING, None, {"memory_mib": MEMORY_ABOVE_MIB}),
    Change("vcpus", "disk", _vcpus, SETTINGS, "vcpus", {"vcpus": VCPUS}),
    Change("device added", "disk", _device, SETTINGS, "devices", {"devices": (ADDED_DEVICE,)}),
    Change("machine version", "disk", _machine, NOTHING, None, {"machine": MACHINE}),
    Change("older machine version", "disk", _older_machine, SETTINGS, "machine", {"machine": OLDER_MACHINE}),
    Change("smbios string", "disk", _string, NOTHING, None),
    Change(
        "smbios parameter",
        "disk",
        _parameter,
        frozenset({"pcr9", "pcr10", "pcr12"}),
        "command line",
        in_files=False,
    ),
    Change("command line", "direct", _command_line, IMAGE, "command line"),
    Change("initrd", "direct", _initrd, IMAGE, "initrd"),
    Change("firmware", "direct", with_other_firmware, frozenset({"pcr0", "pcr1", "pcr7", "pcr10"}), "firmware"),
    Change("configuration", "direct", _configuration, frozenset({"pcr14"}), "configuration"),
    Change("model, named by the configuration", "direct", _named_model, frozenset({"pcr14"}), "configuration"),
    Change("model volume", "direct", _model, NOTHING, None),
    Change(
        "secure boot",
        "direct",
        _secure_boot,
        frozenset({"pcr4", "pcr7", "pcr10"}),
        "firmware variables",
        other_firmware=True,
    ),
)
