"""Synthetic TDX machines: the usual one, and every single change of it with the cause that has to be named."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import staged_firmware as parts
from measure_support import COMMAND_LINE, uki

from appliance.lab.secure_boot import SecureBootKeys
from appliance.lab.tdx_machine import TdxMachine
from measurements import tdx
from measurements.artefacts import Artefacts, PlainKernel
from measurements.shape import Firmware, Qemu, Shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from measurements.prediction import Input, Prediction
    from measurements.shape import Boot

FIRMWARE_VERSION = "2025.02-8+deb13u1"
NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
KEYS = SecureBootKeys.new(NOW)
INITRD = b"\x28\xb5\x2f\xfd" + b"the usual initrd" * 64


def configured(text: str) -> bytes:
    """Digest of a measured configuration."""
    return hashlib.sha256(text.encode()).digest()


def usual(boot: Boot = "direct", *, secure_boot: bool = False, **shaped: object) -> TdxMachine:
    """The unchanged machine.

    Args:
        boot: How it is started.
        secure_boot: Whether its firmware was built to check signatures; there are no keys.
        **shaped: Over the usual shape.
    """
    values: dict[str, object] = {
        "name": "usual",
        "platform": "tdx",
        "boot": boot,
        "vcpus": 4,
        "memory_mib": 8192,
        "qemu": Qemu(version="10.1.2", machine="q35"),
        "firmware": Firmware(name="OVMF.fd", version=FIRMWARE_VERSION),
    }
    shape = Shape.model_validate(values | shaped)
    artefacts = Artefacts(
        firmware=parts.firmware(secure_boot=secure_boot),
        image=uki({".initrd": INITRD}),
        disk=parts.disk(),
        acpi=parts.tables(shape),
        measured_config=configured("usual"),
    )
    return TdxMachine(artefacts=artefacts, shape=shape, checks_signatures=secure_boot)


def plain(qemu: str = "10.1.2") -> TdxMachine:
    """The machine with a plain kernel that its monitor hands over."""
    machine = reshaped(usual(), name="usual", qemu=Qemu(version=qemu))
    kernel = PlainKernel(kernel=parts.kernel(), initrd=INITRD, command_line="console=ttyS0")
    return replace(machine, artefacts=replace(machine.artefacts, image=None, disk=None, kernel=kernel))


def with_kernel(machine: TdxMachine, **changed: bytes | str) -> TdxMachine:
    """The machine with another kernel, initrd or command line."""
    kernel = machine.artefacts.kernel
    assert kernel is not None
    return replace(machine, artefacts=replace(machine.artefacts, kernel=replace(kernel, **changed)))


def reshaped(machine: TdxMachine, **changed: object) -> TdxMachine:
    """The machine in another shape, with the tables that its monitor then builds."""
    shape = Shape.model_validate(machine.shape.model_dump() | {"name": "changed"} | changed)
    return replace(machine, shape=shape, artefacts=replace(machine.artefacts, acpi=parts.tables(shape)))


def with_files(machine: TdxMachine, **files: bytes) -> TdxMachine:
    """The machine with other files."""
    return replace(machine, artefacts=replace(machine.artefacts, **files))


def predicted(machine: TdxMachine) -> Prediction:
    """What the predictor says of the machine's files and shape; it sees nothing that the machine measured."""
    return tdx.predict(machine.artefacts, machine.shape)


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        name: For people.
        make: Changes the machine.
        cause: The input that has to be named; None where no register moves.
        moves: Registers that move.
        events: The first event of each that differs, by register; registers that no log speaks of have none.
        certain: Whether the log alone tells the cause; ACPI tables have several that it cannot tell apart.
        change: Its name in the search of an auditor, where that knows it.
        other: The cause that the search finds, where that is another one.
        secure_boot: Whether the unchanged machine's firmware checks signatures.
    """

    name: str
    make: Callable[[TdxMachine], TdxMachine]
    cause: Input | None
    moves: frozenset[str] = frozenset()
    events: dict[str, str] = field(default_factory=dict)
    certain: bool = True
    change: str = ""
    other: Input | None = None
    secure_boot: bool = False

    @property
    def found(self) -> Input | None:
        """What the search names first."""
        return self.other or self.cause


def _secured(machine: TdxMachine) -> TdxMachine:
    image = machine.artefacts.image
    assert image is not None
    return with_files(
        machine, firmware=parts.firmware(stored=KEYS.variables(), secure_boot=True), image=KEYS.sign(image)
    )


RTMR0, RTMR2 = frozenset({"rtmr0"}), frozenset({"rtmr2"})
IMAGE = frozenset({"rtmr1", "rtmr2"})
LOADER, TABLES = {"rtmr0": "ACPI table loader"}, {"rtmr0": "ACPI tables"}

CHANGES = (
    Change(
        "memory",
        lambda m: reshaped(m, memory_mib=16384),
        "memory",
        RTMR0,
        {"rtmr0": "TD HOB"},
        change="memory 16384 MiB",
    ),
    Change("vcpus", lambda m: reshaped(m, vcpus=8), "vcpus", RTMR0, LOADER, certain=False, change="8 vCPUs"),
    Change(
        "device added",
        lambda m: reshaped(m, devices=("virtio-rng-pci",)),
        "devices",
        RTMR0,
        LOADER,
        certain=False,
        change="device virtio-rng-pci added",
    ),
    Change(
        "machine version",
        lambda m: reshaped(m, qemu=Qemu(version="10.1.2", machine="pc-q35-9.2")),
        "machine",
        RTMR0,
        LOADER,
        certain=False,
        change="machine type pc-q35-9.2",
    ),
    Change("smbios string", lambda m: replace(m, smbios=("staged by a test",)), None),
    Change(
        "smbios parameter",
        lambda m: replace(m, smbios=("io.systemd.stub.kernel-cmdline-extra=chrysalis.staged=1",)),
        None,
    ),
    Change(
        "command line",
        lambda m: with_files(m, image=uki({".initrd": INITRD}, command_line=COMMAND_LINE + " staged")),
        "command line",
        IMAGE,
        {"rtmr1": "image", "rtmr2": "section .cmdline"},
        change="image with another command line",
        other="image",
    ),
    Change(
        "initrd",
        lambda m: with_files(m, image=uki({".initrd": INITRD + b"more"})),
        "initrd",
        IMAGE,
        {"rtmr1": "image", "rtmr2": "section .initrd"},
        change="image with another initrd",
        other="image",
    ),
    Change(
        "firmware",
        lambda m: with_files(m, firmware=parts.firmware("second build")),
        "firmware",
        frozenset({"mrtd"}),
        change="firmware second build",
    ),
    Change(
        "configuration",
        lambda m: with_files(m, measured_config=configured("another")),
        "configuration",
        frozenset({"mrconfigid"}),
        change="configuration another",
    ),
    Change(
        "model, named by the configuration",
        lambda m: with_files(m, measured_config=configured("another model")),
        "configuration",
        frozenset({"mrconfigid"}),
        change="model another",
        other="model",
    ),
    Change("model volume", lambda m: m, None),
    Change(
        "secure boot",
        _secured,
        "firmware variables",
        frozenset({"rtmr0", "rtmr1"}),
        {"rtmr0": "firmware volume CFV", "rtmr1": "kernel"},
        secure_boot=True,
    ),
)


def changed_file(name: str, attribute: str) -> bytes:
    """The file that a change puts in the place of the usual one."""
    change = next(item for item in CHANGES if item.name == name)
    content: bytes = getattr(change.make(usual()).artefacts, attribute)
    return content


PLAIN = (
    Change(
        "command line",
        lambda m: with_kernel(m, command_line="console=ttyS0 staged"),
        "command line",
        RTMR2,
        {"rtmr2": "command line"},
    ),
    Change(
        "initrd",
        lambda m: with_kernel(m, initrd=INITRD + b"more"),
        "initrd",
        IMAGE,
        {"rtmr1": "kernel", "rtmr2": "initrd"},
    ),
    Change(
        "kernel",
        lambda m: with_kernel(m, kernel=parts.kernel("6.13")),
        "kernel",
        frozenset({"rtmr1"}),
        {"rtmr1": "kernel"},
    ),
    Change(
        "memory",
        lambda m: reshaped(m, memory_mib=1024),
        "memory",
        frozenset({"rtmr0", "rtmr1"}),
        {"rtmr0": "TD HOB", "rtmr1": "kernel"},
    ),
    Change("memory above 4 GiB", lambda m: reshaped(m, memory_mib=16384), "memory", RTMR0, {"rtmr0": "TD HOB"}),
)
"""Changes of a machine with a plain kernel, whose header tells where the monitor put the initrd."""
