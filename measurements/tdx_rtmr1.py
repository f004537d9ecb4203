"""RTMR1 of a TDX machine: the code that it boots.

By disk: calling a boot option, separator, partition table, image, the kernel inside it. By direct boot QEMU's image is
loaded before firmware says that it starts a boot option: image or kernel, calling, separator, the kernel inside an
image. Then the two words with which boot services are left. Firmware until 2024.08 has the separator in RTMR0. What
cards bring along (option ROMs) is ignored in a TDX guest, and so measured nowhere.

Sources: EDK II ``SecurityPkg/Library/DxeTpm2MeasureBootLib`` (images and partition table),
``OvmfPkg/IncompatiblePciDeviceSupportDxe`` (cards), ``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`` (the rest). Which register
holds what: UEFI 2.10, section 38.4.1 (a TPM's registers 2 to 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements import authenticode, gpt_event, linux_boot
from measurements.errors import MeasurementError
from measurements.prediction import PredictedEvent
from measurements.tdx_rtmr0 import event, separator
from measurements.tpm import CALLING

if TYPE_CHECKING:
    from measurements.artefacts import PlainKernel
    from measurements.prediction import Input
    from measurements.tdx_firmware import Build, Layout
    from measurements.uki import Uki

LEAVING = b"Exit Boot Services Invocation"
LEFT = b"Exit Boot Services Returned with Success"
_BANK = "sha384"


def disk_events(
    image: bytes, parsed: Uki, disk: bytes, layout: Layout, *, secure: bool = False
) -> tuple[PredictedEvent, ...]:
    """Events of a machine whose firmware finds an image on a disk.

    Args:
        image: The unified kernel image.
        parsed: The same, read.
        disk: The disk's first sectors.
        layout: The order in which firmware measures.
        secure: Whether secure boot is enforced: then the image vouches for its kernel, which firmware does not see.

    Raises:
        ArtefactError: No partition table, or no image.
    """
    table = event(
        gpt_event.gpt_data(disk), "partition table", "the disk's GPT: header and the entries in use", "disk", "image"
    )
    return (*_calling(layout), table, _image(image), *_inner_kernel(parsed, secure=secure), *_leaving())


def direct_events(image: bytes, parsed: Uki, layout: Layout, *, secure: bool = False) -> tuple[PredictedEvent, ...]:
    """Events of a machine to which QEMU hands an image; arguments as :func:`disk_events`.

    Raises:
        ArtefactError: No image.
    """
    return (_image(image), *_calling(layout), *_inner_kernel(parsed, secure=secure), *_leaving())


def kernel_events(
    plain: PlainKernel, layout: Layout, build: Build, *, qemu: tuple[int, ...], memory: int, secure: bool = False
) -> tuple[PredictedEvent, ...]:
    """Events of a machine to which QEMU hands a plain kernel.

    Args:
        plain: Kernel, initrd and command line.
        layout: The order in which firmware measures.
        build: What is in the firmware.
        qemu: Version as numbers.
        memory: Size of the machine's memory, in bytes.
        secure: Whether secure boot is enforced.

    Raises:
        ArtefactError: No kernel that firmware can start.
        MeasurementError: QEMU would refuse initrd or command line, or firmware a kernel that QEMU has changed.
    """
    if not linux_boot.header_is_filled_in(qemu, firmware_takes_named=build.named_kernel):
        source = "Authenticode digest of the kernel"
        digest = authenticode.digest(plain.kernel, _BANK)
        return started(PredictedEvent(digest, "kernel", source, ("kernel", "qemu")), layout)
    if secure:
        raise MeasurementError(
            "QEMU fills the kernel's header in, which no signature survives: under secure boot firmware refuses it",
            hint=f"QEMU {linux_boot.LEFT_ALONE_SINCE[0]}.{linux_boot.LEFT_ALONE_SINCE[1]} leaves it alone",
        )
    size = None if plain.initrd is None else len(plain.initrd)
    content = linux_boot.filled_in(plain.kernel, initrd_size=size, command_line=plain.command_line, memory=memory)
    source = "Authenticode digest of the kernel with its header filled in by QEMU"
    inputs: tuple[Input, ...] = ("kernel", "qemu", "memory", "initrd")
    return started(PredictedEvent(authenticode.digest(content, _BANK), "kernel", source, inputs), layout)


def started(kernel: PredictedEvent, layout: Layout) -> tuple[PredictedEvent, ...]:
    """Events of a machine to which QEMU hands a kernel of that digest."""
    return (kernel, *_calling(layout), *_leaving())


def _image(image: bytes) -> PredictedEvent:
    source = "Authenticode digest of the unified kernel image"
    moved: tuple[Input, ...] = ("image", "kernel", "initrd", "command line")
    return PredictedEvent(authenticode.digest(image, _BANK), "image", source, moved)


def _inner_kernel(parsed: Uki, *, secure: bool) -> tuple[PredictedEvent, ...]:
    """The kernel that an image's stub starts; under secure boot past firmware's checks, and so past its measurement."""
    if secure:
        return ()
    source = "Authenticode digest of the image's section .linux"
    moved: tuple[Input, ...] = ("kernel", "firmware variables")
    return (PredictedEvent(authenticode.digest(parsed.sections[".linux"], _BANK), "kernel", source, moved),)


def _calling(layout: Layout) -> tuple[PredictedEvent, ...]:
    calling = event(CALLING, "calling a boot option", f"the text {CALLING.decode()!r}")
    return (calling, separator()) if layout.separator_in_rtmr1 else (calling,)


def _leaving() -> tuple[PredictedEvent, ...]:
    return (
        event(LEAVING, "leaving firmware", f"the text {LEAVING.decode()!r}"),
        event(LEFT, "left firmware", f"the text {LEFT.decode()!r}"),
    )
