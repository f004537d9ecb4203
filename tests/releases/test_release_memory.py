"""The memory of the highest release: rollbacks are refused, and it forgets nothing, whatever happens to its program."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases_support import DAY, NOW, manifest

from attestation.policies.release_memory import (
    BOUNDARIES,
    MAX_FAMILIES,
    MAX_MEMORY_BYTES,
    ReleaseMemory,
    ReleaseMemoryError,
    RollbackError,
    Seen,
    family_of,
    files_digest,
    raised,
)

HERE = Path(__file__).resolve().parent


def test_an_older_release_is_refused_and_a_newer_one_remembered(tmp_path: Path) -> None:
    memory = ReleaseMemory(tmp_path / "state" / "releases.json")
    assert memory.families() == {}
    memory.remember([manifest(6)])
    memory.remember([manifest(7)])
    with pytest.raises(RollbackError, match="release 6 of chrysalis/engine-cpu is older than release 7"):
        memory.remember([manifest(6)])
    # Controls: the same release again, the old one beside the new one, another family.
    memory.remember([manifest(7)])
    memory.remember([manifest(6), manifest(7)])
    memory.remember([manifest(1, profile="engine-gpu")])
    found = ReleaseMemory(memory.path).families()
    assert {family: seen.release for family, seen in found.items()} == {
        "chrysalis/engine-cpu": 7,
        "chrysalis/engine-gpu": 1,
    }


def test_a_rollback_of_one_family_remembers_nothing_of_the_others(tmp_path: Path) -> None:
    memory = ReleaseMemory(tmp_path / "releases.json")
    memory.remember([manifest(7)])
    with pytest.raises(RollbackError):
        memory.remember([manifest(2, profile="engine-gpu"), manifest(6)])
    assert set(memory.families()) == {"chrysalis/engine-cpu"}
    memory.remember([manifest(2, profile="engine-gpu"), manifest(7)])


def test_one_number_is_one_image(tmp_path: Path) -> None:
    memory = ReleaseMemory(tmp_path / "releases.json")
    memory.remember([manifest(7)])
    with pytest.raises(RollbackError, match="one number was given to two images"):
        memory.remember([manifest(7, image="another")])
    with pytest.raises(RollbackError, match="release 8"):
        memory.remember([manifest(8), manifest(8, image="another")])
    # Control: the same files with other dates and predictions are the same release.
    memory.remember([manifest(7, until=NOW + 400 * DAY, registers=())])
    assert files_digest(manifest(7)) == files_digest(manifest(7, until=NOW + 400 * DAY, registers=()))


def test_checking_remembers_nothing(tmp_path: Path) -> None:
    memory = ReleaseMemory(tmp_path / "releases.json")
    memory.check([manifest(7)])
    assert not memory.path.exists()
    memory.remember([manifest(7)])
    with pytest.raises(RollbackError):
        memory.check([manifest(6)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format":"chrysalis release memory 2","families":{}}',
        b'{"format":"chrysalis release memory 1"}',
        b'{"format":"chrysalis release memory 1","families":{"a/b":{"release":"7","files":"' + b"0" * 64 + b'"}}}',
        b'{"format":"chrysalis release memory 1","families":{"a/b":{"release":-1,"files":"' + b"0" * 64 + b'"}}}',
        b'{"format":"chrysalis release memory 1","families":{"a":{"release":7,"files":"' + b"0" * 64 + b'"}}}',
        b'{"format":"chrysalis release memory 1","families":{},"more":1}',
        b" " * (MAX_MEMORY_BYTES + 1),
    ],
)
def test_a_damaged_memory_is_an_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "releases.json"
    path.write_bytes(content)
    with pytest.raises(ReleaseMemoryError, match=r"releases\.json (is damaged|has more than)") as caught:
        ReleaseMemory(path).remember([manifest(7)])
    assert "goes unnoticed" in caught.value.hint
    assert path.read_bytes() == content
    # Control: the form that is written is read.
    path.write_bytes(b'{"format":"chrysalis release memory 1","families":{}}')
    ReleaseMemory(path).remember([manifest(7)])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_memory_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(ReleaseMemoryError):
        ReleaseMemory(path).families()


def test_a_memory_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ReleaseMemoryError, match=r"cannot be (locked|read)"):
        ReleaseMemory(tmp_path / "taken" / "releases.json").remember([manifest(7)])
    (tmp_path / "releases.json").mkdir()
    with pytest.raises(ReleaseMemoryError, match="cannot be read"):
        ReleaseMemory(tmp_path / "releases.json").remember([manifest(7)])


def test_the_memory_is_bounded() -> None:
    many = {f"a/{number}": Seen(release=1, files="0" * 64) for number in range(MAX_FAMILIES)}
    with pytest.raises(ReleaseMemoryError, match="at most 256"):
        raised(many, [manifest(1)])
    # Control: one fewer.
    many.popitem()
    assert len(raised(many, [manifest(1)])) == MAX_FAMILIES


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=4), max_size=12))
def test_what_is_remembered_only_rises(steps: list[list[tuple[str, int]]]) -> None:
    """Any order of sets of releases: a set passes exactly if none of its families' highest is below the memory's."""
    known: dict[str, Seen] = {}
    highest: dict[str, int] = {}
    for step in steps:
        given_now: dict[str, int] = {}
        for profile, release in step:
            given_now[profile] = max(release, given_now.get(profile, 0))
        rollback = any(release < highest.get(profile, 0) for profile, release in given_now.items())
        made = [manifest(release, profile=profile) for profile, release in step]
        if rollback:
            with pytest.raises(RollbackError):
                raised(known, made)
            continue
        known = raised(known, made)
        highest |= given_now
        assert {family: seen.release for family, seen in known.items()} == {
            f"chrysalis/{profile}": release for profile, release in highest.items()
        }


def remember_one(directory: str, profile: str) -> None:
    ReleaseMemory(Path(directory) / "releases.json").remember([manifest(3, profile=profile)])


def test_several_programs_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = [f"p{number}" for number in range(3)]
    workers = [context.Process(target=remember_one, args=(str(tmp_path), name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert set(ReleaseMemory(tmp_path / "releases.json").families()) == {f"chrysalis/{name}" for name in names}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from releases_support import manifest
from attestation.policies.release_memory import ReleaseMemory
def die(name):
    if name == {boundary!r}:
        os.kill(os.getpid(), signal.SIGKILL)
ReleaseMemory(Path({path!r}), die).remember([manifest(7)])
"""


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_killed_at_any_moment_it_has_the_old_or_the_new_state(tmp_path: Path, boundary: str) -> None:
    memory = ReleaseMemory(tmp_path / "releases.json")
    memory.remember([manifest(6)])
    code = KILLED.format(here=str(HERE), boundary=boundary, path=str(memory.path))
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    known = memory.families()[family_of(manifest(6))].release
    assert known == (7 if boundary == "renamed" else 6)
    # What was left behind hinders nobody, and the release is remembered when it is seen again.
    memory.remember([manifest(7)])
    assert memory.families()[family_of(manifest(7))].release == 7
    with pytest.raises(RollbackError):
        memory.remember([manifest(6)])


def test_the_file_is_its_owners_and_readable_as_text(tmp_path: Path) -> None:
    memory = ReleaseMemory(tmp_path / "releases.json")
    memory.remember([manifest(7)])
    assert memory.path.stat().st_mode & 0o077 == 0
    assert json.loads(memory.path.read_text())["families"]["chrysalis/engine-cpu"]["release"] == 7
