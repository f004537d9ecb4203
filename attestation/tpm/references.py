"""Reference values of a TPM machine, what each register covers, and the identity that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation import claims
from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLATFORM = "tpm"
IDENTITY_REGISTERS = (4, 9, 11, 12, 14)
"""Registers that say what was booted; the rest is firmware's, whose values no image decides."""

COVERS: Mapping[int, str] = {
    2: "code of devices; on Google's Intel machines image and kernel",
    4: "what firmware started: the image and its kernel",
    9: "command line and initrd as the kernel got them",
    11: "the image's sections, and how far it has booted",
    12: "command-line overrides, credentials and addons",
    14: "measured configuration",
}
"""What each of them covers, for people."""

HINTS: Mapping[int, str] = {
    2: "a device brought code of its own, or firmware measures images here: state the register of such machines",
    4: "another image file than the listed one was started, or something else before it",
    9: "the command line or the initrd differs: built into another image, or added to by the host",
    11: "another image was started, or it was quoted before it was up (phase ready)",
    12: "the host added something: remove SMBIOS strings, credentials, addons and -append",
    14: "the machine was started with another measured configuration",
}
"""What a difference of one register most likely means."""

TOGETHER: Mapping[frozenset[int], str] = {
    frozenset({4}): "the stub's own code differs, or the image was started in the other way (disk, direct)",
    frozenset({4, 11}): "the kernel or another section of the image differs, but not command line or initrd",
    frozenset({4, 9, 11}): "the image's command line, initrd or os-release differs",
    frozenset({9, 12}): "the host added to command line or initrd: SMBIOS strings, credentials, addons, -append",
    frozenset({12}): "the host added something that the kernel was not handed, a profile or a device tree",
    frozenset({11}): "the right image, quoted before it was up (phase ready) or after it began to stop",
    frozenset({14}): "the right image, started with another measured configuration",
}
"""What a difference of exactly these registers most likely means."""


@dataclass(frozen=True, slots=True)
class TpmReference:
    """What one image measures.

    Attributes:
        name: For people.
        registers: Values of :data:`IDENTITY_REGISTERS`, 32 bytes each; 14 may be missing, and 2 may be there.
    """

    name: str
    registers: Mapping[int, bytes]

    def __post_init__(self) -> None:
        missing = {4, 9, 11, 12} - set(self.registers)
        unknown = set(self.registers) - {2, *IDENTITY_REGISTERS}
        if missing or unknown or any(len(value) != 32 for value in self.registers.values()):
            raise EvidenceError(
                f"reference {self.name!r} has registers {sorted(self.registers)}, expected 32 bytes for 4, 9, 11, 12"
            )

    def explain(self, registers: Mapping[int, bytes]) -> Mapping[int, str]:
        """What the difference of each differing register most likely means, the first in view of all of them."""
        differing = self.differing(registers)
        hints = {register: HINTS[register] for register in differing}
        if differing and (together := TOGETHER.get(frozenset(differing))):
            hints[differing[0]] = together
        return hints

    def differing(self, registers: Mapping[int, bytes]) -> tuple[int, ...]:
        """Registers whose values are not the reference's."""
        return tuple(register for register, value in sorted(self.registers.items()) if registers[register] != value)


def image_hash(registers: Mapping[int, bytes]) -> bytes:
    """Identity of a TPM machine: its image and its measured configuration.

    Args:
        registers: At least :data:`IDENTITY_REGISTERS`, 32 bytes each, SHA-256 bank; more are not looked at.

    Returns:
        32 bytes, as the root contract lists them.

    Raises:
        EvidenceError: A register is missing or has another length.
    """
    values = {f"pcr{register}": registers.get(register, b"") for register in IDENTITY_REGISTERS}
    short = [name for name, value in values.items() if len(value) != 32]
    if short:
        raise EvidenceError(f"identity of a TPM machine without 32 bytes for {', '.join(short)}")
    return claims.platform_image_hash(PLATFORM, values)
