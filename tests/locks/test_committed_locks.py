"""The locks of this repository: readable, complete, listed, and what the image's configuration asks for."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from appliance.image.fetch_repository import combined
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_index import INDEX, LOCKS, make_index, profile_locks, read_index
from appliance.image.lock_lists import PLANS, PROFILES, read_list
from appliance.image.lock_make import LISTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def locks() -> dict[str, PackageLock]:
    return {plan.name: read_lock(ROOT / LOCKS / f"{plan.name}.json") for plan in PLANS}


def test_every_lock_has_a_plan_and_every_list_a_use() -> None:
    assert {path.stem for path in (ROOT / LOCKS).glob("*.json")} == {"index", *(plan.name for plan in PLANS)}
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
    assert {entry["path"] for entry in read_index(ROOT)} >= {f"{LOCKS}/{plan.name}.json" for plan in PLANS}
    for names in PROFILES.values():
        assert [lock.name for lock in profile_locks(ROOT, names)] == list(names)
