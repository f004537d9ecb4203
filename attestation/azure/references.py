"""The identity of an Azure machine: the paravisor that was launched, and what was booted under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation import claims
from attestation.errors import EvidenceError
from attestation.tpm.references import IDENTITY_REGISTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

PLATFORM = "azure"

MICROSOFT_ID_KEYS = frozenset(
    {bytes.fromhex("0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3")}
)
"""SHA-384 of the key that signs the ID blocks of Azure's paravisors, as tokens of Microsoft's attestation service name
it for production machines (``x-ms-sevsnpvm-idkeydigest``). Earlier paravisors had others: a policy may list them."""


def image_hash(measurement: bytes, registers: Mapping[int, bytes]) -> bytes:
    """Identity of paravisor, image and measured configuration.

    The paravisor is in it because it holds the vTPM: with another one the registers are another program's word. Azure
    replaces it with time, so one image has an identity for each paravisor that a network lists.

    Args:
        measurement: The launch digest, 48 bytes.
        registers: At least registers 4, 9, 11, 12 and 14 of the vTPM, 32 bytes each; more are not looked at.

    Returns:
        32 bytes, as the root contract lists them.

    Raises:
        EvidenceError: A value is missing or has another length.
    """
    values = {f"pcr{register}": registers.get(register, b"") for register in IDENTITY_REGISTERS}
    short = [name for name, value in values.items() if len(value) != 32]
    if short or len(measurement) != 48:
        raise EvidenceError(
            f"identity of an Azure machine with a measurement of {len(measurement)} bytes, expected 48, "
            f"and without 32 bytes for {', '.join(short) or 'nothing'}"
        )
    return claims.platform_image_hash(PLATFORM, {"measurement": measurement, **values})
