"""Whole audits of a repository whose build takes no minutes: reproduced, differs, could not be checked, and why."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from audit_support import IN_IMAGE, WORKER, Release, audited, build, git, manifest_of

from appliance.audit.errors import AuditError
from appliance.audit.work import WorkDirectory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("audit_home")


def test_the_manifest_of_a_commit_is_reproduced(release: Release, tmp_path: Path) -> None:
    done = audited(release, tmp_path)
    assert done.verdict.line == "reproduced"
    assert done.verdict.exit_status == 0
    assert {step.name: step.status for step in done.steps} == {
        "manifest": "same", "source": "same", "inputs": "same", "rebuild": "same", "artefacts": "same",
        "published": "left out", "registers": "same", "registry": "left out", "machines": "left out",
    }  # fmt: skip
    assert len(done.step("registers").rows) == 8
    for name in ("source", "rebuild"):
        assert done.step(name).commands
    assert any("image build --profile engine-cpu" in command for command in done.step("rebuild").commands)


def test_the_commit_of_the_manifest_is_built_whatever_lies_in_the_tree(release: Release, tmp_path: Path) -> None:
    source = tmp_path / "changed"
    shutil.copytree(release.source, source)
    (source / WORKER).write_text("ANSWER = 43\n")
    assert audited(release, tmp_path, source=source).verdict.line == "reproduced"
    git(source, "commit", "--quiet", "-a", "-m", "second")
    (source / "appliance/worker/new.py").write_text("")
    again = audited(release, tmp_path / "again", source=source)
    assert again.verdict.line == "reproduced"
    assert again.step("source").facts["key"] == release.commit


def test_one_changed_source_line_is_named_as_the_file_in_the_image(release: Release, tmp_path: Path) -> None:
    """With the published files at hand, and without them; the control is the tree before the change."""
    source = tmp_path / "changed"
    shutil.copytree(release.source, source)
    same = audited(release, tmp_path / "control", source=source, as_it_is=True)
    assert same.verdict.line == "reproduced"
    (source / WORKER).write_text("ANSWER = 43\n")
    for number, published in enumerate((None, release.published)):
        done = audited(release, tmp_path / str(number), source=source, as_it_is=True, published=published)
        assert done.verdict.kind == "differs"
        assert done.verdict.exit_status == 1
        assert done.verdict.line.startswith(f"differs: {IN_IMAGE}")
        artefacts = done.step("artefacts")
        assert artefacts.findings[0].subject == IN_IMAGE
        assert WORKER in artefacts.findings[0].text
        assert done.step("source").facts["changed"] == [WORKER]
        assert done.step("registers").status == "differs"


def test_a_change_that_reaches_no_image_is_no_difference(release: Release, tmp_path: Path) -> None:
    source = tmp_path / "changed"
    shutil.copytree(release.source, source)
    (source / "README").write_text("words\n")
    done = audited(release, tmp_path, source=source, as_it_is=True)
    assert done.verdict.line == "reproduced"
    assert [finding.subject for finding in done.step("source").findings] == ["README"]


def test_a_release_of_changed_source_names_the_file_with_the_published_lists(release: Release, tmp_path: Path) -> None:
    """A manifest that was made from other source than the commit that it names; the control names the right one."""
    source = tmp_path / "changed"
    shutil.copytree(release.source, source)
    (source / WORKER).write_text("ANSWER = 43\n")
    published = build(source, tmp_path / "published")
    forged = manifest_of(published).model_copy(update={"source_modified": False})
    manifest = tmp_path / "forged.json"
    manifest.write_bytes(forged.encode())
    done = audited(release, tmp_path / "a", manifest=manifest, published=published)
    assert done.verdict.line.startswith(f"differs: {IN_IMAGE}")
    bare = audited(release, tmp_path / "b", manifest=manifest)
    assert bare.verdict.line.startswith("differs: chrysalis.root.files")
    assert any("--artefacts" in note for note in bare.step("artefacts").notes)
    assert audited(release, tmp_path / "c", published=release.published).verdict.line == "reproduced"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"root_hash": "ab" * 32, "command_line": f"console=ttyS0 quiet roothash={'ab' * 32}"}, "command_line"),
        ({"version": "0.2.0"}, "version"),
        ({"locks": {"base.json": "ab" * 32}}, "image/lock/base.json"),
    ],
    ids=["command line", "version", "lock"],
)
def test_a_manifest_that_says_something_else_is_named(
    release: Release, tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    done = audited(release, tmp_path, changed)
    assert done.verdict.kind == "differs"
    assert named in done.verdict.line


def test_one_digit_of_an_artefact_or_a_register_is_named(release: Release, tmp_path: Path) -> None:
    entries = [entry.model_dump() for entry in release.manifest.artefacts]
    entries[0]["sha256"] = entries[0]["sha256"][:-1] + ("0" if entries[0]["sha256"][-1] != "0" else "1")
    done = audited(release, tmp_path / "a", {"artefacts": entries})
    assert done.verdict.line == f"differs: {entries[0]['name']}"
    sets = [entry.model_dump() for entry in release.manifest.registers]
    sets[1]["values"]["pcr9"] = "ab" * 32
    done = audited(release, tmp_path / "b", {"registers": sets})
    assert done.verdict.line == "differs: pcr9 of tpm disk any"
    assert sum(not row.same for row in done.step("registers").rows) == 1


def test_diffoscopes_words_are_quoted_where_it_is_installed(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name on the path; the control is every other test, which has none."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "diffoscope").write_text('#!/bin/sh\nshift 2\necho "--- $1"\necho "+++ $2"\nexit 1\n')
    (programs / "diffoscope").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    published = tmp_path / "published"
    shutil.copytree(release.published, published)
    (published / "chrysalis.efi").write_bytes((published / "chrysalis.efi").read_bytes() + b"more")
    done = audited(release, tmp_path, published=published)
    (finding,) = done.step("published").findings
    built = tmp_path / "audit" / "rebuilt" / "chrysalis.efi"
    assert finding.details == f"--- {published / 'chrysalis.efi'}\n+++ {built}"
    (command,) = done.step("published").commands
    assert command.startswith(f"{programs}/diffoscope ")


def test_a_file_too_few_or_too_many_is_named(release: Release, tmp_path: Path) -> None:
    entries = [entry.model_dump() for entry in release.manifest.artefacts]
    fewer = audited(release, tmp_path / "a", {"artefacts": entries[1:]}, built=release.published)
    assert fewer.verdict.line == f"differs: {entries[0]['name']}"
    assert "which the manifest does not list" in fewer.step("artefacts").findings[0].text
    more = sorted([*entries, {**entries[0], "name": "extra.fd"}], key=lambda entry: str(entry["name"]))
    lacking = audited(release, tmp_path / "b", {"artefacts": more}, built=release.published)
    assert lacking.verdict.line == "differs: extra.fd"
    assert "which the build does not make" in lacking.step("artefacts").findings[0].text


def test_a_tampered_published_file_is_named(release: Release, tmp_path: Path) -> None:
    published = tmp_path / "published"
    shutil.copytree(release.published, published)
    data = bytearray((published / "chrysalis.root.raw").read_bytes())
    data[100] ^= 1
    (published / "chrysalis.root.raw").write_bytes(data)
    done = audited(release, tmp_path, published=published)
    assert done.verdict.line == "differs: published chrysalis.root.raw"
    assert done.step("artefacts").status == "same"
    (finding,) = done.step("published").findings
    assert "the first differing byte is at 100" in finding.text


def test_an_expired_release_is_reproduced_and_that_is_said(release: Release, tmp_path: Path) -> None:
    """Its number and dates go to the build, which writes them into its manifest."""
    done = audited(release, tmp_path, {"release": 3, "not_before": 86400, "expires": 172800})
    assert done.verdict.line == "reproduced"
    assert any("clients do not take it now: release 3" in note for note in done.step("manifest").notes)
    (command,) = done.step("rebuild").commands
    assert "--release 3 --not-before 1970-01-02T00:00:00Z --expires 1970-01-03T00:00:00Z" in command
    assert not any("clients" in note for note in audited(release, tmp_path / "now").step("manifest").notes)


def test_a_commit_that_the_source_lacks_cannot_be_checked(release: Release, tmp_path: Path) -> None:
    done = audited(release, tmp_path, {"source_commit": "ab" * 20})
    assert done.verdict.line == f"could not be checked: the source {release.source} has no commit {'ab' * 20}"
    assert done.verdict.exit_status == 2
    assert {step.status for step in done.steps[2:]} == {"left out"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"source_commit": None, "source_modified": True}, "names no source commit"),
        ({"source_modified": True}, "built from changes on top of commit"),
    ],
)
def test_a_manifest_without_a_commit_cannot_be_audited(
    release: Release, tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    done = audited(release, tmp_path, changed)
    assert done.verdict.kind == "unchecked"
    assert why in done.verdict.line
    assert audited(release, tmp_path / "as-it-is", changed, as_it_is=True).verdict.line == "reproduced"


def test_a_source_that_does_not_build_cannot_be_checked(release: Release, tmp_path: Path) -> None:
    source = tmp_path / "broken"
    shutil.copytree(release.source, source)
    (source / "broken").write_text("")
    done = audited(release, tmp_path, source=source, as_it_is=True)
    assert done.verdict.kind == "unchecked"
    assert "this source does not build" in done.verdict.line
    assert done.step("artefacts").status == "left out"


def test_building_needs_root_and_says_so(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = audited(release, tmp_path)
    assert done.verdict.line.startswith("could not be checked: building an image needs root")
    given = audited(release, tmp_path / "built", built=release.published)
    assert given.verdict.line == f"reproduced (by the build in {release.published}, which this audit did not make)"
    with pytest.raises(AuditError, match="the manifest names"):
        audited(release, tmp_path / "other", {"source_commit": "ab" * 20}, built=release.published)


def test_without_a_build_the_published_files_are_still_looked_at(release: Release, tmp_path: Path) -> None:
    done = audited(release, tmp_path, {"source_commit": "ab" * 20}, published=release.published)
    assert done.verdict.kind == "unchecked"
    assert done.step("published").status == "same"
    assert done.step("registers").status == "same"


def test_two_audits_do_not_share_a_work_directory(release: Release, tmp_path: Path) -> None:
    with WorkDirectory(tmp_path / "audit").held(), pytest.raises(AuditError, match="another audit runs"):
        audited(release, tmp_path)
    assert audited(release, tmp_path).verdict.line == "reproduced"


@pytest.mark.parametrize("source", ["nowhere", "--upload-pack=touch x", "ext::sh -c true"])
def test_a_source_that_is_none_is_refused(release: Release, tmp_path: Path, source: str) -> None:
    with pytest.raises(AuditError, match="neither a directory nor an address"):
        audited(release, tmp_path, source=source)
