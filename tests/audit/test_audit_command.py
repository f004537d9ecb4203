"""``chrysalis audit`` as its users meet it: words, exit status, one JSON object, a report on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from audit_support import ROOT, Release
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.cli.main import run
from measurements.signature import sign_manifest

if TYPE_CHECKING:
    from pathlib import Path


def audit(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", "audit", *map(str, words)]
    environment = {**os.environ, "CHRYSALIS_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_the_verdict_is_the_first_line_and_the_status(release: Release, tmp_path: Path, audit_home: Path) -> None:
    """A build of the auditor's own is taken, so that no root is needed; signed, with a key that is trusted."""
    manifest = release.write(tmp_path / "manifest.json")
    key = Ed25519PrivateKey.generate()
    (tmp_path / "manifest.json.sig").write_bytes(sign_manifest(manifest.read_bytes(), key))
    common = [release.source, "--manifest", manifest, "--offline"]
    public = key.public_key().public_bytes_raw().hex()
    done = audit(audit_home, *common, "--built", release.published, "--key", public, "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("reproduced (by the build in")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"audit.html", "audit.json", "audit.md"}
    assert (tmp_path / "report" / "audit.md").read_text().startswith("**reproduced")

    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    unsigned = audit(audit_home, *common, "--built", release.published, "--key", other, "--json")
    told = json.loads(unsigned.stdout.splitlines()[-1])
    assert (unsigned.returncode, told["ok"], told["result"]) == (1, False, "differs")
    assert told["verdict"] == "differs: manifest.json"
    assert told["report"]["html"].startswith(str(audit_home / "audit"))

    gone = release.write(tmp_path / "gone.json", source_commit="ab" * 20)
    lost = audit(audit_home, release.source, "--manifest", gone, "--offline")
    assert lost.returncode == 2
    assert lost.stdout.splitlines()[0].startswith("could not be checked: the source")
    assert "Traceback" not in done.stderr + unsigned.stderr + lost.stderr


def test_a_report_that_cannot_be_written_is_no_difference(release: Release, tmp_path: Path, audit_home: Path) -> None:
    manifest = release.write(tmp_path / "manifest.json")
    (tmp_path / "file").write_text("")
    common = [release.source, "--manifest", manifest, "--offline", "--built", release.published]
    done = audit(audit_home, *common, "--report", tmp_path / "file" / "report")
    assert done.returncode == 2
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


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
def test_wrong_requests_are_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["chrysalis", "audit", *words])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    told = capfd.readouterr().err
    assert said in told.replace("\n", " ")
    assert "Traceback" not in told
