"""What the TPM of a machine of ours holds after it booted: registers 0 to 15 from files and the machine's shape.

Firmware, variables, ACPI tables, partition table, image and configuration go in; each register comes out with its
events, or with the reason why no file decides it. Nothing here has seen a log or a quote.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4; EDK II ``SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c``
(OnReadyToBoot, MeasureSecureBootPolicy, OnExitBootServices), ``OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c``; Linux 6.12
``security/integrity/ima`` (register 10). ``docs/measurements-tpm.md`` lists every event, and what was proven by which
boot.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from measurements import (
    acpi_measured,
    boot_options,
    firmware_volume,
    gpt_event,
    secure_boot,
    tpm,
    tpm_firmware,
    uki,
    variable_store,
)
from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent, Prediction, Register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from measurements.artefacts import Artefacts
    from measurements.prediction import Input
    from measurements.shape import Shape

SEPARATOR = PredictedEvent(hashlib.sha256(tpm.SEPARATOR).digest(), "separator", "four zero bytes")
EXITS = tuple(
    PredictedEvent(hashlib.sha256(text).digest(), name, f"the text {text.decode()!r}")
    for text, name in (
        (b"Exit Boot Services Invocation", "leaving firmware"),
        (b"Exit Boot Services Returned with Success", "left firmware"),
    )
)
"""What ends firmware's services, in register 5."""

WITHOUT_ROM = frozenset(
    {"pcie-root-port", "virtio-balloon-pci", "virtio-blk-pci", "virtio-rng-pci", "virtio-scsi-pci", "virtio-serial-pci"}
)
"""Devices that bring no code of their own into firmware; others do, unless they say ``romfile=`` or ``rombar=0``."""
_MEASURING_OPTIONS = ("ima_policy", "ima_appraise", "ima_template", "ima_hash", "ima=")
_Events = tuple[PredictedEvent, ...]


def predict(artefacts: Artefacts, shape: Shape, *, phases: Sequence[str] = tpm.PHASES) -> Prediction:
    """Predict registers 0 to 15 of a machine that booted an image of ours.

    Args:
        artefacts: What is at hand. The image decides registers 4, 9, 11 and 12; the firmware 0; its variables 7; the
            ACPI tables 1; the disk's first sectors 5; the measured configuration 14.
        shape: A shape of platform ``tpm``.
        phases: A first part of :data:`measurements.tpm.PHASES`, which register 11 counts; all of them is a machine that
            is up.

    Returns:
        A value for every register that these files decide; the reason for each other.

    Raises:
        MeasurementError: The shape is not one of a machine with a TPM of QEMU's, or no machine goes by these phases.
        ArtefactError: No image is given, or one whose measurements are not known.
    """
    if shape.platform != "tpm" or not shape.tpm:
        raise MeasurementError(
            f"shape {shape.name} of platform {shape.platform}, {'with' if shape.tpm else 'without'} a TPM",
            hint="this predictor is for QEMU's machines with a TPM: platform = 'tpm', tpm = true",
        )
    machine = _Machine(artefacts, shape, phases)
    found: dict[str, Register] = {}
    missing: dict[str, str] = {}
    for number, events in machine.registers().items():
        name = f"pcr{number}"
        try:
            found[name] = Register.replayed(name, "sha256", events())
        except MeasurementError as error:
            missing[name] = str(error)
    try:
        found["pcr10"] = Register.replayed("pcr10", "sha256", machine.integrity(found))
    except MeasurementError as error:
        missing["pcr10"] = str(error)
    ordered = {f"pcr{number}": found[f"pcr{number}"] for number in range(16) if f"pcr{number}" in found}
    return Prediction(shape.platform, shape.boot, shape.name, ordered, missing)


class _Machine:
    """One machine's events, register by register; each raises where a file is missing or decides nothing."""

    def __init__(self, artefacts: Artefacts, shape: Shape, phases: Sequence[str]) -> None:
        self._artefacts = artefacts
        self._shape = shape
        image = artefacts.need("image", "every register from 4 on")
        self._image = tpm.predict(image, boot=shape.boot, phases=phases)

    def registers(self) -> Mapping[int, Callable[[], _Events]]:
        """What makes each register but 10, which is made of the others."""
        return {
            0: self._code,
            1: self._settings,
            2: self._option_roms,
            3: lambda: (SEPARATOR,),
            4: self._started,
            5: self._partitions,
            6: lambda: (SEPARATOR,),
            7: self._policy,
            8: tuple,
            9: lambda: self._image.events[9],
            11: lambda: self._image.events[11],
            12: lambda: self._image.events[12],
            13: tuple,
            14: lambda: configuration(self._artefacts.measured_config, expected="config" in self._shape.disks),
            15: tuple,
        }

    @cached_property
    def _firmware(self) -> firmware_volume.UnpackedFirmware:
        artefacts = self._artefacts
        name = "firmware" if artefacts.firmware_code is None and artefacts.firmware is not None else "firmware_code"
        file = artefacts.need(name, "what firmware measures of itself")
        wanted = self._shape.firmware.sha256 if self._shape.firmware else None
        seen = hashlib.sha256(file).hexdigest()
        if wanted is not None and seen != wanted:
            raise ArtefactError(f"firmware with SHA-256 {seen}, shape {self._shape.name} has {wanted}")
        return firmware_volume.unpack(file)

    @cached_property
    def _version(self) -> bytes:
        stated = self._shape.firmware.version if self._shape.firmware else None
        return tpm_firmware.crtm_version(self._firmware, stated)

    @cached_property
    def _variables(self) -> variable_store.VariableStore:
        artefacts = self._artefacts
        whole = artefacts.firmware_variables is None and artefacts.firmware is not None
        return variable_store.parse_store(
            artefacts.need("firmware" if whole else "firmware_variables", "the variables of secure boot")
        )

    def _code(self) -> _Events:
        """Register 0."""
        pei = tpm_firmware.pei_in_memory(self._firmware.pei, self._shape.qemu.machine if self._shape.qemu else "q35")
        return (
            _event(self._version, "firmware version", "the build's name as UTF-16 with its end", "firmware"),
            _event(
                pei,
                "firmware volume PEI",
                "the volume as it is unpacked, with the timer's port where its core writes it",
                "firmware",
                "machine",
            ),
            _event(self._firmware.dxe.content, "firmware volume DXE", "the volume as it is unpacked", "firmware"),
            SEPARATOR,
        )

    def _settings(self) -> _Events:
        """Register 1."""
        if tpm_firmware.measures_tables(self._firmware) and tpm_firmware.measures_settings(self._version):
            raise MeasurementError(
                "firmware of 2025.05 or later measures the monitor's SMBIOS tables and settings, too, which are no file"
            )
        if self._variables.booted:
            raise ArtefactError(
                "variables of a machine that ran before: firmware keeps its boot options and adds to them",
                hint="start from a fresh copy of OVMF_VARS.fd, as this project's machines do",
            )
        if any("bootindex" in device for device in self._shape.devices):
            raise MeasurementError("a device with a bootindex of its own: firmware makes a boot option for it, too")
        options = (
            _event(item.data, item.name, f"the value of {item.variable}", *item.inputs)
            for item in boot_options.boot_variables(self._shape.boot, self._firmware.dxe)
        )
        return (*self._tables(), *options, SEPARATOR)

    def _tables(self) -> _Events:
        """The part of register 1 that the machine monitor decides."""
        if not tpm_firmware.measures_tables(self._firmware):
            return ()
        acpi = self._artefacts.acpi
        if acpi is None:
            raise ArtefactError(
                "no ACPI tables given: the machine monitor makes them for the machine's shape",
                hint="capture them from that QEMU with this shape, or take a shape of the library",
            )
        return acpi_measured.events(acpi)

    def _option_roms(self) -> _Events:
        """Register 2: code that devices bring along; that of GPUs and network cards is not shown to firmware."""
        for device in self._shape.devices:
            kind, *options = device.split(",")
            if kind not in WITHOUT_ROM and not {"romfile=", "rombar=0"} & set(options):
                raise MeasurementError(
                    f"device {kind!r} may bring code of its own into firmware",
                    hint="give it an empty romfile=, or rombar=0 where it is passed through",
                )
        return (SEPARATOR,)

    def _started(self) -> _Events:
        """Register 4. Under secure boot the image vouches for the kernel in it, and firmware does not look at that."""
        events = self._image.events[4]
        return tuple(event for event in events if event.name != "kernel") if self._enforced else events

    def _partitions(self) -> _Events:
        """Register 5: the table of the disk that was booted from, and the end of firmware's services."""
        if self._shape.boot == "direct":
            return (SEPARATOR, *EXITS)
        disk = self._artefacts.need("disk", "the partition table of the disk that is booted")
        table = _event(
            gpt_event.gpt_data(disk), "partition table", "header and used entries of the disk's GPT", "disk", "boot"
        )
        return (SEPARATOR, table, *EXITS)

    def _policy(self) -> _Events:
        """Register 7."""
        known = tpm_firmware.knows_secure_boot(self._firmware)
        before = secure_boot.policy(self._variables, known=known)
        if not (known and self._variables.secure_boot):
            return (*before, SEPARATOR)
        image = self._artefacts.need("image", "who signed what is booted")
        return (*before, SEPARATOR, secure_boot.authority(self._variables, image))

    @property
    def _enforced(self) -> bool:
        """Whether firmware starts only what is signed; without firmware's files: not, as on machines of ours."""
        artefacts = self._artefacts
        if artefacts.firmware is None and (artefacts.firmware_code is None or artefacts.firmware_variables is None):
            return False
        return self._variables.secure_boot and tpm_firmware.knows_secure_boot(self._firmware)

    def integrity(self, registers: Mapping[str, Register]) -> _Events:
        """Register 10: the first entry of the kernel's own list is a digest over registers 0 to 9.

        Raises:
            MeasurementError: One of those registers is not predicted, or the command line asks for further entries.
        """
        missing = [f"pcr{number}" for number in range(10) if f"pcr{number}" not in registers]
        if missing:
            raise MeasurementError(f"it is made of registers 0 to 9, and {', '.join(missing)} cannot be predicted")
        options = uki.parse(self._artefacts.need("image", "its command line")).command_line
        asked = [word for word in options.split() if word.startswith(_MEASURING_OPTIONS)]
        if asked:
            raise MeasurementError(f"the command line asks the kernel for further measurements: {' '.join(asked)}")
        content = boot_aggregate([registers[f"pcr{number}"].value for number in range(10)])
        inputs: tuple[Input, ...] = tuple(
            dict.fromkeys(
                item for number in range(10) for event in registers[f"pcr{number}"].events for item in event.inputs
            )
        )
        return (_event(content, "boot aggregate", "registers 0 to 9 as the kernel's first list entry", *inputs),)


def boot_aggregate(registers: Sequence[bytes]) -> bytes:
    """The first entry of the kernel's list of measured files, whose digest register 10 is extended with.

    Its template is ``ima-sig``, as Debian's kernels have it: hash and name of it, file name, no signature.

    Args:
        registers: 0 to 9, 32 bytes each.
    """
    aggregate = hashlib.sha256(b"".join(registers)).digest()
    fields = (b"sha256:\0" + aggregate, b"boot_aggregate\0", b"")
    return b"".join(len(item).to_bytes(4, "little") + item for item in fields)


def configuration(measured: bytes | None, *, expected: bool) -> tuple[PredictedEvent, ...]:
    """What the guest extends register 14 with.

    Args:
        measured: Digest of the measured configuration, 32 bytes; None where it is not known or there is none.
        expected: Whether the machine is given a configuration.

    Raises:
        ArtefactError: One is given to the machine, and its digest is not known.
    """
    if measured is not None:
        source = "a domain and the digest of the measured configuration"
        return (PredictedEvent(tpm.configuration_digest(measured), "configuration", source, ("configuration",)),)
    if expected:
        raise ArtefactError("no measured configuration given", hint="its digest is part of a machine's identity")
    source = "what the guest says where it was given no configuration"
    return (PredictedEvent(tpm.REFUSED_CONFIGURATION, "no configuration", source, ("configuration",)),)


def _event(content: bytes, name: str, source: str, *inputs: Input) -> PredictedEvent:
    return PredictedEvent(hashlib.sha256(content).digest(), name, source, inputs)
