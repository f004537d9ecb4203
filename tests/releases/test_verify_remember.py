"""``chrysalis verify --remember``: a verifier that was shown a newer release takes no older manifest any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer
from releases_support import DAY, NOW, PUBLIC, manifest, write
from typer.testing import CliRunner

from appliance.cli.verify import verify
from appliance.lab.tee import SyntheticTdx
from attestation.policies.release_memory import ReleaseMemory, RollbackError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture(params=["simulated", "release", "file"])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A policy of each kind that can be given manifests."""
    if request.param == "simulated":
        root = tmp_path / "root.der"
        root.write_bytes(SyntheticTdx().root_der)
        return ["--policy", "simulated", "--root", str(root)]
    if request.param == "release":
        return ["--policy", "release"]
    path = tmp_path / "policy.toml"
    path.write_text('name = "mine"\n[measurements]\nrequire = "signature"\n')
    return ["--policy", str(path)]


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.cbor"
    path.write_bytes(b"what it says matters to nobody here")
    return path


def judged(evidence: Path, policy: list[str], *manifests: Path, remember: Path | None) -> Result:
    app = typer.Typer()
    app.command()(verify)
    words = [str(evidence), *policy, "--key", PUBLIC.hex()]
    words += [word for path in manifests for word in ("--manifest", str(path))]
    words += ["--remember", str(remember)] if remember is not None else []
    return CliRunner().invoke(app, words)


def test_an_older_manifest_is_refused_once_a_newer_one_was_seen(
    tmp_path: Path, policy: list[str], evidence: Path
) -> None:
    old, new = (write(tmp_path / f"{number}.json", manifest(number)) for number in (6, 7))
    seen = tmp_path / "seen.json"
    for manifests in ([old], [new], [old, new]):
        assert judged(evidence, policy, *manifests, remember=seen).exit_code == 1, "the evidence is none"
    assert ReleaseMemory(seen).families()["chrysalis/engine-cpu"].release == 7
    found = judged(evidence, policy, old, remember=seen)
    assert isinstance(found.exception, RollbackError)
    # Controls: beside the newer one; without the memory; with another one.
    for options in ({"remember": seen, "more": (new,)}, {"remember": None}, {"remember": tmp_path / "other.json"}):
        more: Any = options.pop("more", ())
        again = judged(evidence, policy, old, *more, **options)
        assert isinstance(again.exception, SystemExit), again.exception


def test_a_release_whose_time_has_not_come_is_not_remembered(tmp_path: Path, policy: list[str], evidence: Path) -> None:
    coming = write(tmp_path / "8.json", manifest(8, since=NOW + 100_000 * DAY, until=NOW + 100_300 * DAY))
    seen = tmp_path / "seen.json"
    assert judged(evidence, policy, coming, remember=seen).exit_code == 1
    assert ReleaseMemory(seen).families() == {}
    judged(evidence, policy, write(tmp_path / "7.json", manifest(7)), remember=seen)
    assert ReleaseMemory(seen).families()["chrysalis/engine-cpu"].release == 7
