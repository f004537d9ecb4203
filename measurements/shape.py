"""The shape of a machine: everything besides the artefacts that decides what it measures. One TOML file each.

In: the text of a shape file. Out: a checked :class:`Shape`. A shape names the devices of the project's own machines
(``appliance.host.machine``) in that module's order; what the machine monitor makes of them (ACPI tables) is captured
elsewhere and handed to the predictors.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from measurements.errors import MeasurementError

MAX_SHAPE_BYTES = 16 * 1024
MIN_MEMORY_MIB = 512
MAX_MEMORY_MIB = 16 << 20
MAX_CPUS = 512
MAX_GPUS = 16

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$")]
DeviceText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+,=:/-]{0,255}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Platform = Literal["tdx", "snp", "tpm", "gcp", "azure"]
Boot = Literal["disk", "direct"]
Disk = Literal["image", "config", "model", "state"]


class ShapeError(MeasurementError):
    """A shape is not a machine that can be predicted."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Firmware(_Part):
    """The firmware build.

    Attributes:
        name: Its file or package, for people.
        version: What it says of itself in register 0 of a TPM, for example ``2025.02-8+deb13u1``.
        sha256: Of the file that is measured (``OVMF.fd``, or ``OVMF_CODE.fd`` where code and variables are two).
    """

    name: Word
    version: Word | None = None
    sha256: Digest | None = None


class Qemu(_Part):
    """The machine monitor.

    Attributes:
        version: For example ``10.0.7``; what it puts into ACPI tables and kernel headers changes with it.
        machine: Machine type as its command line has it; ``q35`` is the newest of that version.
        options: Further machine properties that change what the guest sees, for example ``smm=off``.
    """

    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,2})?$")]
    machine: Word = "q35"
    options: Annotated[tuple[DeviceText, ...], Field(max_length=16, strict=False)] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, to be compared."""
        return tuple(int(part) for part in self.version.split("."))


class Shape(_Part):
    """A machine.

    Attributes:
        name: What manifests call it.
        platform: What attests it.
        boot: ``disk``: the firmware finds the image's ESP; ``direct``: the monitor hands over the kernel.
        vcpus: Virtual processors.
        memory_mib: Memory in MiB.
        cpu: Processor model; decides SEV-SNP's launch digest.
        qemu: The monitor; None in a cloud.
        firmware: The firmware; None in a cloud that does not publish it.
        disks: Volumes in order.
        network: Whether there is a network card.
        tpm: Whether a TPM is emulated.
        gpus: Passed-through GPUs, each behind a root port of its own.
        devices: Further devices as QEMU's ``-device`` takes them, in order, after all others.
        instance: In a cloud: the machine type there.
    """

    name: Word
    platform: Platform
    boot: Boot = "disk"
    vcpus: Annotated[int, Field(ge=1, le=MAX_CPUS)]
    memory_mib: Annotated[int, Field(ge=MIN_MEMORY_MIB, le=MAX_MEMORY_MIB)]
    cpu: Word | None = None
    qemu: Qemu | None = None
    firmware: Firmware | None = None
    disks: Annotated[tuple[Disk, ...], Field(max_length=4, strict=False)] = ("image", "config", "model")
    network: bool = True
    tpm: bool = False
    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] = 0
    devices: Annotated[tuple[DeviceText, ...], Field(max_length=32, strict=False)] = ()
    instance: Word | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Shape:
        cloud = self.platform in {"gcp", "azure"}
        if cloud == (self.qemu is not None):
            msg = f"platform {self.platform} {'has no' if cloud else 'needs a'} [qemu] table"
            raise ValueError(msg)
        if cloud and self.boot != "disk":
            msg = "clouds boot from disk"
            raise ValueError(msg)
        if len(set(self.disks)) != len(self.disks):
            msg = "a disk is named twice"
            raise ValueError(msg)
        if self.platform == "snp" and self.cpu is None:
            msg = "SEV-SNP measures the processor's model: name it in cpu"
            raise ValueError(msg)
        return self


def parse_shape(text: str) -> Shape:
    """Read a shape file.

    Raises:
        ShapeError: Too long, not TOML, or unknown, missing or wrong values (each is named).
    """
    if len(text.encode()) > MAX_SHAPE_BYTES:
        raise ShapeError(f"a shape of {len(text.encode())} bytes, at most {MAX_SHAPE_BYTES} are read")
    try:
        return Shape.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ShapeError(f"the shape is not TOML: {error}") from None
    except ValidationError as error:
        found = [f"{'.'.join(str(step) for step in item['loc']) or 'file'}: {item['msg']}" for item in error.errors()]
        raise ShapeError(f"the shape is malformed: {'; '.join(found)[:600]}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and lists nested as deep
        raise ShapeError(f"the shape is not TOML that can be read: {type(error).__name__}") from None
