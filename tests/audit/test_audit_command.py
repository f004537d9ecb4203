"""``chrysalis audit`` as its users meet it: words, exit status, one JSON object, a report on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from audit_support import ROOT, Release
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.cli.main import run
from measurements.signature import sign_manifest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What the command did."""

    status: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["chrysalis", "audit", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        told = capfd.readouterr()
        assert "Traceback" not in told.err
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, told.out, told.err)

    return command


def test_the_verdict_is_the_first_line_and_the_status(release: Release, tmp_path: Path, audit: Command) -> None:
    """A build of the auditor's own is taken, so that no root is needed; signed, with a key that is trusted."""
    manifest = release.write(tmp_path / "manifest.json")
    key = Ed25519PrivateKey.generate()
    (tmp_path / "manifest.json.sig").write_bytes(sign_manifest(manifest.read_bytes(), key))
    common = [release.source, "--manifest", manifest, "--offline"]
    public = key.public_key().public_bytes_raw().hex()
    done = audit(*common, "--built", release.published, "--key", public, "--report", tmp_path / "report")
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("reproduced (by the build in")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"audit.html", "audit.json", "audit.md"}
    assert (tmp_path / "report" / "audit.md").read_text().startswith("**reproduced")

    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    unsigned = audit(*common, "--built", release.published, "--key", other, "--json")
    told = json.loads(unsigned.stdout.splitlines()[-1])
    assert (unsigned.status, told["ok"], told["result"]) == (1, False, "differs")
    assert told["verdict"] == "differs: manifest.json"
    assert told["report"]["html"].startswith(str(tmp_path / "home" / "audit"))

    gone = release.write(tmp_path / "gone.json", source_commit="ab" * 20)
    lost = audit(release.source, "--manifest", gone, "--offline")
    assert lost.status == 2
    assert lost.stdout.splitlines()[0].startswith("could not be checked: the source")


def test_a_report_that_cannot_be_written_is_no_difference(release: Release, tmp_path: Path, audit: Command) -> None:
    manifest = release.write(tmp_path / "manifest.json")
    (tmp_path / "file").write_text("")
    common = [release.source, "--manifest", manifest, "--offline", "--built", release.published]
    done = audit(*common, "--report", tmp_path / "file" / "report")
    assert done.status == 2
    assert "Not a directory" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which release is to be audited?"),
        (["--manifest", "absent.json"], "absent.json: No such file"),
        (["--manifest", "README.md"], "the manifest is not JSON"),
        (["--manifest", "README.md", "--offline", "--archive", "http://a.example"], "--offline with --archive"),
        (["--manifest", "README.md", "--bundle", "absent.cbor"], "absent.cbor: No such file"),
        (["--manifest", "README.md", "--network", "absent.toml"], "absent.toml: No such file"),
        (["--manifest", "README.md", "--known", "README.md"], "README.md: the manifest is not JSON"),
    ],
)
def test_wrong_requests_are_words(audit: Command, words: list[str], said: str) -> None:
    done = audit(*words)
    assert done.status == 2
    assert said in done.stderr.replace("\n", " ")
