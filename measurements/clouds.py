"""What the virtual TPM of a cloud's machine holds after it booted an image of ours, as far as public facts go.

Neither cloud publishes the firmware that its machines run, so what that firmware measures of itself and of its settings
cannot be computed. What it measures of a disk's image can be, where it is known to follow the TCG's profile; what the
image's own stub, kernel and guest measure is the same everywhere.

Google's Intel machines have one peculiarity: their firmware speaks to the processor's registers and to the TPM in one
go, and counts the second's as the first's. Partition table, image and kernel end up in register 2, not in 5 and 4.

Sources: logs of Google's machines, each of which replays (github.com/google/go-eventlog, ``testdata/eventlogs/tpm``;
github.com/Dstack-TEE/dstack, ``cc-eventlog/samples/tpm_eventlog.bin``, whose registers 0 to 2 are quoted); EDK II
``SecurityPkg/Library/DxeTpm2MeasureBootLib`` (where the register's number is overwritten); reference values that
another project predicts and enforces on both clouds (github.com/edgelesssys/constellation,
``internal/attestation/measurements/measurements_enterprise.go`` and ``image/measured-boot/measure``). Nothing of ours
was booted on either.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from measurements import gpt_event, tpm
from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent, Prediction, Register
from measurements.tpm_machine import EXITS, SEPARATOR, configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from measurements.artefacts import Artefacts
    from measurements.shape import Shape

GOOGLE_INTEL = ("a3-", "c3-")
"""Google's families of machines with TDX."""

GOOGLE_AMD = ("c2d-", "c3d-", "c4d-", "n2d-")
"""Google's families of machines with SEV or SEV-SNP."""

_GOOGLE_TDX = 3
"""``GCEConfidentialTechnology``: 1 SEV, 2 SEV-ES, 3 TDX, 4 SEV-SNP."""
_SETTINGS = "it holds ACPI tables and boot options of the cloud's monitor, which nobody outside has"
_POLICY = "it holds the cloud's lists of keys and of what is revoked, which change without notice"
_AGGREGATE = "it is made of registers 0 to 9, and not all of them can be predicted"
_AZURE_CODE = "it holds Microsoft's firmware, of which no build is published"
_AZURE_DISK = "it is not public what this firmware measures of a partition table"
_AZURE_MACHINE = "it names the single machine"
_Events = tuple[PredictedEvent, ...]
_Recipes = dict[int, "Callable[[], _Events] | str"]


def predict(artefacts: Artefacts, shape: Shape) -> Prediction:
    """Predict the registers of a machine in Google's or Microsoft's cloud.

    The image is taken to be booted from the disk as it was built, without secure boot, with nothing added.

    Args:
        artefacts: The image; the disk's first sectors; the digest of the measured configuration.
        shape: A shape of platform ``gcp`` or ``azure``. On Google's, ``instance`` is the machine type, and the version
            of ``firmware`` is the number that Google's firmware says of itself.

    Returns:
        A value for every register that public facts decide; the reason for each other.

    Raises:
        MeasurementError: The shape is not one of a cloud.
        ArtefactError: No image is given, or one whose measurements are not known.
    """
    if shape.platform not in {"gcp", "azure"}:
        raise MeasurementError(f"shape {shape.name} of platform {shape.platform}, expected gcp or azure")
    image = tpm.predict(artefacts.need("image", "every register"), boot="disk")
    recipes = _common(artefacts, image)
    recipes |= _google(artefacts, shape, image) if shape.platform == "gcp" else _azure(image)
    found: dict[str, Register] = {}
    missing: dict[str, str] = {}
    for number in range(16):
        name, recipe = f"pcr{number}", recipes[number]
        if isinstance(recipe, str):
            missing[name] = recipe
            continue
        try:
            found[name] = Register.replayed(name, "sha256", recipe())
        except MeasurementError as error:
            missing[name] = str(error)
    return Prediction(shape.platform, shape.boot, shape.name, found, missing)


def _common(artefacts: Artefacts, image: tpm.TpmPrediction) -> _Recipes:
    """What the image's own code measures, and what nothing in it extends; firmware's settings are the cloud's own."""
    return {
        1: _SETTINGS,
        3: lambda: (SEPARATOR,),
        6: lambda: (SEPARATOR,),
        7: _POLICY,
        8: tuple,
        9: lambda: image.events[9],
        10: _AGGREGATE,
        11: lambda: image.events[11],
        12: lambda: image.events[12],
        13: tuple,
        14: lambda: configuration(artefacts.measured_config, expected=True),
        15: tuple,
    }


def _google(artefacts: Artefacts, shape: Shape, image: tpm.TpmPrediction) -> _Recipes:
    """Firmware's registers on Google's machines, by the processor's maker."""
    type_ = shape.instance or ""
    calling, separator, itself, kernel = image.events[4]

    def table() -> PredictedEvent:
        disk = artefacts.need("disk", "the partition table of the disk that is booted")
        source = "header and used entries of the disk's GPT"
        return PredictedEvent(hashlib.sha256(gpt_event.gpt_data(disk)).digest(), "partition table", source, ("disk",))

    if type_.startswith(GOOGLE_INTEL):
        return {
            0: lambda: _google_code(shape),
            2: lambda: (SEPARATOR, table(), itself, kernel),
            4: lambda: (calling, separator),
            5: lambda: (SEPARATOR, *EXITS),
        }
    if type_.startswith(GOOGLE_AMD):
        return {
            0: "it names the technology that encrypts memory, and the shape does not say which of AMD's it is",
            2: lambda: (SEPARATOR,),
            4: lambda: image.events[4],
            5: lambda: (SEPARATOR, table(), *EXITS),
        }
    families = ", ".join(name.rstrip("-") for name in sorted((*GOOGLE_INTEL, *GOOGLE_AMD)))
    why = (
        f"it is not known what firmware of machine type {type_ or 'unstated'!r} measures into it; known are {families}"
    )
    return dict.fromkeys((0, 2, 4, 5), why)


def _google_code(shape: Shape) -> _Events:
    """Register 0 of Google's Intel machines: a number and the kind of encryption, but none of the firmware's code.

    Raises:
        ArtefactError: The shape does not say the number.
    """
    version = shape.firmware.version if shape.firmware else None
    if version is None:
        raise ArtefactError(
            "it holds the number of Google's firmware, which the shape does not state",
            hint='[firmware] version = "2" says "GCE Virtual Firmware v2"',
        )
    name = f"GCE Virtual Firmware v{version}\0".encode("utf-16-le")
    kind = b"GCE NonHostInfo\0" + bytes([_GOOGLE_TDX]) + bytes(15)
    return (
        PredictedEvent(
            hashlib.sha256(name).digest(), "firmware version", "the text with its number as UTF-16", ("firmware",)
        ),
        PredictedEvent(
            hashlib.sha256(kind).digest(), "memory encryption", "Google's mark of a machine with TDX", ("machine",)
        ),
        SEPARATOR,
    )


def _azure(image: tpm.TpmPrediction) -> _Recipes:
    """Firmware's registers on Azure's confidential machines; the image's are those of any firmware by the profile."""
    separator: Mapping[int, Callable[[], _Events]] = dict.fromkeys((1, 2, 3), lambda: (SEPARATOR,))
    return {**separator, 0: _AZURE_CODE, 4: lambda: image.events[4], 5: _AZURE_DISK, 6: _AZURE_MACHINE}
