"""``chrysalis audit`` as its users meet it: words, exit status, one JSON object, a report on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import pytest
from audit_support import ROOT, Release
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.cli.main import run
from measurements.signature import Signature, encode_signatures, sign_manifest

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
        (["--manifest", "README.md"], "README.md: the manifest is not JSON"),
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


A_MANIFEST = "hint:  name the manifest.json of a release, as under measurements/reference/<profile>/<release>/"


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--manifest", "text"], "text: the manifest is not JSON", A_MANIFEST),
        (["--manifest", "absent"], "absent: No such file", A_MANIFEST),
        (["--manifest", "long"], "long: more than the 1048576 bytes", A_MANIFEST),
        (["--manifest", "text", "--key", "11" * 32, "--signature", "text.sig"], "text: the manifest", A_MANIFEST),
        (["--manifest", "text", "--key", "KEY", "--signature", "text.sig"], "text: the manifest is not", A_MANIFEST),
        (["--manifest", "text", "--key", "KEY"], "manifest.json.sig: No such file", "hint:  name the release's"),
        (["--manifest", "old"], "old: format 'other', expected", "hint:  it was made by another version"),
        (["--manifest", "text", "--known", "text"], "text: the manifest is not JSON", A_MANIFEST),
        (["--manifest", "text", "--bundle", "absent"], "absent: No such file", "hint:  name evidence of a machine"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_belongs_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: Command, *, words: list[str], said: str, hint: str
) -> None:
    """Whatever is wrong with it: text that a trusted key signed is no manifest either."""
    monkeypatch.chdir(tmp_path)
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    (tmp_path / "text").write_bytes(b"# a text\n")
    (tmp_path / "text.sig").write_bytes(encode_signatures([Signature(public, key.sign(b"# a text\n"))]))
    (tmp_path / "old").write_text('{"format":"other"}')
    (tmp_path / "long").write_bytes(bytes((1 << 20) + 1))
    done = audit(*(public.hex() if word == "KEY" else word for word in words))
    assert done.status == 2
    assert f"error: {said}" in done.stderr
    assert hint in done.stderr


def failing(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a fault"), "error: internal error: ValueError: a fault"),
        (ModuleNotFoundError("no aiohttp", name="aiohttp"), "error: internal error: ModuleNotFoundError: no aiohttp"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (OSError(28, "No space left on device", "log"), "error: log: No space left on device"),
        (TimeoutError(), "error: TimeoutError"),
        (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe"),
        (EOFError(), "error: something ended early: EOFError"),
    ],
    ids=repr,
)
def test_status_one_is_no_error_s(
    release: Release, tmp_path: Path, audit: Command, monkeypatch: pytest.MonkeyPatch, *, error: Exception, said: str
) -> None:
    words = [release.source, "--manifest", release.write(tmp_path / "manifest.json"), "--built", release.published]
    with monkeypatch.context() as patched:
        patched.setattr("appliance.cli.audit.run_audit", failing(error))
        done = audit(*words)
    assert done.status == 2
    assert said in done.stderr.splitlines()
    assert audit(*words).status == 0, "control"


@pytest.mark.parametrize(("group", "status"), [("audit", 2), ("worker", 1)])
@pytest.mark.parametrize("traced", [False, True])
def test_an_error_has_the_status_that_the_command_says(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], group: str, status: int, traced: bool
) -> None:
    """A package that is missing, and a fault of ours; another command has status 1 for both."""
    monkeypatch.setattr(sys, "argv", ["chrysalis", group, "run"])
    monkeypatch.setenv("CHRYSALIS_TRACE", "1" if traced else "")
    for error, said in (
        (ModuleNotFoundError(name="aiohttp"), f"{group} needs aiohttp, which is not installed"),
        (ValueError("a fault"), "internal error: ValueError: a fault"),
    ):
        monkeypatch.setattr("appliance.cli.main.import_module", failing(error))
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == status
        told = capfd.readouterr().err
        assert said in told
        assert ("Traceback" in told) is (traced and "internal" in said)
