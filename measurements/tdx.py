"""What a TDX machine will report: artefacts and a machine's shape in, its registers out.

Predicted are MRTD, RTMR0 to RTMR3 and MRCONFIGID, for a unified kernel image by disk and by direct boot and for a
plain kernel by direct boot. A register that one artefact or one fact is missing for is named in ``unpredicted`` with
the reason; the others are predicted all the same. The predictor is never given a log or a quote.

Sources: see the modules of the registers; MRCONFIGID: QEMU 10.1 ``docs/system/i386/tdx.rst``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from measurements import mrtd, secure_boot, tdvf, tdx_firmware, tdx_rtmr0, tdx_rtmr1, tdx_rtmr2, uki
from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent, Prediction, Register
from measurements.tpm import _check_predictable as check_predictable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from measurements.artefacts import Artefacts, PlainKernel
    from measurements.shape import Qemu, Shape

MIB: Final = 1024**2
CONFIGURATION_SIZE: Final = 32
_BANK: Final = "sha384"
_REGISTER_SIZE: Final = 48
_GUEST: Final = "the running guest extends it, and what a plain kernel's guest does is not known: its log says it"


def predict(artefacts: Artefacts, shape: Shape) -> Prediction:
    """Predict the registers of a TDX machine.

    Args:
        artefacts: ``firmware`` for any register but MRCONFIGID; ``acpi`` for RTMR0; ``image`` or ``kernel`` for RTMR1
            and RTMR2; ``disk`` for RTMR1 by disk boot; ``measured_config`` for MRCONFIGID.
        shape: A machine of platform ``tdx``.

    Returns:
        Registers ``mrtd``, ``rtmr0`` to ``rtmr3`` and ``mrconfigid``; under ``unpredicted`` those that cannot be said.

    Raises:
        ArtefactError: No firmware, or one that is none for TDX.
        MeasurementError: The shape is of another platform, or not a machine that TDX has.
    """
    machine = _Machine(artefacts, shape, _qemu(shape))
    registers = {"mrtd": _mrtd(machine.firmware, machine.parsed, machine.qemu)}
    unpredicted: dict[str, str] = {}
    for name, events in machine.registers.items():
        try:
            registers[name] = Register.replayed(name, _BANK, events())
        except MeasurementError as error:
            unpredicted[name] = str(error)
    try:
        registers["mrconfigid"] = _configuration(artefacts)
    except ArtefactError as error:
        unpredicted["mrconfigid"] = str(error)
    return Prediction("tdx", shape.boot, shape.name, registers, unpredicted)


@dataclass(frozen=True)
class _Machine:
    """What the registers of one machine are made of, each part read once and only when it is needed."""

    artefacts: Artefacts
    shape: Shape
    qemu: Qemu

    @property
    def registers(self) -> Mapping[str, Callable[[], tuple[PredictedEvent, ...]]]:
        """Events by register; asking raises what stands in the way."""
        return {"rtmr0": self._rtmr0, "rtmr1": self._rtmr1, "rtmr2": self._rtmr2, "rtmr3": self._rtmr3}

    @cached_property
    def firmware(self) -> bytes:
        return self.artefacts.need("firmware", "every register of a TDX machine")

    @cached_property
    def parsed(self) -> tdvf.Tdvf:
        return tdvf.parse(self.firmware)

    @cached_property
    def layout(self) -> tdx_firmware.Layout:
        return tdx_firmware.layout(self.shape.firmware.version if self.shape.firmware else None)

    @cached_property
    def build(self) -> tdx_firmware.Build:
        return tdx_firmware.build(self.firmware)

    def admits(self, started: bytes) -> bool:
        """Whether firmware starts only what is signed.

        Raises:
            ArtefactError: It does, and would not start this.
        """
        store = tdx_rtmr0.variables(self.firmware, self.parsed)
        enforced = tdx_rtmr0.enforced(store, self.build)
        if enforced:
            secure_boot.authority_content(store, started)
        return enforced

    @cached_property
    def image(self) -> uki.Uki:
        parsed = uki.parse(self.artefacts.need("image", "RTMR1 and RTMR2 of a machine that boots one"))
        check_predictable(parsed)
        return parsed

    @property
    def memory(self) -> int:
        return self.shape.memory_mib * MIB

    def _rtmr0(self) -> tuple[PredictedEvent, ...]:
        acpi = self.artefacts.acpi
        if acpi is None:
            raise ArtefactError(
                "no ACPI tables given, needed for RTMR0",
                hint="capture them from QEMU for this shape, or take a library's",
            )
        if any(option.startswith("max-ram-below-4g") for option in self.qemu.options):
            raise MeasurementError("a machine whose low memory is set by max-ram-below-4g")
        if self.shape.boot == "disk" and any("bootindex" in device for device in self.shape.devices):
            raise MeasurementError("a device with a bootindex of its own: firmware makes a boot option for it, too")
        return tdx_rtmr0.events(
            tdx_rtmr0.Machine(
                firmware=self.firmware,
                parsed=self.parsed,
                layout=self.layout,
                build=self.build,
                memory=self.memory,
                acpi=acpi,
                boot=self.shape.boot,
                started=self.artefacts.image if self.artefacts.kernel is None else self.artefacts.kernel.kernel,
            )
        )

    def _rtmr1(self) -> tuple[PredictedEvent, ...]:
        plain = self._plain()
        if plain is not None:
            secure = self.admits(plain.kernel)
            return tdx_rtmr1.kernel_events(
                plain, self.layout, self.build, qemu=self.qemu.numbers, memory=self.memory, secure=secure
            )
        image = self.artefacts.need("image", "RTMR1")
        secure = self.admits(image)
        if self.shape.boot == "direct":
            return tdx_rtmr1.direct_events(image, self.image, self.layout, secure=secure)
        disk = self.artefacts.need("disk", "RTMR1 by disk boot: its partition table is measured")
        return tdx_rtmr1.disk_events(image, self.image, disk, self.layout, secure=secure)

    def _rtmr2(self) -> tuple[PredictedEvent, ...]:
        plain = self._plain()
        return tdx_rtmr2.image_events(self.image) if plain is None else tdx_rtmr2.kernel_events(plain)

    def _rtmr3(self) -> tuple[PredictedEvent, ...]:
        """Nothing: firmware leaves it alone, and the guest of an image of ours extends it with nothing."""
        if self._plain() is not None:
            raise MeasurementError(_GUEST)
        self.artefacts.need("image", "RTMR3: what a running guest extends it with is the image's")
        return ()

    def _plain(self) -> PlainKernel | None:
        """The plain kernel that the machine boots, if it is not an image.

        Raises:
            ArtefactError: Image and kernel are both given.
            MeasurementError: A plain kernel is to be found on a disk.
        """
        plain = self.artefacts.kernel
        if plain is None:
            return None
        if self.artefacts.image is not None:
            raise ArtefactError(
                "an image and a plain kernel given", hint="the machine boots one of them: leave one out"
            )
        if self.shape.boot != "direct":
            raise MeasurementError(f"a plain kernel by {self.shape.boot} boot", hint="plain kernels boot directly")
        return plain


def _qemu(shape: Shape) -> Qemu:
    if shape.platform != "tdx" or shape.qemu is None:
        raise MeasurementError(f"shape {shape.name} of platform {shape.platform}, expected tdx")
    if not shape.qemu.machine.startswith(("q35", "pc-q35")):
        raise MeasurementError(f"a TDX machine of type {shape.qemu.machine}, expected q35 or pc-q35-…")
    return shape.qemu


def _mrtd(firmware: bytes, parsed: tdvf.Tdvf, qemu: Qemu) -> Register:
    """MRTD; its events say what goes into it: contents that are measured, and how everything is laid out."""
    parts = [
        PredictedEvent(
            hashlib.sha384(tdvf.content(firmware, section)).digest(),
            f"firmware volume {section.kind.name}",
            "the firmware file's section, as it stands",
            ("firmware",),
        )
        for section in parsed.sections
        if section.attributes & tdvf.EXTENDED
    ]
    parts.append(
        tdx_rtmr0.event(
            parsed.descriptor, "memory layout", "the firmware file's TDX metadata, as they stand", "firmware"
        )
    )
    order = mrtd.page_order(qemu.numbers)
    parts.append(
        tdx_rtmr0.event(order.encode(), "page order", f"the words {order!r}: how this QEMU adds pages", "qemu")
    )
    return Register("mrtd", _BANK, mrtd.mrtd(firmware, parsed, order), tuple(parts), extended=False)


def _configuration(artefacts: Artefacts) -> Register:
    """MRCONFIGID, which the launch sets: the digest and 16 zero bytes."""
    digest = artefacts.need("measured_config", "MRCONFIGID")
    if len(digest) != CONFIGURATION_SIZE:
        raise ArtefactError(f"digest of a measured configuration of {len(digest)} bytes, expected {CONFIGURATION_SIZE}")
    value = digest.ljust(_REGISTER_SIZE, b"\0")
    source = "SHA-256 of the measured configuration and 16 zero bytes, set at launch"
    return Register(
        "mrconfigid",
        _BANK,
        value,
        (PredictedEvent(value, "configuration", source, ("configuration",)),),
        extended=False,
    )
