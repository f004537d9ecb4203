"""What machines will measure of a release: every machine of the shape library, computed from the release's files.

In: a directory with the files, and the profile they are of. Out: the manifest's register sets. Nothing is started and
no machine is asked: the ACPI tables of each shape were captured once and lie in the library, so that the same files
give the same sets on every machine that builds them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from appliance.image import artefacts as release
from measurements import shape_library, tpm
from measurements.artefacts import Artefacts
from measurements.errors import MeasurementError
from measurements.manifest import MAX_REGISTER_SETS, Registers
from measurements.predictors import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from measurements.shape import Shape

ANY: Final = "any"
"""The shape of the sets that hold what the image alone decides, whatever machine's TPM it is."""
DISK_BYTES: Final = 1 << 20
"""Of the disk: its partition table with all entries lies in the first sectors."""
GPU_PROFILE: Final = "engine-gpu"
_BOOTS: tuple[tpm.Boot, ...] = ("direct", "disk")


@dataclass(slots=True)
class ReleaseFiles:
    """The files of a release that machines measure, each read once and only when it is needed.

    Attributes:
        directory: Where they are.
    """

    directory: Path
    _read: dict[tuple[str, int], bytes | None] = field(default_factory=dict, repr=False)

    def artefacts(self, shape: Shape | None = None) -> Artefacts:
        """What a predictor takes: the firmware of the shape's platform, and the tables of a shape of the library."""
        flash = shape is None or shape.platform == "tpm"
        firmware = release.FIRMWARE_SNP if shape is not None and shape.platform == "snp" else release.FIRMWARE
        return Artefacts(
            firmware=self.content(firmware),
            firmware_code=self.content(release.FIRMWARE_CODE) if flash else None,
            firmware_variables=self.content(release.FIRMWARE_VARIABLES) if flash else None,
            image=self.content(release.UKI),
            disk=self.content(release.DISK, DISK_BYTES),
            acpi=shape_library.acpi(shape.name) if shape is not None else None,
        )

    def measured_firmware(self, shape: Shape) -> bytes | None:
        """The file that :attr:`measurements.shape.Firmware.sha256` speaks of, of the shape's platform."""
        names = {"tdx": release.FIRMWARE, "snp": release.FIRMWARE_SNP, "tpm": release.FIRMWARE_CODE}
        return self.content(names[shape.platform]) if shape.platform in names else None

    def content(self, name: str, limit: int = -1) -> bytes | None:
        """The first bytes of a file of the release, all by default; None where it has none of that name."""
        key = name, limit
        if key not in self._read:
            try:
                with (self.directory / name).open("rb") as file:
                    self._read[key] = file.read(limit)
            except FileNotFoundError:
                self._read[key] = None
        return self._read[key]


def predicted_registers(directory: Path, profile: str, say: Callable[[str], None]) -> tuple[Registers, ...]:
    """The register sets of a release: for every shape that can run it, and for any machine's TPM.

    A set holds the registers that can be predicted. One that would leave open which image runs is no set: a policy
    could not go by it, and a root contract that listed it would list every image.

    Args:
        directory: Where the files are.
        profile: What was built; machines with GPUs run ``engine-gpu`` alone.
        say: Told of each shape of the library that has no set, and why.

    Raises:
        ArtefactError: The image is not one whose measurements are known.
        MeasurementError: The library has more shapes than a manifest holds.
    """
    files = ReleaseFiles(directory)
    found = [*_any(files), *_by_shape(files, profile, say)]
    if len(found) > MAX_REGISTER_SETS:
        raise MeasurementError(f"{len(found)} register sets, a manifest holds {MAX_REGISTER_SETS}")
    return tuple(sorted(found, key=lambda entry: (entry.platform, entry.boot, entry.shape)))


def _any(files: ReleaseFiles) -> Iterator[Registers]:
    image = files.artefacts().need("image", "every register")
    for boot in _BOOTS:
        values = tpm.predict(image, boot=boot).registers
        yield Registers(
            platform="tpm",
            boot=boot,
            shape=ANY,
            values={f"pcr{number}": value.hex() for number, value in values.items()},
        )


def _by_shape(files: ReleaseFiles, profile: str, say: Callable[[str], None]) -> Iterator[Registers]:
    for name in shape_library.names():
        shape = shape_library.shape(name)
        if shape.gpus and profile != GPU_PROFILE:
            continue
        reason = _other_firmware(files, shape)
        if not reason:
            try:
                prediction = predict(files.artefacts(shape), shape)
            except MeasurementError as error:
                reason = str(error)
            else:
                values = {register: value.hex() for register, value in prediction.values.items()}
                entry = Registers(platform=shape.platform, boot=shape.boot, shape=name, values=values)
                if entry.decides_image:
                    yield entry
                    continue
                why = "; ".join(f"{register}: {text}" for register, text in sorted(prediction.unpredicted.items()))
                reason = f"what can be predicted leaves open which image runs ({why or 'nothing measures the image'})"
        say(f"no registers for shape {name}: {reason}")


def _other_firmware(files: ReleaseFiles, shape: Shape) -> str:
    """Why a shape is of another firmware than the release's; empty if it is not."""
    stated = shape.firmware.sha256 if shape.firmware else None
    if stated is None:
        return ""
    content = files.measured_firmware(shape)
    if content is None:
        return "the release has no firmware for it"
    seen = hashlib.sha256(content).hexdigest()
    return "" if seen == stated else f"it is of firmware {stated[:16]}…, the release's is {seen[:16]}…"
