"""Which releases count when, the directory they come from, and the rule that asks for one of them."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases_support import DAY, KEY, NOW, PUBLIC, STRANGER, manifest, write

from appliance.config import ReleaseTrust
from appliance.lab.tee import SyntheticTdx
from appliance.releases import news, open_shelf
from attestation.claims import certificate_report_data
from attestation.errors import PolicyError
from attestation.policies.files import reference_sets
from attestation.policies.release_memory import ReleaseMemory, RollbackError
from attestation.policies.releases import CHECK, ImageReleased, Release, Standing, standings, started
from attestation.policies.shelf import MAX_FILES, ReleaseShelf
from attestation.policy import for_name
from measurements.manifest import Registers

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.appraisal import Appraisal
    from measurements.manifest import Manifest

GRACE = 14 * DAY
CHANGE = NOW - 2 * DAY
"""When the newer release began to count."""


def release(made: Manifest) -> Release:
    return Release(made, reference_sets(made, (PUBLIC,), ("disk", "direct")))


def taken(now: float, *manifests: Manifest, grace: float = GRACE) -> list[int]:
    """Numbers of the releases that are taken at a time."""
    found = standings(map(release, manifests), now, grace)
    return [item.release.manifest.release for item in found if not item.refusal(now)]


def test_the_old_release_has_its_grace_beside_the_new_one() -> None:
    old, new = manifest(6), manifest(7, since=CHANGE)
    assert taken(CHANGE - 1, old, new) == [6]
    assert taken(CHANGE, old, new) == [7, 6]
    assert taken(CHANGE + GRACE - 1, old, new) == [7, 6]
    assert taken(CHANGE + GRACE, old, new) == [7]
    assert taken(NOW, old) == [6], "control: without the newer one it stays"
    assert taken(CHANGE, old, new, grace=0) == [7]


def test_a_third_release_gives_the_first_no_new_grace() -> None:
    first, second = manifest(5), manifest(6, since=CHANGE)
    third = manifest(7, since=CHANGE + GRACE + DAY)
    assert taken(CHANGE + GRACE + DAY, first, second, third) == [7, 6]


def test_dates_end_a_release_before_its_grace() -> None:
    old, new = manifest(6, until=CHANGE + DAY), manifest(7, since=CHANGE, until=CHANGE + 3 * DAY)
    assert taken(CHANGE + DAY - 1, old, new) == [7, 6]
    assert taken(CHANGE + DAY, old, new) == [7]
    assert taken(CHANGE + 3 * DAY, old, new) == []
    # An expired release is a newer one all the same: nobody gets the old one back when it ends.
    assert taken(CHANGE + GRACE, manifest(6), new) == []


def test_another_family_ends_nobody() -> None:
    assert taken(NOW, manifest(6), manifest(9, profile="engine-gpu", since=NOW - 20 * DAY), grace=0) == [6, 9]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(-50, 50), st.integers(1, 100)), min_size=1, max_size=6),
    st.integers(-60, 160),
    st.integers(0, 30),
)
def test_the_highest_release_that_counts_is_always_taken(
    stated: list[tuple[int, int, int]], at: int, grace: int
) -> None:
    """Nobody is locked out: whatever dates there are, the newest that counts is taken unless it has expired."""
    made = [
        manifest(number, since=NOW + begin * DAY, until=NOW + (begin + life) * DAY) for number, begin, life in stated
    ]
    now = NOW + at * DAY
    found = taken(now, *made, grace=grace * DAY)
    begun = [item for item in made if item.not_before <= now]
    highest = max((item.release for item in begun), default=0)
    current = {item.release for item in begun if item.expires > now}
    assert set(found) <= current
    assert (highest in found) == (highest in current)


def test_only_what_counts_already_is_remembered() -> None:
    coming, gone = manifest(8, since=NOW + DAY), manifest(6, until=NOW - DAY)
    assert started([manifest(7), coming, gone, manifest(0)], NOW) == [manifest(7), gone]


# The directory -------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


def shelf(
    tmp_path: Path, clock: Clock | None = None, *, threshold: int = 1, keys: tuple[bytes, ...] = (PUBLIC,)
) -> ReleaseShelf:
    memory = ReleaseMemory(tmp_path / "state" / "releases.json")
    return ReleaseShelf(
        tmp_path / "manifests", keys, threshold=threshold, grace_s=GRACE, memory=memory, clock=clock or Clock()
    )


def numbers(found: ReleaseShelf, now: float = NOW) -> list[int]:
    return [item.release.manifest.release for item in found.standings if not item.refusal(now)]


def test_a_directory_is_followed_while_it_changes(tmp_path: Path) -> None:
    clock = Clock()
    found = shelf(tmp_path, clock)
    write(tmp_path / "manifests" / "6.json", manifest(6))
    found.refresh()
    assert numbers(found) == [6]
    write(tmp_path / "manifests" / "7.json", manifest(7, since=NOW + DAY))
    found.refresh()
    assert numbers(found) == [6]
    clock.now = NOW + DAY
    found.refresh()
    assert numbers(found, clock.now) == [7, 6]
    clock.now = NOW + DAY + GRACE
    assert numbers(found, clock.now) == [7]


def test_a_release_that_is_announced_and_taken_back_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "manifests" / "6.json", manifest(6))
    announced = write(tmp_path / "manifests" / "7.json", manifest(7, since=NOW + DAY))
    found = shelf(tmp_path)
    found.refresh()
    announced.unlink()
    found.refresh()
    assert numbers(found) == [6]


def test_a_rollback_changes_nothing_for_who_runs_and_stops_who_starts(tmp_path: Path) -> None:
    old = write(tmp_path / "manifests" / "6.json", manifest(6))
    new = write(tmp_path / "manifests" / "7.json", manifest(7, since=CHANGE))
    running = shelf(tmp_path)
    running.refresh()
    new.unlink()
    for fresh in (running, shelf(tmp_path)):
        with pytest.raises(RollbackError, match="release 6 of chrysalis/engine-cpu is older than release 7"):
            fresh.refresh()
    assert numbers(running) == [7, 6], "the last good state stays"
    # The same old image signed again, with dates of today and a number that is still lower.
    write(old, manifest(5, image="engine-cpu 6", since=NOW - 60))
    with pytest.raises(RollbackError, match="release 5"):
        running.refresh()
    # Control: the newer manifest is back.
    write(new, manifest(7, since=CHANGE))
    running.refresh()


@pytest.mark.parametrize("spoiled", ["unsigned", "stranger", "altered", "debug", "modified", "no json"])
def test_one_bad_manifest_is_named_and_nothing_is_taken_over(tmp_path: Path, spoiled: str) -> None:
    directory = tmp_path / "manifests"
    write(directory / "6.json", manifest(6))
    found = shelf(tmp_path)
    found.refresh()
    bad = directory / "7.json"
    match spoiled:
        case "debug":
            write(bad, manifest(7, debug=True, since=CHANGE))
        case "modified":
            write(bad, manifest(7, source_modified=True, since=CHANGE))
        case "stranger":
            write(bad, manifest(7, since=CHANGE), STRANGER)
        case _:
            write(bad, manifest(7, since=CHANGE))
    if spoiled == "unsigned":
        bad.with_name("7.json.sig").unlink()
    if spoiled == "altered":
        bad.write_bytes(bad.read_bytes().replace(b'"release":7', b'"release":8'))
    if spoiled == "no json":
        bad.write_bytes(b"{}")
    with pytest.raises(PolicyError, match=r"7\.json"):
        found.refresh()
    assert numbers(found) == [6]
    assert ReleaseMemory(tmp_path / "state" / "releases.json").families()["chrysalis/engine-cpu"].release == 6
    # Control: the same release, signed as it has to be.
    write(bad, manifest(7, since=CHANGE))
    found.refresh()
    assert numbers(found) == [7, 6]


def test_a_threshold_is_kept(tmp_path: Path) -> None:
    other = STRANGER.public_key().public_bytes_raw()
    path = write(tmp_path / "manifests" / "7.json", manifest(7))
    with pytest.raises(PolicyError, match="signed by 1 of the trusted keys, expected 2"):
        shelf(tmp_path, threshold=2, keys=(PUBLIC, other)).refresh()
    write(path, manifest(7), KEY, STRANGER)
    shelf(tmp_path, threshold=2, keys=(PUBLIC, other)).refresh()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="manifests: No such file"):
        shelf(tmp_path).refresh()
    for number in range(1, MAX_FILES + 2):
        (tmp_path / "manifests").mkdir(exist_ok=True)
        (tmp_path / "manifests" / f"{number}.json").touch()
    with pytest.raises(PolicyError, match=f"holds {MAX_FILES + 1} manifests"):
        shelf(tmp_path).refresh()


@pytest.mark.parametrize("state", ["none", "expired", "coming"])
def test_a_program_does_not_start_without_a_release_that_counts(tmp_path: Path, state: str) -> None:
    trust = ReleaseTrust(keys=(base64.b64encode(PUBLIC).decode(),))
    (tmp_path / "manifests").mkdir()
    now = int(time.time())
    dates = {"expired": (now - 9 * DAY, now - DAY), "coming": (now + DAY, now + 9 * DAY)}
    if state in dates:
        since, until = dates[state]
        write(tmp_path / "manifests" / "7.json", manifest(7, since=since, until=until))
    reason = {"none": "there is none", "expired": "expired at", "coming": "counts from"}[state]
    with pytest.raises(PolicyError, match=reason):
        open_shelf(trust, tmp_path / "manifests", tmp_path / "state")
    # Control: with one that counts it does.
    write(tmp_path / "manifests" / "8.json", manifest(8, since=now - DAY, until=now + DAY))
    open_shelf(trust, tmp_path / "manifests", tmp_path / "state")


def test_how_releases_stand_is_told_in_words(tmp_path: Path) -> None:
    clock = Clock()
    found = shelf(tmp_path, clock)
    write(tmp_path / "manifests" / "6.json", manifest(6, until=NOW + 31 * DAY))
    write(tmp_path / "manifests" / "7.json", manifest(7, since=NOW + DAY))
    found.refresh()
    six, seven = "release 6 of chrysalis/engine-cpu", "release 7 of chrysalis/engine-cpu"
    told = news(found, NOW)
    assert told[seven].startswith(f"{seven} counts from 2026-")
    assert told[six].startswith("taken until 2026-")
    assert "soon" not in told[six]
    assert news(found, NOW + 60) == told, "it changes only when something does"
    clock.now = NOW + DAY
    found.refresh()
    assert news(found, clock.now)[six].endswith("which is soon"), "its grace has begun"
    assert news(found, clock.now + GRACE)[six].startswith(f"{six} was replaced by release 7")


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("b.json", "a.json")])
def test_a_release_that_was_issued_again_stands_as_the_one_that_is_taken(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    found = shelf(tmp_path, Clock())
    write(tmp_path / "manifests" / names[0], manifest(6, since=NOW - 9 * DAY, until=NOW - DAY))
    found.refresh()
    (told,) = news(found, NOW).values()
    assert "expired at" in told, "the control"
    write(tmp_path / "manifests" / names[1], manifest(6, since=NOW - 9 * DAY, until=NOW + 99 * DAY))
    found.refresh()
    (told,) = news(found, NOW).values()
    assert told.startswith("taken until")


# The rule ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    standings: tuple[Standing, ...]


def quoted(world: SyntheticTdx) -> dict[str, str]:
    return {"mrtd": world.registers["mr_td"].hex()} | {
        name: world.registers[name].hex() for name in ("rtmr0", "rtmr1", "rtmr2")
    }


@pytest.fixture(scope="module")
def world() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


def judged(world: SyntheticTdx, view: View, now: float = NOW) -> Appraisal:
    policy = for_name("simulated", simulated_roots=(world.root_der,)).demanding(ImageReleased(view))
    report_data = certificate_report_data(bytes(32))
    return policy.appraise(world.quote(report_data), world.collateral_json(), report_data=report_data, now=now)


def test_a_machine_of_a_release_that_counts_is_taken_until_it_ends(world: SyntheticTdx) -> None:
    old, new = manifest(6, values=quoted(world)), manifest(7, since=CHANGE)
    found = judged(world, View(standings(map(release, (old, new)), NOW, GRACE)))
    assert [check.name for check in found.checks if not check.passed] == []
    assert found.expires_at == CHANGE + GRACE
    assert not found.keepable, "the next evidence is judged by the releases of then"
    alone = judged(world, View(standings([release(old)], NOW, GRACE)))
    assert alone.expires_at > found.expires_at


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ([manifest(6)], "differ from"),
        ([], "registers of no platform"),
        (["own", manifest(7, since=NOW - GRACE)], "was replaced by release 7, and its grace ended at"),
        (["expired", manifest(7, since=CHANGE)], "expired at"),
        (["coming", manifest(5)], "counts from"),
    ],
    ids=["another", "none", "replaced", "expired", "coming"],
)
def test_a_machine_of_no_release_that_counts_is_refused_and_told_why(
    world: SyntheticTdx, known: list[Manifest | str], says: str
) -> None:
    dates = {"own": (NOW - 30 * DAY, NOW + DAY), "expired": (NOW - 9 * DAY, NOW), "coming": (NOW + 1, NOW + DAY)}

    def own(since: int, until: int) -> Manifest:
        return manifest(6, values=quoted(world), since=since, until=until)

    made = [own(*dates[item]) if isinstance(item, str) else item for item in known]
    found = judged(world, View(standings(map(release, made), NOW, GRACE)))
    failed = [check for check in found.checks if not check.passed]
    assert failed[0].name == CHECK
    assert says in failed[0].seen
    # Control: with the machine's own release in force, the same machine is taken.
    good = [item for item in made if item.registers != manifest(6, values=quoted(world)).registers]
    good.append(manifest(9, values=quoted(world)))
    assert all(check.passed for check in judged(world, View(standings(map(release, good), NOW, GRACE))).checks)


def test_a_set_that_leaves_the_image_open_vouches_for_nothing(world: SyntheticTdx) -> None:
    values = quoted(world)
    open_one = manifest(7, registers=(Registers(platform="tdx", boot="direct", values={"mrtd": values["mrtd"]}),))
    found = judged(world, View(standings([release(open_one)], NOW, GRACE)))
    assert CHECK in [check.name for check in found.checks if not check.passed]
    # Control: with the registers that decide it.
    whole = manifest(7, registers=(Registers(platform="tdx", boot="direct", values=values),))
    assert all(check.passed for check in judged(world, View(standings([release(whole)], NOW, GRACE))).checks)
