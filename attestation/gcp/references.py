"""The identity of a Google machine: what it booted, by its vTPM and, where there is one, by its TDX quote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation import claims
from attestation.errors import EvidenceError
from attestation.tpm.references import IDENTITY_REGISTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

PLATFORM = "gcp"


def image_hash(registers: Mapping[int, bytes], tdx: bytes | None) -> bytes:
    """Identity of image and measured configuration.

    Both halves are in it: a TDX quote of the listed image beside the vTPM of a machine that runs another is not listed.

    Args:
        registers: At least registers 4, 9, 11, 12 and 14 of the vTPM, 32 bytes each; more are not looked at.
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
