"""The locks of this repository: readable, complete, listed, and what the image's configuration asks for."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from appliance.engine.lockfile import parse as parse_requirements
from appliance.image.fetch_repository import combined
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_index import INDEX, LOCKS, make_index
from appliance.image.lock_lists import PLANS, PROFILES, read_list
from appliance.image.lock_make import LISTS
from appliance.image.lock_wheels import WHEEL_PLANS, read_wheel_lock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def locks() -> dict[str, PackageLock]:
    return {plan.name: read_lock(ROOT / LOCKS / f"{plan.name}.json") for plan in PLANS}


def test_every_lock_has_a_plan_and_every_list_a_use() -> None:
    wheels = {f"wheels-{name}" for name in WHEEL_PLANS}
    assert {path.stem for path in (ROOT / LOCKS).glob("*.json")} == {"index", *(plan.name for plan in PLANS), *wheels}
    used = {name for plan in PLANS for root in plan.roots for name in root}
    assert {path.stem for path in (ROOT / LISTS).glob("*.list")} == used


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_every_listed_name_is_locked(plan, locks: dict[str, PackageLock]) -> None:  # type: ignore[no-untyped-def]  # parametrised
    held = {item.package for name in (plan.name, *plan.beside) for item in locks[name].packages}
    for name in sorted({name for root in plan.roots for part in root for name in read_list(ROOT / LISTS, part)}):
        assert any(re.fullmatch(name.strip("^$") if name.startswith("^") else re.escape(name), one) for one in held)
    assert {item.component for item in locks[plan.name].packages} <= set(plan.components)
    assert {item.suite for item in locks[plan.name].packages} <= set(plan.suites)


def test_locks_that_go_together_agree(locks: dict[str, PackageLock]) -> None:
    for names in PROFILES.values():
        for also in ((), ("debug",)):
            one = combined(locks[name] for name in (*names, *also))
            by_name: dict[tuple[str, str], set[str]] = {}
            for item in one.packages:
                by_name.setdefault((item.package, item.architecture), set()).add(item.version)
            assert {name: versions for name, versions in by_name.items() if len(versions) > 1} == {}


def packages_of(configuration: Path) -> set[str]:
    """What a mkosi configuration installs: ``Packages=`` and ``BuildPackages=``."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep case
    parser.read(configuration)
    words: set[str] = set()
    for section in parser.sections():
        for key in ("Packages", "BuildPackages", "VolatilePackages"):
            for line in parser.get(section, key, fallback="").splitlines():
                words |= set(line.partition("#")[0].split())
    return words


@pytest.mark.parametrize(
    "configuration", sorted((ROOT / "image").rglob("mkosi.conf")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_the_images_configuration_asks_for_nothing_that_is_not_locked(
    configuration: Path, locks: dict[str, PackageLock]
) -> None:
    parts = configuration.relative_to(ROOT / "image").parts
    names = PROFILES.get(parts[1], ("base", "debug")) if parts[0] == "mkosi.profiles" else ("base",)
    held = {item.package for name in names for item in locks[name].packages}
    assert packages_of(configuration) - held == set()


def test_the_index_names_every_lock_as_it_is() -> None:
    assert (ROOT / INDEX).read_bytes() == make_index(ROOT), "run: python scripts/lock_image.py --index"
    entries = json.loads((ROOT / INDEX).read_bytes())["locks"]
    for entry in entries:
        assert entry["sha256"] == hashlib.sha256((ROOT / entry["path"]).read_bytes()).hexdigest()
    paths = {entry["path"] for entry in entries}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / LOCKS).glob("*.json")} == {
        path for path in paths if path.startswith(LOCKS)
    } | {INDEX}
    assert "appliance/lab/npm/package-lock.json" in paths


@pytest.mark.parametrize("name", WHEEL_PLANS)
def test_every_pinned_package_has_one_wheel_that_its_requirement_file_allows(name: str) -> None:
    lock = read_wheel_lock(ROOT, name)
    required = parse_requirements(ROOT / "requirements" / f"{name}.txt").requirements
    wanted = {item.name: item for item in required}
    assert {item.name for item in lock.wheels} == set(wanted)
    for item in lock.wheels:
        assert item.version == wanted[item.name].version
        assert item.sha256 in wanted[item.name].hashes


def test_the_guest_and_the_tools_run_the_same_versions() -> None:
    pins = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
    tools = dict(pins.findall((ROOT / "requirements/tools.txt").read_text()))
    guest = dict(pins.findall((ROOT / "requirements/guest.txt").read_text()))
    assert guest.items() <= tools.items()


def test_the_guest_has_a_package_for_everything_its_wheel_asks_for() -> None:
    project = tomllib.loads((ROOT / "packaging/guest/pyproject.toml").read_text())["project"]
    asked = {re.split(r"[<>=~!\[ ]", one)[0] for one in project["dependencies"]}
    assert asked <= {item.name for item in read_wheel_lock(ROOT, "guest").wheels}
