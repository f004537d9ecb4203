"""What a manifest is made of: its kinds of values, each with its bounds, and its smaller parts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_INTEGER = 2**53 - 1
"""RFC 8785, section 3.2.2.3: larger integers do not survive every reader."""
MAX_TIME = 253402300799
"""The last second of the year 9999: every time of a manifest can be shown as a date."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RegisterValue = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96})$")]
"""SHA-256 or SHA-384, lower-case hex."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$")]
Printable = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,4096}$")]
Natural = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
UnixTime = Annotated[int, Field(ge=0, le=MAX_TIME)]
RegisterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{1,15}[0-9]{0,2}$")]


class Part(BaseModel):
    """What every table of a manifest is: unknown keys are refused, nothing changes after it was read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        protected_namespaces=(),
        json_schema_serialization_defaults_required=True,
    )


class Artefact(Part):
    """One file of the release: its name in the release's directory, length in bytes, SHA-256."""

    name: FileName
    size: Natural
    sha256: Digest


class Engine(Part):
    """The model server inside the image."""

    name: Word
    version: Word


class BuildRecipe(Part):
    """How anybody makes the same files from ``source_commit``.

    Attributes:
        profile: What the build is asked for; the manifest's own profile.
        mkosi_version: Of the builder, as the tools' lock has it.
        tools_lock: SHA-256 of the lock of the tools that build.
        command: The command that builds it, this manifest included, to the bit.
    """

    profile: Word
    mkosi_version: Word
    tools_lock: Digest
    command: Printable


class Registers(Part):
    """Predicted registers of one platform, one way to boot and one machine shape.

    ``boot`` is ``disk`` (the firmware finds the image's ESP) or ``direct`` (the host hands over the UKI); ``shape`` is
    a machine's of the shape library, or ``any`` where the machine moves none of these values. Keys of ``values`` are
    ``pcr4``, ``rtmr1``, ``mrtd``, ``measurement``…; a register that nobody can predict is not among them.
    """

    platform: Word
    boot: Literal["disk", "direct"]
    shape: Word = "any"
    values: Annotated[dict[RegisterName, RegisterValue], Field(min_length=1, max_length=64)]

    @property
    def decides_image(self) -> bool:
        """Whether a machine that reports these values can run no other image.

        A processor's own registers have to cover the firmware and what it starts: of TDX, MRTD and RTMR1 and 2; of
        SEV-SNP the launch digest, which covers a kernel only if the host hands it over. A TPM's have to cover the image
        (4) and its parts (11); its firmware is the platform's, which vouches for the TPM. Google's firmware for Intel
        machines measures the image into register 2 instead, and whoever predicts for Google states both.
        """
        names = self.values.keys()
        of_tdx, of_tpm = {"mrtd", "rtmr1", "rtmr2"} <= names, {"pcr4", "pcr11"} <= names
        decided = {
            "tdx": of_tdx,
            "gcp": of_tdx or (of_tpm and "pcr2" in names),
            "snp": self.boot == "direct" and "measurement" in names,
            "azure": of_tpm,
            "tpm": of_tpm,
        }
        return decided.get(self.platform, False)
