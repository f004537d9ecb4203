"""RTMR2 of a TDX machine: what the booted code says that it was handed.

A unified kernel image's stub measures the image's sections (what a TPM has in register 11), then the kernel measures
its command line and initrd (register 9). What a host could add from outside (register 12) is not added to a
confidential machine by the stub; addons and credentials on the disk would come in between and are not in this image.

Sources: systemd 256 to 257 ``src/boot/stub.c`` and ``src/boot/measure.c`` (the confidential computing protocol since
256); Linux 6.9 and later ``drivers/firmware/efi/libstub/efi-stub-helper.c`` (the same protocol); EDK II
``OvmfPkg/Library/X86QemuLoadImageLib`` (" initrd=initrd"). Which register holds what: UEFI 2.10, section 38.4.1 (a
TPM's registers 8 to 15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements import linux_boot
from measurements.errors import MeasurementError
from measurements.tdx_rtmr0 import event
from measurements.tpm import _initrd as initrd_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measurements.artefacts import PlainKernel
    from measurements.prediction import Input, PredictedEvent
    from measurements.uki import Uki

STUB_MEASURES_SINCE = 256
"""First systemd stub that measures into the registers of a confidential machine."""
KERNEL_MEASURES_SINCE = (6, 9)
"""First Linux that measures into the registers of a confidential machine."""
MAX_COMMAND_LINE = 64 * 1024
SECTION_INPUTS: Mapping[str, tuple[Input, ...]] = {
    ".linux": ("kernel",),
    ".cmdline": ("command line",),
    ".initrd": ("initrd",),
}
"""What moves a section of an image; ``image`` moves the others."""
_INITRD_ARGUMENT = " initrd=initrd"


def image_events(parsed: Uki) -> tuple[PredictedEvent, ...]:
    """Events of a machine that boots a unified kernel image.

    Raises:
        MeasurementError: Its kernel is too old to say what it measures.
    """
    _check_release(parsed.sections[".linux"])
    return (
        *_sections(parsed),
        event(
            _load_options(parsed.command_line),
            "command line",
            "the image's section .cmdline as UTF-16 with its end",
            *("command line", "image"),
        ),
        event(
            initrd_of(parsed),
            "initrd",
            "the image's sections .ucode and .initrd, and the archive of what the stub adds under .extra",
            *("initrd", "image"),
        ),
    )


def kernel_events(plain: PlainKernel) -> tuple[PredictedEvent, ...]:
    """Events of a machine to which QEMU hands a plain kernel.

    Raises:
        MeasurementError: A command line too long or of characters beyond 7 bits, which firmware would not hand on; or
            a kernel too old to say what it measures.
    """
    _check_release(plain.kernel)
    text = plain.command_line
    if len(text) > MAX_COMMAND_LINE or not text.isascii() or "\0" in text:
        raise MeasurementError(f"command line of {len(text)} characters, expected ASCII, at most {MAX_COMMAND_LINE}")
    if plain.initrd is None and not text:
        return ()  # firmware hands nothing over, and there is nothing to measure
    if plain.initrd is None:
        return (event(_load_options(text), "command line", "the command line as UTF-16 with its end", "command line"),)
    return (
        event(
            _load_options(text + _INITRD_ARGUMENT),
            "command line",
            f"the command line and {_INITRD_ARGUMENT!r}, which firmware adds, as UTF-16 with its end",
            *("command line", "initrd"),
        ),
        event(plain.initrd, "initrd", "the initrd as handed to QEMU", "initrd"),
    )


def _check_release(kernel: bytes) -> None:
    release = linux_boot.release(kernel)
    if release is not None and release < KERNEL_MEASURES_SINCE:
        raise MeasurementError(
            f"Linux {release[0]}.{release[1]}, kernels measure into this register from "
            f"{KERNEL_MEASURES_SINCE[0]}.{KERNEL_MEASURES_SINCE[1]} on",
            hint="some distributions' older kernels do, too: only a machine's log can say",
        )


def _sections(parsed: Uki) -> Iterator[PredictedEvent]:
    if parsed.stub_version < STUB_MEASURES_SINCE:
        return
    for name, content in parsed.measured:
        yield event(name.encode() + b"\0", f"name {name}", "the section's name with its end", "image")
        moved = SECTION_INPUTS.get(name, ("image",))
        yield event(content, f"section {name}", f"the image's section {name}", *moved)


def _load_options(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"
