"""The identity of a Google machine: what it booted, by its vTPM and, where there is one, by its TDX quote.

Firmware of Google's Intel machines measures partition table, image and kernel into register 2 of the vTPM, and nothing
of them into 4 (``measurements.clouds``): whoever runs there can extend 4 with what other firmware would have measured.
Register 2 therefore belongs to the identity. Where firmware follows the profile it holds a separator alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attestation import claims
from attestation.errors import EvidenceError
from attestation.tpm import references as tpm
from measurements.tpm import RESET, SEPARATOR, extend

if TYPE_CHECKING:
    from collections.abc import Mapping

PLATFORM = "gcp"
IDENTITY_REGISTERS = (2, *tpm.IDENTITY_REGISTERS)
"""Registers of the vTPM that say what was booted on any of Google's machines."""

BY_PROFILE = extend(RESET, hashlib.sha256(SEPARATOR).digest())
"""Register 2 where firmware measures the image into 4, as on Google's AMD machines."""


def image_hash(registers: Mapping[int, bytes], tdx: bytes | None) -> bytes:
    """Identity of image and measured configuration.

    Both halves are in it: a TDX quote of the listed image beside the vTPM of a machine that runs another is not listed.

    Args:
        registers: At least :data:`IDENTITY_REGISTERS` of the vTPM, 32 bytes each; more are not looked at.
        tdx: :func:`attestation.claims.image_hash` of the TDX quote, 32 bytes; ``None`` without one.

    Returns:
        32 bytes, as the root contract lists them.

    Raises:
        EvidenceError: A value is missing or has another length.
    """
    values = {f"pcr{register}": registers.get(register, b"") for register in IDENTITY_REGISTERS}
    if tdx is not None:
        values["tdx"] = tdx
    short = [name for name, value in values.items() if len(value) != 32]
    if short:
        raise EvidenceError(f"identity of a Google machine without 32 bytes for {', '.join(short)}")
    return claims.platform_image_hash(PLATFORM, values)
