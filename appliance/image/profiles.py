"""What an image is made of: its mkosi profiles, locks, package lists, rules files and engine.

In: the checkout's ``image/`` directory, the name of a profile, whether it is a debug image. Out: a :class:`Recipe`.
What a profile brings beyond packages stands in ``image/mkosi.profiles/<profile>/profile.toml``::

    [engine]
    name = "transformers"          # as the manifest names it
    wheels = "engine-light"        # image/lock/wheels-engine-light.json
    distribution = "transformers"  # the wheel whose locked version is the engine's version
    system_site_packages = true    # the environment also sees the distribution's Python packages

    locks = ["engine-gpu-build.json"]  # (top level) further lock files below image/lock that those functions read

    [[trees]]                      # what else goes into the image: a function fills a directory
    name = "driver"
    produce = "appliance.image.gpu_tree:produce"  # (appliance.image.trees.TreeContext, Path) -> None
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.image.artefacts import FIRMWARE_LOCKS
from appliance.image.errors import BuildError
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_lists import PROFILES, read_list

if TYPE_CHECKING:
    from pathlib import Path

PROFILE_FILE = "profile.toml"
BASE = "base"
"""The profile without an engine: what every other one begins with."""
LOCKS: dict[str, tuple[str, ...]] = {BASE: (BASE,), **PROFILES}
"""For each profile the locks it is installed from."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineRecipe(_Part):
    """The model server of a profile and the environment it lives in, ``/usr/lib/chrysalis-engine``."""

    name: str
    wheels: str
    distribution: str
    system_site_packages: bool = False
    leave: tuple[str, ...] = ()


class TreeRecipe(_Part):
    """A function of ours that fills a directory which is then copied into the image."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    produce: str = Field(pattern=r"^appliance\.image\.[a-z_]+:[a-z_]+$")


class ProfileFile(_Part):
    """``profile.toml``."""

    engine: EngineRecipe | None = None
    locks: tuple[str, ...] = ()
    trees: tuple[TreeRecipe, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one image is built.

    Attributes:
        profile: ``engine-cpu``, ``engine-gpu`` or ``base``.
        debug: Whether it is the debug image.
        source: The checkout.
        locks: Packages it is installed from, without the tools' and the firmware's.
        packages: Names that are installed into the root; the rest follows from their dependencies.
        content: What the profile brings beyond packages.
    """

    profile: str
    debug: bool
    source: Path
    locks: tuple[PackageLock, ...]
    packages: tuple[str, ...]
    content: ProfileFile

    @property
    def name(self) -> str:
        """``engine-cpu``, ``engine-cpu-debug``…: the output directory's name."""
        return f"{self.profile}-debug" if self.debug else self.profile

    @property
    def mkosi_profiles(self) -> tuple[str, ...]:
        """What mkosi is told with ``--profile``."""
        return (self.profile, "debug") if self.debug else (self.profile,)

    @property
    def lock_names(self) -> tuple[str, ...]:
        """Every lock that decides the image, tools and firmware included."""
        return tuple(sorted([*(lock.name for lock in self.locks), *FIRMWARE_LOCKS, "tools"]))

    @property
    def kernel(self) -> str:
        """Release of the kernel, as the lock names it.

        Raises:
            BuildError: The locks hold no kernel, or several.
        """
        found = [
            item.package.removeprefix("linux-image-")
            for lock in self.locks
            for item in lock.packages
            if item.package.startswith("linux-image-") and item.package[len("linux-image-")].isdigit()
        ]
        if len(found) != 1:
            raise BuildError(
                f"the locks hold the kernels {found}, expected one", hint="make the locks again: just lock"
            )
        return found[0]


def read_recipe(source: Path, profile: str, *, debug: bool = False) -> Recipe:
    """The recipe of an image.

    Args:
        source: The checkout.
        profile: Which image.
        debug: Whether with the debug profile.

    Raises:
        BuildError: There is no such profile, or its file is malformed.
        LockFormatError: A lock or list is malformed or missing.
    """
    if profile not in LOCKS:
        raise BuildError(f"there is no profile {profile!r}", hint=f"profiles: {', '.join(sorted(LOCKS))}")
    names = [*LOCKS[profile], *(["debug"] if debug else [])]
    lists = source / "image" / "packages"
    return Recipe(
        profile=profile,
        debug=debug,
        source=source,
        locks=tuple(read_lock(source / "image" / "lock" / f"{name}.json") for name in names),
        packages=tuple(sorted({word for name in names for word in read_list(lists, name)})),
        content=read_profile(source / "image" / "mkosi.profiles" / profile / PROFILE_FILE),
    )


def read_profile(path: Path) -> ProfileFile:
    """A profile's file; an empty one where there is none.

    Raises:
        BuildError: It is malformed.
    """
    try:
        return ProfileFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ProfileFile()
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{path}: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BuildError(f"{path}: {faults}") from None
