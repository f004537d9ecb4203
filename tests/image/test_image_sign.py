"""``chrysalis image sign`` and ``verify`` as a person types them: by key, by sigstore, by both, and every refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from appliance.cli.main import build

pytest.importorskip("sigstore", reason="the extra 'sigstore' is not installed")

from sigstore_world import IDENTITY, ISSUER, SigstoreWorld

import appliance.cli.image_sign as command

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

import disks
from host_support import make

if TYPE_CHECKING:
    from click.testing import Result


def chrysalis(*words: object) -> Result:
    return CliRunner().invoke(build("image"), ["image", *map(str, words)])


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture
def world(tmp_path: Path) -> SigstoreWorld:
    made = SigstoreWorld()
    (tmp_path / "root.json").write_bytes(made.trusted_root())
    return made


@pytest.fixture
def signed(tmp_path: Path, world: SigstoreWorld, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release that a key and a person signed; what the network would make, the synthetic world makes."""
    directory = disks.write_release(tmp_path / "release").directory
    monkeypatch.setattr(command, "sign_bundle", lambda data: json.dumps(world.bundle(data)).encode())
    answer(chrysalis("keygen", tmp_path / "release.key", "--json"))
    made = answer(chrysalis("sign", "--image", directory, "--key", tmp_path / "release.key", "--sigstore", "--json"))
    assert len(made["signed_by"]) == 1
    assert (directory / "manifest.json.sigstore.json").is_file()
    return directory


def test_by_both_by_either_and_by_nobody(signed: Path, tmp_path: Path) -> None:
    key = ("--key", tmp_path / "release.key.pub")
    person = ("--identity", IDENTITY, "--issuer", ISSUER, "--trusted-root", tmp_path / "root.json")
    both = answer(chrysalis("verify", signed, *key, *person, "--json"))
    assert (len(both["signed_by"]), both["sigstore"]) == (1, f"{IDENTITY} ({ISSUER})")
    assert both["expires"] > both["not_before"] > 0
    assert answer(chrysalis("verify", signed, *person, "--json"))["signed_by"] == []
    assert answer(chrysalis("verify", signed, *key, "--json"))["sigstore"] is None
    assert answer(chrysalis("verify", signed, "--unsigned", "--json"))["signed_by"] == []
    assert "which key has to have signed" in str(chrysalis("verify", signed).exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--identity", "other@example.org", "--issuer", ISSUER), "SANs do not match"),
        (("--identity", IDENTITY, "--issuer", "https://other.example.org"), "OIDCIssuer does not match"),
        (("--identity", IDENTITY), "--identity and --issuer belong together"),
        (("--issuer", ISSUER), "--identity and --issuer belong together"),
    ],
)
def test_another_person_is_refused(signed: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    root = ("--trusted-root", tmp_path / "root.json")
    answer(chrysalis("verify", signed, "--identity", IDENTITY, "--issuer", ISSUER, *root, "--json"))  # control
    assert said in str(chrysalis("verify", signed, *words, *root).exception)
    # A key that signed does not stand in for the person who was asked for.
    both = chrysalis("verify", signed, "--key", tmp_path / "release.key.pub", *words, *root)
    assert said in str(both.exception)


def test_the_bundle_of_another_manifest_is_refused(signed: Path, tmp_path: Path, world: SigstoreWorld) -> None:
    person = ("--identity", IDENTITY, "--issuer", ISSUER, "--trusted-root", tmp_path / "root.json")
    (signed / "manifest.json.sigstore.json").write_text(json.dumps(world.bundle(make(release=8).encode())))
    assert "digest mismatch" in str(chrysalis("verify", signed, *person).exception)
    (signed / "manifest.json.sigstore.json").unlink()
    assert "manifest.json.sigstore.json: No such file" in str(chrysalis("verify", signed, *person).exception)


def test_nobody_signs_by_chance(tmp_path: Path) -> None:
    directory = disks.write_release(tmp_path / "release").directory
    assert "who signs?" in str(chrysalis("sign", "--image", directory).exception)
    assert not (directory / "manifest.json.sig").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--release", "3"), "release 3 without its dates"),
        (("--release", "3", "--not-before", "2026-12-01"), "release 3 without its dates"),
        (("--expires", "2026-12-01"), "are a release's"),
        (("--release", "3", "--not-before", "soon", "--expires", "2026-12-01"), "'soon' is no time"),
    ],
)
def test_a_build_is_refused_before_it_begins(words: tuple[str, ...], said: str) -> None:
    assert said in str(chrysalis("build", "--offline", *words).exception)


def test_publishing_takes_the_checkout_s_keys_or_those_that_are_named(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(command, "SOURCE", checkout)
    assert "trusted keys: none given" in str(chrysalis("publish", "--image", signed).exception)
    keys = checkout / "measurements/reference/keys"
    keys.mkdir(parents=True)
    (keys / "release.pub").write_bytes((tmp_path / "release.key.pub").read_bytes())
    place = Path(answer(chrysalis("publish", "--image", signed, "--json"))["published"])
    assert place == checkout / "measurements/reference/engine-cpu/7"
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "manifest.json.sig"]
    again = chrysalis("publish", "--image", signed, "--key", tmp_path / "release.key.pub")
    assert "numbers only rise" in str(again.exception)


def test_a_person_s_signature_is_published_where_it_was_judged(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = ("publish", "--image", signed, "--key", tmp_path / "release.key.pub")
    person = ("--issuer", ISSUER, "--trusted-root", tmp_path / "root.json", "--identity")
    monkeypatch.setattr(command, "SOURCE", tmp_path / "other")
    assert "SANs do not match" in str(chrysalis(*publish, *person, "other@example.org").exception)
    assert not (tmp_path / "other").exists()
    made = answer(chrysalis(*publish, "--json"))
    assert made["left_out"] == ["manifest.json.sigstore.json"]
    assert not (Path(made["published"]) / "manifest.json.sigstore.json").exists()
    monkeypatch.setattr(command, "SOURCE", tmp_path / "in words")
    assert "left out: manifest.json.sigstore.json, which nobody judged" in chrysalis(*publish).output
    monkeypatch.setattr(command, "SOURCE", tmp_path / "judged")
    made = answer(chrysalis(*publish, *person, IDENTITY, "--json"))
    assert made["left_out"] == []
    assert (Path(made["published"]) / "manifest.json.sigstore.json").is_file()


def test_whether_it_counts_now_is_said(tmp_path: Path) -> None:
    for changes, said in (
        ({"not_before": 1, "expires": 2}, "expired at 1970-01-01T00:00:02Z"),
        ({"not_before": 253402200000, "expires": 253402300000}, "counts from 9999-12-30"),
        ({"release": 0, "not_before": 0, "expires": 0}, "nobody released it"),
    ):
        directory = disks.write_release(tmp_path / said[:4], **changes).directory
        assert said in " ".join(chrysalis("verify", directory, "--unsigned").output.split())
