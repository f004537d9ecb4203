"""Manifests in ``measurements/reference``: what may be put there, and that what is there holds."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.image.published import KEYS, REFERENCE, publish, published, release_keys
from appliance.image.release import ReleaseError, open_release, sign
from appliance.image.sigstore_bundle import Signer
from measurements.manifest import ManifestError
from measurements.signature import ManifestSignatureError, sign_manifest

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

import disks

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).resolve().parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def silent(_step: str, _done: int, _total: int) -> None:
    pass


def signed(directory: Path, **changes: object) -> Path:
    found = disks.write_release(directory, **changes).directory
    sign(found, KEY, silent)
    return found


def test_what_is_published_here_holds() -> None:
    """Every manifest of the repository: signed by a key that lies with it, in its place, numbers rising."""
    folder = SOURCE / REFERENCE
    profiles = [place.name for place in folder.iterdir() if place.is_dir() and place.name != KEYS]
    keys = release_keys(SOURCE)
    assert "engine-cpu" in profiles
    for profile in profiles:
        found = published(SOURCE, profile)
        assert found
        assert {item.directory for item in found} == set((folder / profile).iterdir())
        for item in found:
            assert open_release(item.directory, keys).manifest == item.manifest
        for older, newer in pairwise(found):
            newer.manifest.require_newer_than(older.manifest)


def test_published_in_order_and_read_again(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    assert published(checkout, "engine-cpu") == ()
    for number in (2, 10):
        release = open_release(signed(tmp_path / str(number), release=number), [PUBLIC])
        place = publish(release, checkout)
        assert place == checkout / REFERENCE / "engine-cpu" / str(number)
        assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "manifest.json.sig"]
    assert [item.manifest.release for item in published(checkout, "engine-cpu")] == [2, 10]
    (checkout / REFERENCE / "engine-cpu" / "notes").mkdir()
    assert len(published(checkout, "engine-cpu")) == 2


@pytest.mark.parametrize("number", [9, 10])
def test_numbers_only_rise(tmp_path: Path, number: int) -> None:
    checkout = tmp_path / "checkout"
    publish(open_release(signed(tmp_path / "ten", release=10), [PUBLIC]), checkout)
    with pytest.raises(ManifestError, match="numbers only rise"):
        publish(open_release(signed(tmp_path / "next", release=number), [PUBLIC]), checkout)
    publish(open_release(signed(tmp_path / "eleven", release=11), [PUBLIC]), checkout)  # control


def test_nothing_unsigned_is_published(tmp_path: Path) -> None:
    directory = disks.write_release(tmp_path / "release").directory
    with pytest.raises(ReleaseError, match="release key's signature"):
        publish(open_release(directory, None), tmp_path / "checkout")
    sign(directory, KEY, silent)
    with pytest.raises(ManifestSignatureError):
        open_release(directory, release_keys(tmp_path / "checkout"))
    publish(open_release(directory, [PUBLIC]), tmp_path / "checkout")  # control


def without_signature(release: Path, _checkout: Path) -> None:
    (release / "manifest.json.sig").unlink()


def with_another_signature(release: Path, _checkout: Path) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    (release / "manifest.json.sig").write_bytes(sign_manifest((release / "manifest.json").read_bytes(), other))


def with_a_file_in_the_way(_release: Path, checkout: Path) -> None:
    (checkout / REFERENCE / "engine-cpu").write_text("")


@pytest.mark.parametrize(
    ("harm", "kind", "said"),
    [
        (without_signature, ReleaseError, "manifest.json.sig: No such file or directory .nothing was published"),
        (with_another_signature, ManifestSignatureError, "trusted keys"),
        (with_a_file_in_the_way, ReleaseError, "engine-cpu: File exists .nothing was published"),
    ],
)
def test_no_half_of_a_release_is_left(
    tmp_path: Path, harm: Callable[[Path, Path], None], kind: type[Exception], said: str
) -> None:
    checkout, directory = tmp_path / "checkout", signed(tmp_path / "release")
    (checkout / REFERENCE).mkdir(parents=True)
    release = open_release(directory, [PUBLIC])
    harm(directory, checkout)
    with pytest.raises(kind, match=said):
        publish(release, checkout)
    profile = checkout / REFERENCE / "engine-cpu"
    assert not profile.is_dir() or list(profile.iterdir()) == []
    if profile.is_file():
        profile.unlink()
    sign(directory, KEY, silent)
    place = publish(open_release(directory, [PUBLIC]), checkout)  # control: its place was not taken
    assert list(profile.iterdir()) == [place]
    assert place.stat().st_mode == profile.stat().st_mode


def test_a_person_s_signature_that_nobody_judged_stays_behind(tmp_path: Path) -> None:
    directory = signed(tmp_path / "release")
    (directory / "manifest.json.sigstore.json").write_text("anything")
    release = open_release(directory, [PUBLIC])
    place = publish(release, tmp_path / "checkout")
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "manifest.json.sig"]
    judged = replace(release, person=Signer("a@example.org", "https://issuer.example"))
    place = publish(judged, tmp_path / "other checkout")  # control
    assert (place / "manifest.json.sigstore.json").read_text() == "anything"


def test_a_manifest_in_another_s_place_is_told(tmp_path: Path) -> None:
    place = publish(open_release(signed(tmp_path / "r", release=7), [PUBLIC]), tmp_path)
    place.rename(place.with_name("8"))
    with pytest.raises(ReleaseError, match="holds release 7 of engine-cpu"):
        published(tmp_path, "engine-cpu")
    (place.with_name("8") / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match=r"manifest\.json: No such file"):
        published(tmp_path, "engine-cpu")


def test_keys_lie_beside_them(tmp_path: Path) -> None:
    assert release_keys(tmp_path) == ()
    folder = tmp_path / REFERENCE / KEYS
    folder.mkdir(parents=True)
    (folder / "one.pub").write_text(f"ed25519 {PUBLIC.hex()}\n")
    assert release_keys(tmp_path) == (PUBLIC,)
    (folder / "two.pub").write_text("secret\n")
    with pytest.raises(ReleaseError, match="has a line that is not"):
        release_keys(tmp_path)
