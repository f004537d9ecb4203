"""The two forms a model volume has, and every constant that its root hash depends on.

The root hash in a model's name stands for the data only together with the whole dm-verity table: hash type, algorithm,
block sizes and salt are fixed here for a format; the number of data blocks is measured beside the name
(``MeasuredConfig.model_volume``). Nothing of the table is taken from the volume itself.

``erofs`` is this project's: one file, an EROFS file system (:mod:`appliance.model.erofs`) and behind it the hash area.
``cocoon-tar`` is the reference's (protocol specification, section 7.6): a tar file, and the hash area in a file beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from uuid import UUID

from appliance.model.errors import VolumeFormatError

BLOCK: Final = 4096
"""Bytes of a data block and of a hash block."""
ALGORITHM: Final = "sha256"
"""Of every hash in the tree."""

FormatName = Literal["erofs", "cocoon-tar"]


@dataclass(frozen=True, slots=True)
class VolumeFormat:
    """One form of model volumes.

    Attributes:
        name: As the command line and the measured configuration say it.
        salt: Hashed before each block. One a format, so that a root hash of one form is never one of another.
        uuid: In the verity superblock.
        one_file: Whether the hash area follows the data, or has a file of its own.
    """

    name: FormatName
    salt: bytes
    uuid: UUID
    one_file: bool


FORMATS: Final = {
    "erofs": VolumeFormat(
        "erofs",
        # SHA-256 of "chrysalis model volume 1"
        bytes.fromhex("8d7a2642db7930f3aee7838ee5d83924f2006bad811400138cb7186302e429ff"),
        UUID("48826186-78ed-42fa-8d46-2f1c2a89d8a3"),
        one_file=True,
    ),
    "cocoon-tar": VolumeFormat(
        "cocoon-tar",
        bytes.fromhex("00010203040506070809101a1b1c1d1e1f"),
        UUID("645ac31f-7610-42e1-8434-9d733699eac0"),
        one_file=False,
    ),
}
"""All formats by name."""


def find(name: str) -> VolumeFormat:
    """The format of a name.

    Raises:
        VolumeFormatError: There is none.
    """
    if name not in get_args(FormatName):
        raise VolumeFormatError(f"no model volume format {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[cast("FormatName", name)]
