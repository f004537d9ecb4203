"""The image: what it is made of, how it is built and described. Runs on the builder's machine, never in the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.image.archive import Archives
    from appliance.image.build import BuildRequest, BuiltImage, build_image
    from appliance.image.check import CheckResult, check_image
    from appliance.image.errors import (
        ArchiveUnreachableError,
        BuildError,
        ImageError,
        IndexDiffersError,
        InputDiffersError,
        InputError,
        InputGoneError,
        LockError,
        LockFormatError,
        MissingToolError,
        ResolveError,
        SignatureRefusedError,
    )
    from appliance.image.lock import LockedPackage, PackageLock, read_lock
    from appliance.image.lock_make import make_locks, make_wheel_locks
    from appliance.image.lock_wheels import LockedWheel, WheelLock, read_wheel_lock
    from appliance.image.wheel import build_guest_wheel, build_tools_wheel

__all__ = [
    "ArchiveUnreachableError",
    "Archives",
    "BuildError",
    "BuildRequest",
    "BuiltImage",
    "CheckResult",
    "ImageError",
    "IndexDiffersError",
    "InputDiffersError",
    "InputError",
    "InputGoneError",
    "LockError",
    "LockFormatError",
    "LockedPackage",
    "LockedWheel",
    "MissingToolError",
    "PackageLock",
    "ResolveError",
    "SignatureRefusedError",
    "WheelLock",
    "build_guest_wheel",
    "build_image",
    "build_tools_wheel",
    "check_image",
    "make_locks",
    "make_wheel_locks",
    "read_lock",
    "read_wheel_lock",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "ArchiveUnreachableError": "errors",
            "Archives": "archive",
            "BuildError": "errors",
            "BuildRequest": "build",
            "BuiltImage": "build",
            "CheckResult": "check",
            "ImageError": "errors",
            "IndexDiffersError": "errors",
            "InputDiffersError": "errors",
            "InputError": "errors",
            "InputGoneError": "errors",
            "LockError": "errors",
            "LockFormatError": "errors",
            "LockedPackage": "lock",
            "LockedWheel": "lock_wheels",
            "MissingToolError": "errors",
            "PackageLock": "lock",
            "ResolveError": "errors",
            "SignatureRefusedError": "errors",
            "WheelLock": "lock_wheels",
            "build_guest_wheel": "wheel",
            "build_image": "build",
            "build_tools_wheel": "wheel",
            "check_image": "check",
            "make_locks": "lock_make",
            "make_wheel_locks": "lock_make",
            "read_lock": "lock",
            "read_wheel_lock": "lock_wheels",
        },
    )
