"""The driver's files: taken out of packages and wheels by name, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_packages import make_package, make_wheel

from appliance.image.driver import RECIPE, DriverRecipe, place_files, read_driver
from appliance.image.errors import BuildError
from appliance.image.gpu_tree import FILES_LOCK, WHEEL_LOCKS, require_version
from appliance.image.lock import read_lock
from appliance.image.lock_wheels import read_wheel_lock

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = {"package": "source", "archive": "usr/src/a.tar.xz", "directory": "m", "build": ["nvidia"]}


def recipe(**changes: object) -> DriverRecipe:
    base: dict[str, object] = {
        "version": "1.2.3",
        "modules": MODULES,
        "packages": [
            {"name": "lib", "files": {"usr/lib/old/liba.so.1.2.3": "usr/lib/liba.so.1"}},
            {
                "name": "tools",
                "files": {"usr/bin/cc": "usr/lib/cuda/bin/cc", "usr/share/crt/": "usr/lib/cuda/bin/crt/"},
            },
        ],
        "wheels": [{"name": "headers", "files": {"h/include/": "usr/lib/cuda/include/"}}],
        "links": {"usr/lib/liba.so": "liba.so.1"},
    }
    return DriverRecipe.model_validate(base | changes)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    lib = make_package(tmp_path, "lib", {"usr/lib/old/liba.so.1.2.3": b"library", "usr/share/doc/lib/copyright": b"c"})
    tools = make_package(
        tmp_path,
        "tools",
        {"usr/bin/cc": b"#!", "usr/share/crt/link.stub": b"stub", "usr/share/crt/deep/x": b"x", "usr/bin/other": b"o"},
        frozenset({"usr/bin/cc"}),
    )
    wheel = make_wheel(
        tmp_path, "headers", {"h/include/a.h": b"a", "h/include/__init__.py": b"", "h/lib/liba.a": b"no"}
    )
    return {"lib": lib, "tools": tools}, {"headers": wheel}


def test_named_files_and_nothing_else_are_taken(
    inputs: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path
) -> None:
    target = tmp_path / "tree"
    place_files(recipe(), *inputs, target)
    found = {str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert found == {
        "usr/lib/liba.so.1",
        "usr/lib/liba.so",
        "usr/lib/cuda/bin/cc",
        "usr/lib/cuda/bin/crt/link.stub",
        "usr/lib/cuda/bin/crt/deep/x",
        "usr/lib/cuda/include/a.h",
    }
    assert (target / "usr/lib/liba.so.1").read_bytes() == b"library"
    assert (target / "usr/lib/cuda/bin/cc").stat().st_mode & 0o777 == 0o755
    assert (target / "usr/lib/liba.so.1").stat().st_mode & 0o777 == 0o644
    assert (target / "usr/lib/liba.so").readlink() == Path("liba.so.1")


def test_a_file_that_is_not_there_is_named(inputs: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path) -> None:
    gone = recipe(packages=[{"name": "lib", "files": {"usr/lib/old/liba.so.9": "usr/lib/liba.so.1"}}])
    with pytest.raises(BuildError, match=r"lib \(lib.deb\) has no usr/lib/old/liba.so.9"):
        place_files(gone, *inputs, tmp_path / "tree")


def test_a_package_that_no_lock_names_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the package lib, which no lock names"):
        place_files(recipe(), {}, {}, tmp_path / "tree")


def test_two_packages_with_one_path_are_refused(
    inputs: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path
) -> None:
    twice = recipe(
        packages=[
            {"name": "lib", "files": {"usr/lib/old/liba.so.1.2.3": "usr/lib/x"}},
            {"name": "tools", "files": {"usr/bin/cc": "usr/lib/x"}},
        ]
    )
    with pytest.raises(BuildError, match="two packages bring usr/lib/x"):
        place_files(twice, *inputs, tmp_path / "tree")


@pytest.mark.parametrize(
    "files",
    [{"../etc/passwd": "x"}, {"a": "../x"}, {"/a": "x"}, {"a": "/x"}, {"a/": "x"}, {"a": "x/"}, {}],
    ids=["source-up", "target-up", "source-absolute", "target-absolute", "directory-file", "file-directory", "none"],
)
def test_a_path_that_leads_outside_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    rows = ", ".join(f'"{source}" = "{target}"' for source, target in files.items())
    path = tmp_path / "driver.toml"
    text = (
        'version = "1"\n[modules]\npackage = "s"\narchive = "a"\ndirectory = "d"\nbuild = ["nvidia"]\n'
        '[[packages]]\nname = "lib"\nfiles = { %s }\n'
    )
    path.write_text(text % rows)
    with pytest.raises(BuildError, match=r"packages\.0\.files"):
        read_driver(path)
    path.write_text(text % '"usr/a" = "usr/b"')
    assert read_driver(path).packages[0].files == {"usr/a": "usr/b"}


def test_the_committed_recipe_fits_the_committed_locks() -> None:
    committed = read_driver(CHECKOUT / RECIPE)
    require_version(committed, read_lock(CHECKOUT / f"image/lock/{FILES_LOCK}.json"))
    wheels = {(wheel.name, wheel.version) for name in WHEEL_LOCKS for wheel in read_wheel_lock(CHECKOUT, name).wheels}
    names = {name for name, _ in wheels}
    for entry in committed.wheels:
        assert entry.name in names
        assert entry.version is None or (entry.name, entry.version) in wheels
    assert set(committed.modules.build) == {"nvidia", "nvidia-uvm"}
    assert all((CHECKOUT / "image/gpu" / patch).is_file() for patch in committed.modules.patches)


def test_another_version_in_the_lock_is_refused() -> None:
    committed = read_driver(CHECKOUT / RECIPE)
    lock = read_lock(CHECKOUT / f"image/lock/{FILES_LOCK}.json")
    newer = committed.model_copy(update={"version": "580.126.09"})
    with pytest.raises(BuildError, match=r"is locked at 550\.163\.01-2, the driver.s recipe is for 580\.126\.09"):
        require_version(newer, lock)


def test_headers_are_of_the_images_kernel() -> None:
    kernel = {item.package: item.version for item in read_lock(CHECKOUT / "image/lock/base.json").packages}
    headers = {item.package: item.version for item in read_lock(CHECKOUT / "image/lock/engine-gpu-build.json").packages}
    images = [name for name in kernel if name.startswith("linux-image-6")]
    assert len(images) == 1
    assert headers[images[0].replace("linux-image-", "linux-headers-")] == kernel[images[0]]
