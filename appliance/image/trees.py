"""What goes into an image besides Debian's packages and ``image/mkosi.extra``: environments, and what profiles make.

In: a :class:`TreeContext`. Out: directories below ``<work>/trees``, each copied to the image's ``/``. A profile names
functions that fill further ones (``[[trees]]`` in its ``profile.toml``): the driver of a GPU is such a tree, and this
file knows nothing of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image import staging
from appliance.image.environment import make_environment
from appliance.image.errors import BuildError
from appliance.image.fetch_wheels import wheel_path, wheelhouse
from appliance.image.lock_wheels import WheelLock, read_wheel_lock
from appliance.image.wheel import build_guest_wheel

if TYPE_CHECKING:
    from appliance.image.commands import Commands
    from appliance.image.profiles import Recipe


@dataclass(frozen=True, slots=True)
class TreeContext:
    """What a producer may use.

    Attributes:
        recipe: What is built.
        tools: The tools tree (:func:`appliance.image.tools_tree.inside` runs programs in it).
        cache: The locked packages and wheels.
        scratch: A directory of its own, removed after the build.
        commands: Runs programs and prints them.
    """

    recipe: Recipe
    tools: Path
    cache: Path
    scratch: Path
    commands: Commands


TreeProducer = Callable[[TreeContext, Path], None]
"""Fills the directory; its files' modes are normalised and their times set afterwards."""


def engine_version(recipe: Recipe) -> str | None:
    """Version of the image's engine, from the lock of its wheels; None where there is none.

    Raises:
        LockFormatError: The lock does not hold the engine.
    """
    engine = recipe.content.engine
    return read_wheel_lock(recipe.source, engine.wheels).version(engine.distribution) if engine else None


def make_trees(context: TreeContext, directory: Path, *, epoch: int, command_line: str) -> list[str]:
    """Make every tree of an image; their names, in the order in which they are copied.

    Raises:
        BuildError: A producer is not there.
        InputError: A wheel is missing or cannot be unpacked.
    """
    recipe = context.recipe
    guest = directory / "guest"
    guest.mkdir(parents=True)
    own = build_guest_wheel(context.scratch / "wheel", recipe.source)
    make_environment(
        guest, staging.ENVIRONMENTS["guest"], [own, *_wheels(context, read_wheel_lock(recipe.source, "guest"))]
    )
    place = guest / staging.IMAGE_FILE
    place.write_bytes(
        staging.image_file(recipe, engine_version=engine_version(recipe), epoch=epoch, command_line=command_line)
    )
    names = ["guest"]
    engine = recipe.content.engine
    if engine is not None:
        tree = directory / "engine"
        tree.mkdir()
        wheels = _wheels(context, read_wheel_lock(recipe.source, engine.wheels))
        make_environment(
            tree,
            staging.ENVIRONMENTS["engine"],
            wheels,
            system_site_packages=engine.system_site_packages,
            leave=engine.leave,
        )
        names.append("engine")
    for item in recipe.content.trees:
        tree = directory / item.name
        tree.mkdir()
        scratch = context.scratch / item.name
        scratch.mkdir()
        _producer(item.produce)(TreeContext(recipe, context.tools, context.cache, scratch, context.commands), tree)
        names.append(item.name)
    for name in names:
        staging.normalise(directory / name)
    return names


def _wheels(context: TreeContext, lock: WheelLock) -> list[Path]:
    wheelhouse(lock, directory=context.cache)  # every file is looked at again: the cache may have changed
    return [wheel_path(item, context.cache) for item in lock.wheels]


def _producer(name: str) -> TreeProducer:
    module, _, function = name.partition(":")
    try:
        found: TreeProducer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BuildError(f"the profile names {name}, which is not there: {error}") from None
    return found
