"""The source: whoever owns the repository, whatever settings are around it, the commit is what is built."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from audit_support import WORKER, Release, audited, git

from appliance.audit.checkout import is_address, tree_digest
from appliance.audit.errors import UncheckedError
from appliance.audit.programs import Programs, shell_line

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("audit_home")
STRANGER = 12345


@pytest.fixture
def source(release: Release, tmp_path: Path) -> Path:
    """A repository of one's own, with the release's commit; its name needs quoting everywhere."""
    place = tmp_path / 'a "source" \\ of mine'
    shutil.copytree(release.source, place)
    return place


def with_crlf(source: Path) -> None:
    git(source, "config", "core.autocrlf", "true")


def with_hook(source: Path) -> None:
    hook = source / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho 'ANSWER = 43' > {WORKER}\n")
    hook.chmod(0o755)


def detached(source: Path) -> None:
    commit = git(source, "rev-parse", "HEAD")
    git(source, "checkout", "--quiet", "--detach")
    git(source, "branch", "-D", "main")
    assert git(source, "rev-parse", "HEAD") == commit


def elsewhere(source: Path) -> None:
    git(source, "checkout", "--quiet", "--orphan", "other")
    git(source, "commit", "--quiet", "--allow-empty", "-m", "other")


def only_under_another_name(source: Path) -> None:
    """The commit is on no branch; a server gives it when it is asked for by name."""
    git(source, "update-ref", "refs/kept/one", "HEAD")
    elsewhere(source)
    git(source, "branch", "-D", "main")
    git(source, "config", "uploadpack.allowAnySHA1InWant", "true")


@pytest.mark.parametrize("change", [with_crlf, with_hook, detached, elsewhere, only_under_another_name])
def test_nothing_but_the_commit_decides(
    release: Release, source: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(source)
    assert audited(release, tmp_path / "audit it", source=source).verdict.line == "reproduced"


def attributes_of_the_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home / ".config" / "git" / "attributes"


def attributes_of_a_template(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(home / "template"))
    return home / "template" / "info" / "attributes"


@pytest.mark.parametrize("place", [attributes_of_the_user, attributes_of_a_template])
def test_the_auditor_s_own_attributes_change_no_line(
    release: Release,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Path, pytest.MonkeyPatch], Path],
) -> None:
    file = place(tmp_path / "auditor", monkeypatch)
    file.parent.mkdir(parents=True)
    file.write_text("* text eol=crlf\n")
    git(tmp_path, "clone", "--quiet", str(source), str(tmp_path / "plain"))
    assert b"\r\n" in (tmp_path / "plain" / WORKER).read_bytes(), "control: a clone of the auditor's is altered"
    done = audited(release, tmp_path / "audit it", source=source)
    assert done.verdict.line == "reproduced"
    step = done.step("source")
    assert (Path(str(step.facts["directory"])) / WORKER).read_bytes() == (source / WORKER).read_bytes()
    (line,) = (command for command in step.commands if " checkout " in command)
    assert "GIT_ATTR_NOSYSTEM=1" in line  # those of the whole machine lie where no test may write
    assert audited(release, tmp_path / "audit it", source=source).step("source").kept


@pytest.mark.parametrize("as_it_is", [False, True])
def test_the_repository_of_another_user_is_read(
    release: Release, source: Path, tmp_path: Path, as_it_is: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path / "home"))
    for path in (source, *source.rglob("*")):
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    done = audited(release, tmp_path, source=source, as_it_is=as_it_is)
    step = done.step("source")
    assert step.status == "same"
    assert not any("not known" in note for note in step.notes)


def test_a_hooks_variables_do_not_lead_to_another_repository(
    release: Release, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert audited(release, tmp_path, source=source).verdict.line == "reproduced"


def test_a_shallow_clone_is_told_what_it_lacks(release: Release, source: Path, tmp_path: Path) -> None:
    (source / WORKER).write_text("ANSWER = 43\n")
    git(source, "commit", "--quiet", "-a", "-m", "second")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{source}", str(shallow))
    done = audited(release, tmp_path, source=shallow)
    assert done.verdict.line.startswith("could not be checked: the source")
    assert any("shallow" in note for note in done.step("source").notes)


def test_an_address_is_cloned(release: Release, source: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    source.rename(plain)
    assert audited(release, tmp_path, source=f"file://{plain}").verdict.line == "reproduced"
    gone = audited(release, tmp_path / "again", source=f"file://{tmp_path}/nowhere")
    assert gone.verdict.kind == "unchecked"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://git.example/x", True),
        ("ssh://git@git.example/x", True),
        ("git@git.example:x/y", True),
        ("file:///x", True),
        ("/x/y", False),
        (".", False),
        ("ext::sh -c x", False),
        ("--upload-pack=x", False),
    ],
)
def test_what_is_an_address(text: str, expected: bool) -> None:
    assert is_address(text) is expected


def test_the_digest_of_a_tree_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    (tmp_path / "link").symlink_to("a")
    names = ["a", "b", "link"]
    first = tree_digest(tmp_path, names)
    assert tree_digest(tmp_path, reversed(names)) == first
    assert tree_digest(tmp_path, ["a", "b"]) != first
    (tmp_path / "b").write_text("3")
    second = tree_digest(tmp_path, names)
    assert second != first
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    assert tree_digest(tmp_path, names) != second
    (tmp_path / "a").unlink()
    assert tree_digest(tmp_path, names) != second


def test_a_program_is_written_down_logged_and_its_last_words_told(tmp_path: Path) -> None:
    told: list[str] = []
    programs = Programs(tmp_path / "log", told.append)
    out = programs.run(["sh", "-c", "echo out; echo err >&2"], cwd=tmp_path, environment={"A": "b c"})
    assert out == "out\n"
    assert told == programs.ran == [f"(cd {tmp_path} && A='b c' sh -c 'echo out; echo err >&2')"]
    assert (tmp_path / "log").read_text().splitlines() == [f"+ {told[0]}", "err", "out"]
    with pytest.raises(UncheckedError, match="sh ended with status 3: sorry"):
        programs.run(["sh", "-c", "echo sorry >&2; exit 3"])
    programs.began()
    programs.run(["true"], quiet=True)
    assert programs.ran == []
    assert shell_line(["a b", "c"]) == "'a b' c"
