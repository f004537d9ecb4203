"""The ways in which a machine may differ from a predicted one, one at a time: what candidates are made of.

In: the artefacts and shape of the predicted machine, and what else is at hand. Out: changes, before anything is
predicted. The lists are those of hosts that boot the project's machines; a caller adds its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from measurements.errors import ArtefactError
from measurements.shape import Firmware, Qemu, Shape, ShapeError
from measurements.variable_store import parse_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measurements.artefacts import Artefacts
    from measurements.prediction import Input

MEMORY_MIB: Final = (512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 6144, 8192, 12288, 16384, 24576,
                     32768, 49152, 65536, 98304, 131072, 196608, 262144, 393216, 524288, 786432, 1048576,
                     2097152)  # fmt: skip
"""Sizes that hosts and clouds give machines."""

VCPUS: Final = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 32, 40, 44, 48, 60, 64, 80, 88, 96, 112, 128, 176, 192, 208,
                224, 240, 256)  # fmt: skip
QEMUS: Final = ("7.2.0", "8.2.0", "9.0.0", "9.1.0", "9.2.0", "10.0.0", "10.1.0", "10.2.0", "11.0.0")
"""One version of each series that boots the project's machines."""

MACHINES: Final = ("q35", "pc-q35-6.0", "pc-q35-6.2", "pc-q35-7.0", "pc-q35-7.2", "pc-q35-8.0", "pc-q35-8.2",
                   "pc-q35-9.0", "pc-q35-9.2", "pc-q35-10.0", "pc-q35-10.1")  # fmt: skip
"""Machine types by version; a QEMU that is newer builds the older ones as well."""

DEVICES: Final = (
    "virtio-balloon-pci",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtio-scsi-pci",
    "virtio-gpu-pci",
    "vhost-vsock-pci,guest-cid=3",
    "VGA",
    "qemu-xhci",
    "e1000e",
    "pvpanic",
    "vmgenid",
    "pcie-root-port",
)
"""Devices that hosts add besides those of a shape."""

CPUS: Final = ("EPYC", "EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Turin")
OPTIONS: Final = ("smm=off", "hpet=off", "pic=off", "vmport=off", "sata=off", "kernel-irqchip=split")
"""Machine properties that hosts set or leave out."""

_ANY_DEVICE: Final = "another device of that kind gives the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What else is at hand, by names that people know it by.

    Attributes:
        firmware: Other firmware files, each in the form of the artefacts' own (one file, or code alone).
        variables: Other files of firmware variables, for example with Secure Boot keys enrolled.
        images: Other unified kernel images.
        kernels: Other plain kernels.
        initrds: Other initrds of a plain kernel.
        command_lines: Other command lines of a plain kernel.
        configurations: Digests of other measured configurations, 32 bytes each.
        models: Digests of the measured configuration with other models, 32 bytes each.
        shapes: Other shapes, as those of the library; what they have is tried, and each as a whole.
        devices: Further devices, as ``-device`` takes them.
    """

    firmware: Mapping[str, bytes] = field(default_factory=dict)
    variables: Mapping[str, bytes] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    kernels: Mapping[str, bytes] = field(default_factory=dict)
    initrds: Mapping[str, bytes] = field(default_factory=dict)
    command_lines: tuple[str, ...] = ()
    configurations: Mapping[str, bytes] = field(default_factory=dict)
    models: Mapping[str, bytes] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A change before it is predicted.

    Attributes:
        change: In a few words.
        inputs: What it changes; the first is what a reader is told of.
        artefacts: Of the changed machine.
        shape: Of the changed machine.
        note: More to be said of it.
    """

    change: str
    inputs: tuple[Input, ...]
    artefacts: Artefacts
    shape: Shape
    note: str = ""


def changes(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    """Every change, cheap and usual ones first; some are none, since the machine is so already.

    Args:
        artefacts: Of the predicted machine.
        shape: Of the predicted machine.
        others: What else is at hand.
    """
    yield from _sizes(artefacts, shape, others)
    yield from _way_to_boot(artefacts, shape)
    yield from _files(artefacts, shape, others)
    yield from _variables(artefacts, shape, others)
    yield from _monitor(artefacts, shape, others)
    yield from _hardware(artefacts, shape, others)
    for other in others.shapes:
        moved = _shape_inputs(shape, other)
        if moved and other.platform == shape.platform:
            yield Change(f"shape {other.name}", moved, artefacts, other)


def _with(shape: Shape, **values: Any) -> Shape | None:
    """The shape with other values; None where no machine is like that."""
    try:
        return Shape.model_validate({**{name: getattr(shape, name) for name in Shape.model_fields}, **values})
    except (ShapeError, ValueError):
        return None


def _of_shape(
    artefacts: Artefacts, shape: Shape, change: str, inputs: tuple[Input, ...], **values: Any
) -> Iterator[Change]:
    changed = _with(shape, **values)
    if changed is not None:
        yield Change(change, inputs, artefacts, changed)


def _sizes(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    """Other numbers of processors and other memory by turns, the nearest first."""
    sizes = {*MEMORY_MIB, *(other.memory_mib for other in others.shapes)}
    counts = {*VCPUS, *(other.vcpus for other in others.shapes)}
    memory = sorted(sizes, key=lambda size: (abs(size - shape.memory_mib), size))
    vcpus = sorted(counts, key=lambda number: (abs(number - shape.vcpus), number))
    for size, count in zip_longest(memory, vcpus):
        if size is not None:
            yield from _of_shape(artefacts, shape, f"memory {size} MiB", ("memory",), memory_mib=size)
        if count is not None:
            words = f"{count} vCPU{'s' if count > 1 else ''}"
            yield from _of_shape(artefacts, shape, words, ("vcpus",), vcpus=count)


def _way_to_boot(artefacts: Artefacts, shape: Shape) -> Iterator[Change]:
    other = "disk" if shape.boot == "direct" else "direct"
    yield from _of_shape(artefacts, shape, f"{other} boot", ("boot",), boot=other)


def _files(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    for name, content in others.images.items():
        yield Change(f"image {name}", ("image",), replace(artefacts, image=content, kernel=None), shape)
    for name, content in others.firmware.items():
        whole = artefacts.firmware is not None
        changed = replace(artefacts, firmware=content) if whole else replace(artefacts, firmware_code=content)
        yield Change(f"firmware {name}", ("firmware",), changed, _firmware(shape, name))
    for name, digest in others.configurations.items():
        yield Change(f"configuration {name}", ("configuration",), replace(artefacts, measured_config=digest), shape)
    for name, digest in others.models.items():
        changed = replace(artefacts, measured_config=digest)
        yield Change(f"model {name}", ("model", "configuration"), changed, shape)
    if (plain := artefacts.kernel) is None:
        return
    for text in others.command_lines:
        changed = replace(artefacts, kernel=replace(plain, command_line=text))
        yield Change(f"command line {text!r}", ("command line",), changed, shape)
    for name, content in others.initrds.items():
        yield Change(f"initrd {name}", ("initrd",), replace(artefacts, kernel=replace(plain, initrd=content)), shape)
    for name, content in others.kernels.items():
        yield Change(f"kernel {name}", ("kernel",), replace(artefacts, kernel=replace(plain, kernel=content)), shape)


def _firmware(shape: Shape, name: str) -> Shape:
    """The shape with another firmware build: of the version that it is named by, else taken to be the shape's."""
    known = shape.firmware.version if shape.firmware else None
    try:
        words = {"name": name, "version": name if name[:1].isdigit() else known}
        return shape.model_copy(update={"firmware": Firmware.model_validate(words)})
    except ValueError:
        return shape


def _variables(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    """Other variables: those at hand, and none where there are some."""
    found = dict(others.variables)
    whole, apart = artefacts.firmware, artefacts.firmware_variables
    present = apart if apart is not None else whole
    if present is not None and (cleared := _cleared(present)) is not None:
        found["cleared"] = cleared
    for name, content in found.items():
        if apart is not None:
            changed = replace(artefacts, firmware_variables=content)
        elif whole is not None and len(content) <= len(whole):
            changed = replace(artefacts, firmware=content + whole[len(content) :])
        else:
            continue
        yield Change(f"firmware variables {name}", ("firmware variables",), changed, shape)


def _cleared(data: bytes) -> bytes | None:
    """A file with an empty variable store; None where there is none, or it is empty already."""
    try:
        if not parse_store(data).variables:
            return None
    except ArtefactError:
        return None
    store = int.from_bytes(data[48:50], "little")
    size = int.from_bytes(data[store + 16 : store + 20], "little")
    kept = store + 28
    return data[:kept] + b"\xff" * (size - 28) + data[store + size :]


def _monitor(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    qemu = shape.qemu
    if qemu is None:
        return

    def of(change: str, moved: Input, **values: Any) -> Iterator[Change]:
        changed = {**{name: getattr(qemu, name) for name in Qemu.model_fields}, **values}
        return _of_shape(artefacts, shape, change, (moved,), qemu=changed)

    known = tuple(other.qemu for other in others.shapes if other.qemu is not None)
    for version in dict.fromkeys((*(item.version for item in known), *QEMUS)):
        yield from of(f"QEMU {version}", "qemu", version=version)
    for kind in dict.fromkeys((*(item.machine for item in known), *MACHINES)):
        yield from of(f"machine type {kind}", "machine", machine=kind)
    for option in dict.fromkeys((*qemu.options, *OPTIONS)):
        if option in qemu.options:
            left = tuple(item for item in qemu.options if item != option)
            yield from of(f"machine without {option}", "machine", options=left)
        else:
            yield from of(f"machine with {option}", "machine", options=(*qemu.options, option))
    for model in dict.fromkeys((*(other.cpu for other in others.shapes if other.cpu), *CPUS)):
        if shape.cpu is not None:
            yield from _of_shape(artefacts, shape, f"processor {model}", ("cpu",), cpu=model)


def _hardware(artefacts: Artefacts, shape: Shape, others: Others) -> Iterator[Change]:
    """Devices added and left out."""

    def of(change: str, **values: Any) -> Iterator[Change]:
        return _of_shape(artefacts, shape, change, ("devices",), **values)

    for device in dict.fromkeys((*others.devices, *DEVICES)):
        for item in of(f"device {device} added", devices=(*shape.devices, device)):
            yield replace(item, note="" if device in others.devices else _ANY_DEVICE)
    for i, device in enumerate(shape.devices):
        yield from of(f"device {device} left out", devices=(*shape.devices[:i], *shape.devices[i + 1 :]))
    yield from of(f"{'no ' if shape.network else ''}network card", network=not shape.network)
    if shape.platform not in {"tpm", "gcp", "azure"}:
        yield from of(f"{'no ' if shape.tpm else ''}TPM", tpm=not shape.tpm)
    order = ("image", "config", "model", "state")
    for disk in order[1:]:
        if disk in shape.disks:
            yield from of(f"no {disk} disk", disks=tuple(item for item in shape.disks if item != disk))
        else:
            kept = {*shape.disks, disk}
            yield from of(f"{disk} disk added", disks=tuple(item for item in order if item in kept))
    for count in (0, 1, 2, 4, 8):
        yield from of(f"{count} GPU{'' if count == 1 else 's'}", gpus=count)


def _shape_inputs(shape: Shape, other: Shape) -> tuple[Input, ...]:
    """What two shapes do not share, in the words of inputs."""
    fields: tuple[tuple[str, Input], ...] = (
        ("memory_mib", "memory"), ("vcpus", "vcpus"), ("qemu", "qemu"), ("firmware", "firmware"), ("boot", "boot"),
        ("cpu", "cpu"), ("disks", "devices"), ("network", "devices"), ("tpm", "devices"), ("gpus", "devices"),
        ("devices", "devices"),
    )  # fmt: skip
    return tuple(dict.fromkeys(word for name, word in fields if getattr(shape, name) != getattr(other, name)))
