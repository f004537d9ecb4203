"""What may have moved an event, most likely first, and what to do about it.

In: what differs and what does not. Out: ordered causes. A predicted event lists what can move it; which of these did is
judged by everything else that was seen: an input that another event depends on as well, and that event is as predicted,
is less likely; one that all differing events share is more likely. Nothing here is certain; certainty comes from a
digest (:mod:`measurements.explain_search`) or from data that the digest is the hash of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from measurements.explanation import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from measurements.prediction import Input


class Words(NamedTuple):
    """How an input is spoken of: what differs, and what to do."""

    differs: str
    remedy: str


WORDS: Mapping[Input, Words] = {
    "acpi": Words(
        "the machine monitor built other ACPI tables",
        "capture the tables of this very machine with chrysalis measure acpi, or start it as its shape says",
    ),
    "boot": Words(
        "the machine was booted in another way, or in another order",
        "boot it as the shape says (disk or direct) and from the image first, or predict the other way",
    ),
    "command line": Words(
        "another kernel command line",
        "remove -append, SMBIOS strings, addons and boot-loader entries that add to it; the image's own is measured",
    ),
    "configuration": Words(
        "another measured configuration",
        "start the machine with the configuration that was predicted, or predict with the one that it has",
    ),
    "cpu": Words("another processor model", "name the processor's model in the shape, or start the machine with it"),
    "devices": Words(
        "another list of devices, or another order of them",
        "give the machine the devices of its shape in their order, or list them in the shape",
    ),
    "disk": Words(
        "another disk: its partition table or what lies on it",
        "attach the disk of the release, written to it as it is; resizing and repairing tools change the table",
    ),
    "firmware": Words(
        "another firmware build",
        "start the machine with the firmware file that the shape names, or predict with the file that it uses",
    ),
    "firmware variables": Words(
        "other firmware variables, as Secure Boot keys that were enrolled or cleared",
        "start from a fresh copy of the variables file, or predict with the variables that it has",
    ),
    "image": Words("another image", "boot the release's image unchanged, or predict with the image that it boots"),
    "initrd": Words("another initrd", "boot the release's initrd; remove credentials and addons that add to it"),
    "kernel": Words("another kernel", "boot the release's kernel, or predict with the kernel that it boots"),
    "machine": Words(
        "another machine type, or other properties of it",
        "start the machine with the machine type and options of its shape, with the version in its name",
    ),
    "memory": Words("another memory size", "give the machine the memory of its shape, or list a shape with this size"),
    "model": Words(
        "another model", "start the machine with the model that was predicted, or predict with the one that it has"
    ),
    "phase": Words(
        "the machine had come to another point of its boot",
        "ask again when it is up (phase ready) and before it stops",
    ),
    "qemu": Words(
        "another QEMU version",
        "start the machine with the QEMU version of its shape, or list a shape with this version",
    ),
    "vcpus": Words(
        "another number of virtual processors",
        "give the machine the processors of its shape, or list a shape with this number",
    ),
}
"""For every input."""

COVERS: Mapping[str, str] = {
    "mrtd": "the firmware as it was loaded, page by page",
    "rtmr0": "the firmware's settings: memory layout, variables, ACPI tables, boot order",
    "rtmr1": "what the firmware started: image or kernel",
    "rtmr2": "command line and initrd, and the image's sections",
    "rtmr3": "what the running guest measured",
    "mrconfigid": "the measured configuration, set at launch",
    "measurement": "the firmware, the processors' first state and, with kernel hashes, kernel, initrd, command line",
    "host_data": "the measured configuration, set at launch",
    "pcr0": "the firmware's code",
    "pcr1": "the machine: ACPI tables, boot order and boot options",
    "pcr2": "option ROMs and drivers of devices",
    "pcr3": "settings of option ROMs",
    "pcr4": "what the firmware started: image and kernel",
    "pcr5": "the disk's partition table, and the way to the system",
    "pcr6": "nothing but a separator",
    "pcr7": "the Secure Boot policy: keys, lists, and whether it is on",
    "pcr8": "commands of a boot loader",
    "pcr9": "command line and initrd as the kernel got them",
    "pcr10": "files that the kernel measured",
    "pcr11": "the image's sections, and how far it has booted",
    "pcr12": "what was added from outside: command line, credentials, addons",
    "pcr13": "extensions of the system",
    "pcr14": "the measured configuration",
    "pcr15": "the machine's identity in the running system",
}
"""What a register covers, in a few words."""

ADDED: Mapping[str, tuple[Input, ...]] = {
    "rtmr0": ("firmware", "firmware variables", "boot", "devices"),
    "rtmr1": ("boot", "image", "disk"),
    "rtmr2": ("command line", "image", "initrd"),
    "rtmr3": ("configuration", "phase"),
    "pcr0": ("firmware",),
    "pcr1": ("boot", "devices", "machine", "firmware"),
    "pcr2": ("devices",),
    "pcr3": ("devices",),
    "pcr4": ("boot", "image"),
    "pcr5": ("disk", "boot"),
    "pcr6": ("firmware",),
    "pcr7": ("firmware variables",),
    "pcr8": ("boot",),
    "pcr9": ("initrd", "command line", "boot"),
    "pcr10": ("image",),
    "pcr11": ("phase", "image"),
    "pcr12": ("command line", "devices"),
    "pcr13": ("disk",),
    "pcr14": ("configuration",),
    "pcr15": ("disk", "image"),
}
"""What adds an event that nobody predicted, by register, most likely first."""


FIRMWARE_MADE: frozenset[str] = frozenset({"rtmr0", "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr5", "pcr6", "pcr7"})
"""Registers of which firmware decides what is measured at all: another build may move any event of them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A predicted event of which it is known whether it is as predicted.

    Attributes:
        register: Where.
        name: Which.
        inputs: What could move it.
        equal: Whether it is as predicted.
    """

    register: str
    name: str
    inputs: tuple[Input, ...]
    equal: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of inputs besides single events.

    Attributes:
        proven: Inputs that a digest proved to differ, in any register.
        tried: Inputs of which changes were tried that move the register, none of which gives what was seen.
        inert: Inputs of which several changes were tried, and none would move the register.
    """

    proven: frozenset[Input] = frozenset()
    tried: frozenset[Input] = frozenset()
    inert: frozenset[Input] = frozenset()


def likely(inputs: Sequence[Input], evidence: Iterable[Seen], known: Known) -> tuple[Cause, ...]:
    """Causes of one difference.

    An input is less likely where events that depend on it are as predicted in more registers than of the other inputs:
    an argument that speaks against all of them alike speaks against none.

    Args:
        inputs: What can have moved it, in the predictor's order.
        evidence: Every other event that is known to be equal or different.
        known: Of inputs as a whole.

    Returns:
        One cause for each input, most likely first.
    """
    kept = tuple(evidence)
    listed = tuple(dict.fromkeys(inputs))
    equal = {moved: [seen for seen in kept if moved in seen.inputs and seen.equal] for moved in listed}
    registers = {moved: len({seen.register for seen in found}) for moved, found in equal.items()}
    least = min(registers.values(), default=0)
    ranked = []
    for place, moved in enumerate(listed):
        differing = sum(moved in seen.inputs and not seen.equal for seen in kept)
        against = registers[moved] > least
        sentence = WORDS[moved].differs
        if moved in known.proven:
            sentence += "; that it does is proven by another event"
        elif against:
            other = equal[moved][0]
            sentence += f"; less likely: {other.name} in {other.register} depends on it, too, and is as predicted"
        elif moved in known.inert:
            sentence += "; less likely: no other value that was tried would move this register"
        elif differing:
            sentence += f"; {differing} other difference{'s' if differing > 1 else ''} would have the same cause"
        if moved in known.tried:
            sentence += "; none of the values that were tried gives what was seen"
        share = (differing + 1) / (differing + registers[moved] + 2)
        doubtful = moved not in known.proven and (against or moved in known.inert)
        ranked.append((moved not in known.proven, doubtful, -share, place, moved, sentence))
    return tuple(Cause(moved, sentence, WORDS[moved].remedy) for *_, moved, sentence in sorted(ranked))


def certain(change: str, inputs: Sequence[Input], what: str, detail: str) -> tuple[Cause, ...]:
    """The causes that a digest proves: with a change, the prediction is what was seen.

    Args:
        change: The change in a few words.
        inputs: What it changes, one input for each cause.
        what: What agrees then, for example ``register rtmr0`` or ``this event``.
        detail: More to be said of it; may be empty.
    """
    proof = f"with {change}, {what} is predicted to be exactly what was seen" + (f"; {detail}" if detail else "")
    return tuple(
        Cause(moved, f"{WORDS[moved].differs}: {proof}", WORDS[moved].remedy, certain=True) for moved in inputs
    )


def stated(moved: Input, text: str) -> Cause:
    """The cause that an event states itself, in data that its digest is the hash of."""
    return Cause(moved, f"{WORDS[moved].differs}: the event says {text}", WORDS[moved].remedy, certain=True)
