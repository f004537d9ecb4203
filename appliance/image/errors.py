"""Errors of the image room.

::

    ApplianceError
    └── ImageError                    the image, its inputs or its artefacts
        ├── LockError                 a lock cannot be read, made or used
        │   ├── LockFormatError       a lock or a package list is not written as it must be
        │   ├── ResolveError          the lists cannot be resolved against the archive
        │   ├── SignatureRefusedError an index is not signed by a key of the keyring
        │   └── IndexDiffersError     an index is not the one that the signed release file names
        ├── InputError                a locked input cannot be had
        │   ├── InputGoneError        the archive no longer has it
        │   ├── InputDiffersError     what came is not what is locked
        │   └── ArchiveUnreachableError   no answer, or one that says nothing about the input
        ├── BuildError                a program of the build failed, or its configuration cannot be used
        └── MissingToolError          a program of the machine is not installed
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class ImageError(ApplianceError):
    """Root of the errors of building, checking and describing the image."""


class LockError(ImageError):
    """A lock cannot be read, made or used."""


class LockFormatError(LockError):
    """A lock or a package list is not written as it must be; the message names file and place."""


class ResolveError(LockError):
    """The package lists cannot be resolved against the archive; the message is apt's."""


class SignatureRefusedError(LockError):
    """A release file is not signed by a key of the keyring. Nothing of it was used."""


class IndexDiffersError(LockError):
    """A package index is not the one that the signed release file names. Nothing of it was used."""


class InputError(ImageError):
    """A locked input cannot be had."""


class InputGoneError(InputError):
    """The archive no longer has a locked input. It has not been replaced by anything else."""


class InputDiffersError(InputError):
    """What came under a locked input's name has another size or digest. It was thrown away."""


class ArchiveUnreachableError(InputError):
    """The archive did not answer, or its answer says nothing about the input."""


class BuildError(ImageError):
    """A program of the build failed, or what it was given cannot be used; the message has its last words."""


class MissingToolError(ImageError):
    """A program of the machine is not installed; the hint says how to install it."""
