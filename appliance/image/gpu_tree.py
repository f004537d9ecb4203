"""The driver's tree of the engine-gpu image: modules compiled, files of driver and CUDA compiler put in their places.

In: a :class:`~appliance.image.trees.TreeContext`; the locks ``engine-gpu-build`` and ``engine-gpu-files``, and the
wheels ``engine-gpu`` and ``engine-gpu-cuda``, all from the cache. Out: a directory that is copied to the image's ``/``.
Named by ``profile.toml`` of the profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.config.home import home
from appliance.image.driver import RECIPE, place_files, read_driver
from appliance.image.errors import BuildError
from appliance.image.fetch import deb_path
from appliance.image.fetch_wheels import wheel_path
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_wheels import read_wheel_lock
from appliance.image.modules import compile_modules
from appliance.image.tools_tree import make_tools_tree

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.image.driver import DriverRecipe
    from appliance.image.trees import TreeContext

BUILD_LOCK = "engine-gpu-build"
FILES_LOCK = "engine-gpu-files"
WHEEL_LOCKS = ("engine-gpu", "engine-gpu-cuda")


def produce(context: TreeContext, tree: Path) -> None:
    """Fill the driver's tree.

    Raises:
        BuildError: The recipe does not fit the locks, or something does not compile.
        InputError: A locked package or wheel is not in the cache.
    """
    source = context.recipe.source
    path = source / RECIPE
    recipe = read_driver(path)
    files = read_lock(source / "image/lock" / f"{FILES_LOCK}.json")
    require_version(recipe, files)
    packages = {item.package: deb_path(item, context.cache) for item in files.packages}
    place_files(recipe, packages, _wheels(context, recipe), tree)
    compile_modules(
        recipe,
        packages[recipe.modules.package],
        [path.parent / name for name in recipe.modules.patches],
        tree=compiler_tree(context),
        work=context.scratch,
        target=tree,
        commands=context.commands,
        kernel=context.recipe.kernel,
    )


def compiler_tree(context: TreeContext) -> Path:
    """The tools tree with the kernel's headers and compiler in it, unpacked unless it is there."""
    locks = context.recipe.source / "image/lock"
    tools, build = read_lock(locks / "tools.json"), read_lock(locks / f"{BUILD_LOCK}.json")
    both = PackageLock.make(build.name, build.indexes, {item.package: item for item in
                            (*tools.packages, *build.packages)}.values())  # fmt: skip
    return make_tools_tree(both, context.cache, home() / "image" / "tools", context.commands)


def require_version(recipe: DriverRecipe, lock: PackageLock) -> None:
    """Refuse packages of another driver version than the recipe's: modules, firmware and libraries go together.

    Raises:
        BuildError: One is of another version, or is not locked.
    """
    versions = {item.package: item.version for item in lock.packages}
    tied = [recipe.modules.package, *(entry.name for entry in recipe.packages if entry.version is None)]
    for name in tied:
        seen = versions.get(name)
        if seen is None:
            raise BuildError(f"{name} is in {RECIPE} and not in the lock {lock.name}", hint="just lock")
        if seen.partition("-")[0] != recipe.version:
            raise BuildError(
                f"{name} is locked at {seen}, the driver's recipe is for {recipe.version}",
                hint=f"change {RECIPE} and the lock together",
            )
    for entry in recipe.packages:
        if entry.version is not None and versions.get(entry.name) != entry.version:
            raise BuildError(f"{entry.name} is locked at {versions.get(entry.name)}, {RECIPE} says {entry.version}")


def _wheels(context: TreeContext, recipe: DriverRecipe) -> dict[str, Path]:
    wanted = {(entry.name, entry.version) for entry in recipe.wheels}
    found = {}
    for name in WHEEL_LOCKS:
        for wheel in read_wheel_lock(context.recipe.source, name).wheels:
            # The CUDA compiler's headers are of another version than the engine's library of the same name.
            if (wheel.name, wheel.version) in wanted or (wheel.name, None) in wanted:
                found[wheel.name] = wheel_path(wheel, context.cache)
    return found
