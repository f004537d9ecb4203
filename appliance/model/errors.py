"""Errors of model volumes.

::

    ApplianceError
    └── ModelVolumeError
        ├── CheckpointError         a directory that may not become a model volume; the file and the reason are named
        ├── PackError               a file cannot be read or written
        ├── VolumeFormatError       a file or device is no volume of that format: size or verity superblock
        ├── VolumeMismatchError     a volume of that format, but not the named model's, or altered
        └── VolumeOpenError         the kernel would not open or mount it
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class ModelVolumeError(ApplianceError):
    """Root of the errors of packing, checking and opening models."""


class CheckpointError(ModelVolumeError):
    """A directory holds what must not be in a model volume, or lacks what must be; the message names the file."""


class PackError(ModelVolumeError):
    """A file cannot be read or written; what was not finished is not left under the volume's name."""


class VolumeFormatError(ModelVolumeError):
    """A file or device is no volume of the format: its size or a field of its verity superblock differs."""


class VolumeMismatchError(ModelVolumeError):
    """The volume is not the named model's, or was altered; the message has both hashes or the block that differs."""


class VolumeOpenError(ModelVolumeError):
    """The kernel would not map or mount the volume; the message has the command and what it said."""
