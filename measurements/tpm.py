"""What a TPM's registers will hold after a unified kernel image booted: the file in, values and their events out.

The predictor is given the image alone, never a log or a quote. It speaks of the SHA-256 bank and of the registers that
the image decides: 4 (what firmware started), 9 (what the kernel was handed), 11 (what the image is made of, and how far
it has booted), 12 (what was added from outside: nothing), 14 (the measured configuration, extended by the guest).
Registers 0 to 7 hold the firmware and its settings, which no image file knows: :mod:`measurements.tpm_machine`.

Sources: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4 and 10.4 (register 4); systemd 257
``src/boot/stub.c`` (11, 12), ``src/boot/cpio.c`` (the archive that carries ``.extra``), ``src/pcrextend`` (phases);
Linux 6.12 ``drivers/firmware/efi/libstub/efi-stub-helper.c`` (9). Each was seen to hold on a booted guest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from measurements import authenticode, uki
from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from measurements.prediction import Input

Boot = Literal["disk", "direct"]
"""``disk``: firmware finds the image on its EFI system partition; ``direct``: the machine monitor hands it over."""

PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
"""What ``systemd-pcrphase`` measures on the way up, in order."""

STUBS = (255, 256, 257)
"""Versions of the systemd stub that measure as predicted; later ones start the kernel in another way."""

REFUSED_CONFIGURATION = hashlib.sha256(b"chrysalis configuration refused v1\0").digest()
"""What the guest extends register 14 with where it accepted no configuration, or was given none."""

RESET = bytes(32)
CALLING = b"Calling EFI Application from Boot Option"
SEPARATOR = bytes(4)
_CONFIGURATION_DOMAIN = b"chrysalis measured configuration v1\0"
_EXTRA = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)
"""Sections that the stub hands to the initrd as files under ``.extra``, in its order."""
_CARRIED: Mapping[str, tuple[Input, ...]] = {
    ".linux": ("kernel",),
    ".cmdline": ("command line",),
    ".initrd": ("initrd",),
}
"""Sections that are an input of their own, besides being the image's."""
_TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0" + bytes(3)
"""The end of an archive; its one digit above nine is upper case, unlike those of the entries."""


@dataclass(frozen=True, slots=True)
class TpmPrediction:
    """Values of the registers that an image decides.

    Attributes:
        boot: How the image is started.
        phases: The phases that are behind the machine when it is quoted.
        events: By register, in order.
    """

    boot: Boot
    phases: tuple[str, ...]
    events: Mapping[int, tuple[PredictedEvent, ...]]

    @property
    def registers(self) -> dict[int, bytes]:
        """Values of the SHA-256 bank by register, 32 bytes each."""
        return {register: replay(event.digest for event in events) for register, events in self.events.items()}


def extend(value: bytes, digest: bytes) -> bytes:
    """One extension of a SHA-256 register (TPM 2.0 Library, part 1, section 17.2)."""
    return hashlib.sha256(value + digest).digest()


def replay(digests: Iterable[bytes]) -> bytes:
    """The value of a register that began at zero and was extended with ``digests``; 32 bytes."""
    value = RESET
    for digest in digests:
        value = extend(value, digest)
    return value


def predict(image: bytes, *, boot: Boot, phases: Sequence[str] = PHASES) -> TpmPrediction:
    """Predict registers 4, 9, 11 and 12 for a machine that boots an image without anything added.

    Args:
        image: The unified kernel image, as ``chrysalis.efi`` or on the EFI system partition.
        boot: How it is started.
        phases: A first part of :data:`PHASES`; all of them is a machine that is up.

    Raises:
        ArtefactError: Not an image whose measurements are known: see the message.
        MeasurementError: ``boot`` or ``phases`` are not what a machine does.
    """
    phases = tuple(phases)
    if phases != PHASES[: len(phases)]:
        raise MeasurementError(f"phases {':'.join(phases)!r}, expected the first of {':'.join(PHASES)!r}")
    if boot not in get_args(Boot):
        raise MeasurementError(f"boot by {boot!r}, expected disk or direct")
    parsed = uki.parse(image)
    _check_predictable(parsed)
    return TpmPrediction(
        boot,
        phases,
        {4: _started(image, parsed, boot), 9: _handed_over(parsed), 11: _contents(parsed, phases), 12: ()},
    )


def configuration_digest(measured: bytes) -> bytes:
    """What the guest extends register 14 with.

    Args:
        measured: Digest of the ``MeasuredConfig``, 32 bytes.

    Returns:
        32 bytes: SHA-256 of a domain and the digest.

    Raises:
        MeasurementError: The digest has another length.
    """
    if len(measured) != 32:
        raise MeasurementError(f"digest of a measured configuration of {len(measured)} bytes, expected 32")
    return hashlib.sha256(_CONFIGURATION_DOMAIN + measured).digest()


def configuration_register(measured: bytes) -> bytes:
    """Value of register 14 on a machine with a measured configuration; arguments as :func:`configuration_digest`."""
    return replay([configuration_digest(measured)])


def _check_predictable(parsed: uki.Uki) -> None:
    if parsed.stub_version not in STUBS:
        raise ArtefactError(
            f"image with systemd-stub {parsed.stub}, known are {STUBS[0]} to {STUBS[-1]}",
            hint="other stubs measure in another order; a prediction would be wrong, not merely imprecise",
        )
    if not parsed.command_line:
        raise ArtefactError("image without a command line", hint="it would take one from the host: build it with one")
    chosen = [name for name in uki.BY_HARDWARE if name in parsed.sections]
    if chosen:
        raise ArtefactError(f"image with {', '.join(chosen)}", hint="what is measured of it depends on the hardware")


def _started(image: bytes, parsed: uki.Uki, boot: Boot) -> tuple[PredictedEvent, ...]:
    """Register 4. A monitor's image is loaded before firmware says that it starts a boot option, a disk's after."""
    itself = PredictedEvent(
        authenticode.digest(image),
        "image",
        "Authenticode digest of the unified kernel image",
        ("image", "kernel", "initrd", "command line", "boot"),
    )
    calling = _constant(CALLING, "calling a boot option", f"the text {CALLING.decode()!r}")
    separator = _constant(SEPARATOR, "separator", "four zero bytes")
    kernel = PredictedEvent(
        authenticode.digest(parsed.sections[".linux"]),
        "kernel",
        "Authenticode digest of the image's section .linux",
        # Where secure boot is on, the stub starts it past the firmware's checks, and so past its measurement.
        ("image", "kernel", "firmware variables"),
    )
    if boot == "direct":
        return itself, calling, separator, kernel
    return calling, separator, itself, kernel


def _handed_over(parsed: uki.Uki) -> tuple[PredictedEvent, ...]:
    """Register 9: the kernel measures its load options, then the initrd that the stub put together."""
    options = parsed.command_line.encode("utf-16-le") + b"\0\0"
    return (
        PredictedEvent(
            hashlib.sha256(options).digest(),
            "command line",
            "the image's section .cmdline as UTF-16 with its end",
            ("image", "command line"),
        ),
        PredictedEvent(
            hashlib.sha256(_initrd(parsed)).digest(),
            "initrd",
            "the image's sections .ucode and .initrd, and the archive of what the stub adds under .extra",
            ("image", "initrd"),
        ),
    )


def _contents(parsed: uki.Uki, phases: tuple[str, ...]) -> tuple[PredictedEvent, ...]:
    """Register 11: name and contents of every section, then a word for each phase."""
    events = []
    for name, content in parsed.measured:
        events.append(_constant(name.encode() + b"\0", f"name {name}", "the section's name with its end"))
        events.append(
            PredictedEvent(
                hashlib.sha256(content).digest(),
                f"section {name}",
                f"the image's section {name}",
                ("image", *_CARRIED.get(name, ())),
            )
        )
    events.extend(_constant(phase.encode(), f"phase {phase}", f"the word {phase!r}", "phase") for phase in phases)
    return tuple(events)


def _constant(content: bytes, name: str, source: str, *inputs: Input) -> PredictedEvent:
    return PredictedEvent(hashlib.sha256(content).digest(), name, source, inputs)


def _initrd(parsed: uki.Uki) -> bytes:
    """All archives one after the other, each filled up to four bytes; one alone is left as it is."""
    sections = parsed.sections
    parts = [sections[name] for name in (".ucode", ".initrd") if name in sections]
    parts.extend(_archive(filename, sections[name]) for name, filename in _EXTRA if name in sections)
    return parts[0] if len(parts) == 1 else b"".join(_filled(part) for part in parts)


def _archive(filename: str, content: bytes) -> bytes:
    """A cpio archive ("newc") with ``.extra`` (mode 0555) and one file in it (mode 0444), as the stub writes it."""
    return _entry(1, 0o040555, ".extra", b"") + _entry(2, 0o100444, f".extra/{filename}", content) + _TRAILER


def _entry(inode: int, mode: int, name: str, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _filled(head + path) + _filled(content)


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
