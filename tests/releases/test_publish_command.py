"""``chrysalis registry publish`` and ``withdraw``: what is refused before a chain is asked."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from releases_support import DAY, PUBLIC, STRANGER, write
from releases_support import manifest as dated
from typer.testing import CliRunner

from appliance.cli.registry import app
from appliance.cli.releases import measured_configurations, read_release
from appliance.config import MeasuredConfig
from appliance.errors import ConfigError
from attestation.policies.reference_images import UNBOUND
from measurements.errors import ChrysalisError
from measurements.manifest import ManifestDateError, Registers

if TYPE_CHECKING:
    from pathlib import Path

    from measurements.manifest import Manifest

NETWORK = f"""
[network]
global_id = -777
root_contract = "0:{"11" * 32}"
zerostate = {{ seqno = 0, root_hash = "{"22" * 32}", file_hash = "{"33" * 32}" }}
key_block = {{ seqno = 0, root_hash = "{"22" * 32}", file_hash = "{"33" * 32}" }}
[trust]
policy = "tdx"
"""
MODEL = "Org/Model@main:" + "44" * 32


def manifest(release: int, **changes: Any) -> Manifest:
    """A release that is current now: the command looks at the real clock."""
    now = int(time.time())
    return dated(release, since=now - 30 * DAY, until=now + 300 * DAY, **changes)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "measured.toml"
    path.write_text(f'model = "{MODEL}"\n' + NETWORK)
    return path


def test_a_release_with_its_configurations(tmp_path: Path, measured: Path) -> None:
    path = write(tmp_path / "manifest.json", manifest(7))
    found = read_release(path, (PUBLIC,), 1, measured_configurations([measured], unbound=True), gateways=False)
    assert len(found.images.hashes) == 2
    assert found.listing.models == {MODEL}
    assert found.listing.images == set(found.images.hashes)
    # The same by the release's directory.
    again = read_release(tmp_path, (PUBLIC,), 1, measured_configurations([measured], unbound=True), gateways=False)
    assert again == found


def test_a_programs_file_names_the_same_configuration(tmp_path: Path, measured: Path) -> None:
    nested = "\n".join(
        line.replace("[", "[measured.", 1) if line.startswith("[") else line for line in NETWORK.splitlines()
    )
    other = '[host]\nstate_dir = "state"\nliteservers = [{ address = "127.0.0.1:1", key = "AAAA" }]\n'
    owner = f'[owner]\naddress = "0:{"55" * 32}"\n'
    worker = tmp_path / "worker.toml"
    worker.write_text(f'[measured]\nmodel = "{MODEL}"\n{nested}\n[measured.engine]\n{owner}{other}')
    gateway = tmp_path / "gateway.toml"
    keys = 'listen_workers = "127.0.0.1:1"\nlisten_clients = "127.0.0.1:2"\nkey_file = "k"\nwallet_key_file = "w"\n'
    gateway.write_text(f"{nested}\n{owner}{other}{keys}")
    first, second = measured_configurations([worker, gateway], unbound=False)
    assert (first.model, second.model) == (MODEL, "")
    alone = MeasuredConfig.model_validate({"network": _network(), "trust": {"policy": "tdx"}})
    assert second.configuration.digest == alone.digest()
    assert first.configuration.digest != measured_configurations([measured], unbound=False)[0].configuration.digest


def _network() -> dict[str, object]:
    block = {"seqno": 0, "root_hash": "22" * 32, "file_hash": "33" * 32}
    return {"global_id": -777, "root_contract": "0:" + "11" * 32, "zerostate": block, "key_block": block}


def test_a_configuration_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no measured configuration was named"):
        measured_configurations([], unbound=False)
    (only,) = measured_configurations([], unbound=True)
    assert only.configuration == UNBOUND
    (tmp_path / "other.toml").write_text("model = 7\n")
    with pytest.raises(ConfigError, match=r"other\.toml:1: model"):
        measured_configurations([tmp_path / "other.toml"], unbound=False)
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        measured_configurations([tmp_path / "absent.toml"], unbound=False)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (manifest(7, debug=True), "debug build"),
        (manifest(0), "release number 0"),
        (manifest(7, source_modified=True), "no commit holds"),
        (manifest(7, registers=()), "nothing of this release can be listed: it states no registers"),
        (
            manifest(7, registers=(Registers(platform="tpm", boot="disk", values={"pcr0": "ab" * 32}),)),
            "leave open which image runs",
        ),
    ],
    ids=["debug", "unreleased", "modified", "no registers", "open"],
)
def test_what_is_no_release_is_refused(tmp_path: Path, measured: Path, made: Manifest, says: str) -> None:
    path = write(tmp_path / "manifest.json", made)
    with pytest.raises(ChrysalisError, match=says):
        read_release(path, (PUBLIC,), 1, measured_configurations([measured], unbound=False), gateways=False)


def test_an_expired_release_is_refused_and_a_coming_one_is_not(tmp_path: Path, measured: Path) -> None:
    configurations = measured_configurations([measured], unbound=False)
    path = write(tmp_path / "manifest.json", manifest(7))
    found = read_release(path, (PUBLIC,), 1, configurations, gateways=False)
    with pytest.raises(ManifestDateError, match="expired at"):
        found.require_publishable(found.manifest.expires)
    found.require_publishable(found.manifest.expires - 1)
    found.require_publishable(found.manifest.not_before - 100 * DAY)


@pytest.mark.parametrize("command", ["publish", "withdraw"])
@pytest.mark.parametrize("case", ["stranger", "unsigned", "altered", "too few", "threshold", "no key"])
def test_what_is_not_signed_never_reaches_the_chain(tmp_path: Path, measured: Path, command: str, case: str) -> None:
    path = write(tmp_path / "manifest.json", manifest(7))
    keys, more, says = [PUBLIC.hex()], [], ""
    match case:
        case "stranger":
            write(path, manifest(7), STRANGER)
            says = "trusted keys"
        case "unsigned":
            path.with_name("manifest.json.sig").unlink()
            says = "manifest.json.sig: No such file"
        case "altered":
            path.write_bytes(path.read_bytes().replace(b'"release":7', b'"release":8'))
            says = "does not cover these bytes"
        case "too few":
            keys.append(STRANGER.public_key().public_bytes_raw().hex())
            more, says = ["--threshold", "2"], "signed by 1 of the trusted keys, expected 2"
        case "threshold":
            more, says = ["--threshold", "2"], "--threshold 2 with 1 release keys"
        case "no key":
            keys, says = ["nonsense"], "is no Ed25519 public key"
    words = [command, str(path), "--network", str(tmp_path / "absent.json"), "--measured", str(measured)]
    signed = [word for key in keys for word in ("--signed-by", key)]
    done = CliRunner().invoke(app, [*words, *signed, *more, "--json"])
    assert isinstance(done.exception, ChrysalisError), done.output
    assert says in str(done.exception)
    assert "absent.json" not in str(done.exception)
    # Control: signed as it has to be, the next thing that is wrong is the chain.
    write(path, manifest(7))
    good = CliRunner().invoke(app, [*words, "--signed-by", PUBLIC.hex(), "--json"])
    assert "absent.json" in str(good.exception)
    assert json.loads(path.read_bytes())["release"] == 7


def test_options_that_belong_together_are_named(tmp_path: Path, measured: Path) -> None:
    path = write(tmp_path / "manifest.json", manifest(7))
    words = ["publish", str(path), "--network", "absent.json", "--measured", str(measured)]
    done = CliRunner().invoke(app, [*words, "--signed-by", PUBLIC.hex(), "--at-once"])
    assert "belong to --retire" in str(done.exception)
    done = CliRunner().invoke(app, [*words, "--signed-by", PUBLIC.hex(), "--retire", str(path)])
    assert "numbers only rise" in str(done.exception)
