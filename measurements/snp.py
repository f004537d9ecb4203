"""SEV-SNP's launch digest, before the machine exists: of its firmware, its processors and a kernel that is handed over.

In: firmware (a build with SEV metadata), the image where it is handed over, the shape. Out: the register
``measurement`` and, where a measured configuration is given, ``host_data``. The digest chain, the metadata, the hash
table and the processors' first state are the library sev-snp-measure's; what is read is bounded here first, for it
trusts its files.

Sources: AMD SEV-SNP Firmware ABI 1.58, section 8.17.2 (PAGE_INFO); edk2
``OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm``; QEMU ``target/i386/sev.c`` (hash table, order of the parts). QEMU
hashes a kernel as it was given, its header unchanged, and ours is a unified image: no initrd and an empty command line
beside it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.guest import snp_update_section
from sevsnpmeasure.ovmf import OVMF, SectionType
from sevsnpmeasure.sev_hashes import SevHashes
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA

from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent, Prediction, Register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from measurements.artefacts import Artefacts
    from measurements.prediction import Input
    from measurements.shape import Shape

PAGE = 4096
MAX_FIRMWARE = 16 << 20
MAX_SECTIONS = 64
MAX_SECTION_BYTES = 16 << 20
"""All sections together; OVMF's are a few hundred KiB of the first MiB of its working memory."""
FEATURES = 0x1
"""What QEMU and KVM set in the first state's SEV_FEATURES: SEV-SNP is active, nothing else (bit 0; AMD64 manual,
volume 2, table B-4). A host with debug swap switched on sets bit 5 besides."""

_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, ValueError)
"""What the library raises over a file that it cannot read."""
_NAMES = {
    SectionType.SNP_SEC_MEM: ("firmware memory", "zero pages"),
    SectionType.SNP_SECRETS: ("secrets page", "a page of its own type, without contents"),
    SectionType.CPUID: ("processor features page", "a page of its own type, without contents"),
    SectionType.SVSM_CAA: ("calling area", "zero pages"),
    SectionType.SNP_KERNEL_HASHES: ("kernel hashes", "zero pages: no kernel is handed over"),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """What QEMU hands over, as its table of hashes has it.

    Attributes:
        content: The kernel's file.
        initrd: Its initrd; empty without one.
        command_line: As given to QEMU.
        inputs: What moves it.
    """

    content: bytes
    initrd: bytes = b""
    command_line: str = ""
    inputs: tuple[Input, ...] = ("image",)


def predict(artefacts: Artefacts, shape: Shape) -> Prediction:
    """Predict the registers of an SEV-SNP machine.

    Args:
        artefacts: ``firmware``; for direct boot ``image`` or ``kernel``; ``measured_config`` for ``host_data``.
        shape: The machine; its ``cpu`` is QEMU's name of the processor model.

    Raises:
        ArtefactError: A file is missing, or firmware without SEV metadata.
        MeasurementError: The shape is none of SEV-SNP, or its processor model is not known.
    """
    if shape.platform != "snp":
        raise MeasurementError(f"shape {shape.name} is one of {shape.platform}, expected snp")
    firmware = artefacts.need("firmware", "SEV-SNP's launch digest")
    measurement = launch_digest(
        firmware, vcpus=shape.vcpus, cpu=shape.cpu or "", kernel=_kernel(artefacts) if shape.boot == "direct" else None
    )
    registers = {"measurement": measurement}
    unpredicted = {}
    if artefacts.measured_config is None:
        unpredicted["host_data"] = "no measured configuration is given"
    else:
        registers["host_data"] = _host_data(artefacts.measured_config)
    return Prediction("snp", shape.boot, shape.name, registers, unpredicted)


def launch_digest(
    firmware: bytes, *, vcpus: int, cpu: str, kernel: Kernel | None = None, features: int = FEATURES
) -> Register:
    """SEV-SNP's launch digest of a machine that QEMU starts.

    Args:
        firmware: The firmware file; it ends at 4 GiB.
        vcpus: How many processors.
        cpu: Their model, as QEMU names it.
        kernel: What is handed over; None leaves the table of hashes empty.
        features: SEV_FEATURES of the processors' first state.

    Returns:
        The register ``measurement``. Its events are the parts in the order in which they are added: each one's digest
        is SHA-384 of the part's contents, for the pages without contents of their address and length.

    Raises:
        ArtefactError: Firmware that is no such firmware, or one that cannot measure a kernel.
        MeasurementError: The processor model is not known.
    """
    if cpu not in CPU_SIGS:
        raise MeasurementError(
            f"processor model {cpu!r}: its signature is not known", hint=f"known are {', '.join(sorted(CPU_SIGS))}"
        )
    read = _read(firmware)
    context = GCTX()
    context.update_normal_pages(read.gpa(), firmware)
    events = [_event(firmware, "firmware", "the firmware file, page by page", "firmware")]
    events += _sections(read, context, kernel)
    events += _processors(read, context, vcpus, CPU_SIGS[cpu], features)
    return Register("measurement", "sha384", context.ld(), tuple(events), extended=False)


def _sections(read: OVMF, context: GCTX, kernel: Kernel | None) -> Iterator[PredictedEvent]:
    """The pages that firmware's metadata names, in its order."""
    hashes = None if kernel is None else _Hashes(kernel)
    if hashes is not None and not read.has_metadata_section(SectionType.SNP_KERNEL_HASHES):
        raise ArtefactError(
            "the firmware has no place for the hashes of a kernel that is handed over",
            hint="take the build for it: OVMF.amdsev.fd (Debian's package ovmf-amdsev)",
        )
    for section in read.metadata_items():
        kind = section.section_type()
        _library(partial(snp_update_section, section, context, read, hashes, VMMType.QEMU))
        name, source = _NAMES[kind]
        if kernel is not None and hashes is not None and kind is SectionType.SNP_KERNEL_HASHES:
            page = hashes.construct_page(read.sev_hashes_table_gpa() % PAGE)
            yield _event(page, name, "the page with the hashes of kernel, initrd and command line", *kernel.inputs)
        else:
            place = section.gpa.to_bytes(8, "little") + section.size.to_bytes(8, "little")
            yield _event(place, name, f"{source}, {section.size} bytes at {section.gpa:#x}", "firmware")


def _processors(read: OVMF, context: GCTX, vcpus: int, signature: int, features: int) -> Iterator[PredictedEvent]:
    """The first state of every processor: all but the first one begin where firmware says."""

    def pages() -> list[bytes]:
        state = VMSA(SevMode.SEV_SNP, read.sev_es_reset_eip(), signature, features, VMMType.QEMU)
        return list(state.pages(vcpus))

    first, *further = _library(pages)
    context.update_vmsa_page(first)
    yield _event(first, "first processor", "its state at reset, by the processor's model", "cpu")
    if not further:
        return
    event = _event(further[0], "further processor", "its state at reset, by model and firmware", "vcpus", "cpu")
    for page in further:  # all alike
        context.update_vmsa_page(page)
        yield event


def _kernel(artefacts: Artefacts) -> Kernel:
    if artefacts.image is None and artefacts.kernel is not None:
        plain = artefacts.kernel
        return Kernel(plain.kernel, plain.initrd or b"", plain.command_line, ("kernel", "initrd", "command line"))
    return Kernel(artefacts.need("image", "the hashes of what is handed over"))


class _Hashes(SevHashes):  # type: ignore[misc]  # the library has no types
    """The library's table of hashes, made from bytes: its own constructor takes paths."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel_hash = hashlib.sha256(kernel.content).digest()
        self.initrd_hash = hashlib.sha256(kernel.initrd).digest()
        self.cmdline_hash = hashlib.sha256(kernel.command_line.encode() + b"\0").digest()


def _read(firmware: bytes) -> OVMF:
    """Firmware's tables, bounded.

    The library reads firmware from a path only, so this is the one place of this package that writes: a temporary file
    that is gone when the call returns.
    """
    if not 0 < len(firmware) <= MAX_FIRMWARE or len(firmware) % PAGE:
        raise ArtefactError(f"firmware of {len(firmware)} bytes, expected whole pages and at most {MAX_FIRMWARE} bytes")
    with tempfile.NamedTemporaryFile(prefix="firmware-") as file:
        file.write(firmware)
        file.flush()
        read = _library(partial(OVMF, file.name))
    sections = read.metadata_items()
    if not sections:
        raise ArtefactError("the firmware has no SEV-SNP metadata", hint="take OVMF.amdsev.fd")
    if len(sections) > MAX_SECTIONS or sum(section.size for section in sections) > MAX_SECTION_BYTES:
        raise ArtefactError(f"the firmware's metadata name {len(sections)} sections, or more than they can hold")
    _library(lambda: [section.section_type() for section in sections])
    if any(section.size % PAGE or section.gpa % PAGE for section in sections):
        raise ArtefactError("the firmware's metadata name a section that is not whole pages")
    return read


def _library(call: Callable[[], Any]) -> Any:
    """A call of the library over bytes that may be anything."""
    try:
        return call()
    except _FAILURES as error:
        raise ArtefactError(f"the firmware's SEV metadata: {str(error) or type(error).__name__}") from None


def _host_data(digest: bytes) -> Register:
    """HOST_DATA (AMD SEV-SNP Firmware ABI, section 7.3): what the launch carries, here the configuration's digest."""
    if len(digest) != 32:
        raise MeasurementError(f"digest of a measured configuration of {len(digest)} bytes, expected 32")
    event = PredictedEvent(digest, "configuration", "SHA-256 of the measured configuration", ("configuration",))
    return Register("host_data", "sha256", digest, (event,), extended=False)


def _event(content: bytes, name: str, source: str, *inputs: Input) -> PredictedEvent:
    return PredictedEvent(hashlib.sha384(content).digest(), name, source, inputs)
