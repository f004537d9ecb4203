"""An audit that was killed goes on where it was, and what is kept counts only for what it was made of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from audit_support import ROOT, WORKER, Release, audited, git

from appliance.audit.outcome import Finding, Row, Step
from appliance.audit.work import WorkDirectory, key_of, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.audit.plan import Audit

SOON_S = 60.0
AS_ROOT = "import os; os.geteuid = lambda: 0\nfrom appliance.cli.main import run\nrun()"
STEP = Step(
    name="rebuild",
    title="The rebuild",
    status="same",
    summary="done",
    inputs={"a": "b"},
    rows=(Row("x", "1", "", same=True),),
    findings=(Finding("x", "y", "z"),),
    notes=("n",),
    commands=("true",),
    seconds=1.5,
    facts={"directory": "d", "digests": {"a": "b"}},
)


def kept(done: Audit) -> set[str]:
    return {step.name for step in done.steps if step.kept}


def until(what: Any) -> None:
    deadline = time.monotonic() + SOON_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - a process's file, read once
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_audit_goes_on_and_leaves_no_build_behind(release: Release, tmp_path: Path, audit_home: Path) -> None:
    """Killed in the middle of the build: the checkout is kept, the build is made again, and only once."""
    manifest = release.write(tmp_path / "manifest.json")
    begun, held = tmp_path / "begun", tmp_path / "held"
    held.write_text("")
    command = [sys.executable, "-c", AS_ROOT, "audit", release.source, "--manifest", manifest, "--offline", "--json",
               "--work", tmp_path / "audit"]  # fmt: skip
    environment = {
        **os.environ, "CHRYSALIS_HOME": str(audit_home), "STAND_IN_BEGUN": str(begun), "STAND_IN_HELD": str(held),
    }  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as run:
        until(lambda: begun.exists() and begun.read_text())
        run.send_signal(signal.SIGKILL)
    until(lambda: ended(int(begun.read_text())))
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "audit" / "steps").iterdir()] == ["source.json"]
    held.unlink()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["verdict"] == "reproduced"
    assert [step["name"] for step in told["steps"] if step["kept"]] == ["source"]
    third = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told = json.loads(third.stdout.splitlines()[-1])
    assert [step["name"] for step in told["steps"] if step["kept"]] == ["source", "rebuild"]
    assert all(step["commands"] for step in told["steps"] if step["kept"])


def test_a_finished_audit_is_repeated_without_building(release: Release, tmp_path: Path, audit_home: Path) -> None:
    assert kept(audited(release, tmp_path)) == set()
    assert kept(audited(release, tmp_path)) == {"source", "rebuild"}
    data = tmp_path / "audit" / "rebuilt" / "chrysalis.efi"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    done = audited(release, tmp_path)
    assert kept(done) == {"source"}
    assert done.verdict.line == "reproduced"
    (tmp_path / "audit" / "checkout" / WORKER).write_text("ANSWER = 43\n")
    done = audited(release, tmp_path)
    assert kept(done) == {"rebuild"}, "the checkout was changed and made anew; the build is of the same commit"
    assert done.verdict.line == "reproduced"


def test_what_is_kept_is_of_one_commit(release: Release, tmp_path: Path, audit_home: Path) -> None:
    audited(release, tmp_path)
    source = tmp_path / "source"
    git(tmp_path, "clone", "--quiet", str(release.source), str(source))
    (source / WORKER).write_text("ANSWER = 43\n")
    git(source, "commit", "--quiet", "-a", "-m", "second")
    second = git(source, "rev-parse", "HEAD")
    done = audited(release, tmp_path, {"source_commit": second}, source=source)
    assert kept(done) == set()
    assert done.verdict.kind == "differs"


def test_a_changed_tree_is_built_again(release: Release, tmp_path: Path, audit_home: Path) -> None:
    source = tmp_path / "source"
    git(tmp_path, "clone", "--quiet", str(release.source), str(source))
    assert kept(audited(release, tmp_path, source=source, as_it_is=True)) == set()
    assert kept(audited(release, tmp_path, source=source, as_it_is=True)) == {"rebuild"}
    (source / WORKER).write_text("ANSWER = 43\n")
    done = audited(release, tmp_path, source=source, as_it_is=True)
    assert kept(done) == set()
    assert done.verdict.kind == "differs"


def test_a_step_is_read_back_as_it_was(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path)
    with work.held():
        work.keep(STEP, key_of("a", 1))
        back = work.load("rebuild", key_of("a", 1))
        assert back is not None
        assert back.kept
        assert {**back.to_value(), "kept": False} == STEP.to_value()
        assert work.load("rebuild", key_of("a", 2)) is None
        assert work.load("source", key_of("a", 1)) is None
        work.forget("rebuild")
        assert work.load("rebuild", key_of("a", 1)) is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"key": "k"}', b'{"key": "k", "step": {}}', b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "no text", "no step", "no fields", "deep"],
)
def test_a_damaged_step_is_done_again(tmp_path: Path, damage: bytes) -> None:
    work = WorkDirectory(tmp_path)
    with work.held():
        work.keep(STEP, "k")
        assert work.load("rebuild", "k") is not None
        (tmp_path / "steps" / "rebuild.json").write_bytes(damage)
        assert work.load("rebuild", "k") is None


def test_a_kept_step_of_an_unknown_status_is_not_believed(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path)
    with work.held():
        work.keep(STEP, "k")
        place = tmp_path / "steps" / "rebuild.json"
        place.write_text(place.read_text().replace('"status": "same"', '"status": "fine"'))
        assert work.load("rebuild", "k") is None


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"old")

    def fail(_: int) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no room"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
