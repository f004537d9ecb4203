"""A release in a directory: every file is the manifest's, or the first that is not is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import disks
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_support import make

from appliance.image.release import ReleaseError, open_release, read_keys, sign, verify_files
from appliance.image.sizes import SizeError, parse_size, shown_size
from measurements.manifest import ManifestError
from measurements.signature import ManifestSignatureError

if TYPE_CHECKING:
    from pathlib import Path

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def silent(_step: str, _done: int, _total: int) -> None:
    pass


def test_signed_and_opened(tmp_path: Path) -> None:
    directory = disks.write_release(tmp_path).directory
    sign(directory, KEY, silent)
    release = open_release(directory, [PUBLIC])
    assert release.signers == (PUBLIC,)
    steps: list[tuple[str, int, int]] = []
    verify_files(release, lambda *step: steps.append(step))
    assert steps[-1] == ("verifying chrysalis.raw", 5 << 20, 5 << 20)
    with pytest.raises(ManifestSignatureError, match="trusted keys"):
        open_release(directory, [bytes(32)])


@pytest.mark.parametrize("spoil", ["altered", "shorter", "missing"])
def test_a_file_that_differs_is_named_and_not_signed(tmp_path: Path, spoil: str) -> None:
    directory = disks.write_release(tmp_path).directory
    disk = directory / "chrysalis.raw"
    if spoil == "missing":
        disk.unlink()
    else:
        disk.write_bytes(disk.read_bytes()[:-1] + (b"\x01" if spoil == "altered" else b""))
    with pytest.raises(ReleaseError, match=r"chrysalis\.raw"):
        sign(directory, KEY, silent)
    assert not (directory / "manifest.json.sig").exists()


def test_ones_own_build_is_opened_and_not_signed(tmp_path: Path) -> None:
    directory = disks.write_release(tmp_path, release=0).directory
    assert open_release(directory, None).manifest.release == 0
    with pytest.raises(ManifestError, match="release number 0"):
        sign(directory, KEY, silent)
    sign(directory, KEY, silent, development=True)
    with pytest.raises(ManifestError, match="release number 0"):
        open_release(directory, [PUBLIC])


def test_numbers_of_releases_rise(tmp_path: Path) -> None:
    directory = disks.write_release(tmp_path / "new").directory
    older, same = tmp_path / "older.json", tmp_path / "same.json"
    older.write_bytes(make(release=6).encode())
    same.write_bytes(make(release=7).encode())
    with pytest.raises(ManifestError, match="numbers only rise"):
        sign(directory, KEY, silent, previous=same)
    sign(directory, KEY, silent, previous=older)  # control


def test_what_is_missing_or_too_large_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"manifest\.json: No such file"):
        open_release(tmp_path, None)
    directory = disks.write_release(tmp_path / "r").directory
    with pytest.raises(ReleaseError, match=r"manifest\.json\.sig: No such file"):
        open_release(directory, [PUBLIC])
    (directory / "manifest.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(ReleaseError, match="more than"):
        open_release(directory, None)


def test_keys_come_as_text_or_as_files_that_say_what_they_hold(tmp_path: Path) -> None:
    good, secret = tmp_path / "release.pub", tmp_path / "release.key"
    good.write_text(f"ed25519 {PUBLIC.hex()}\n")
    secret.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    assert read_keys([PUBLIC.hex(), str(good)]) == (PUBLIC, PUBLIC)
    with pytest.raises(ReleaseError, match="not 'ed25519 <public key>'") as caught:
        read_keys([str(secret)])
    assert "AAECAw" not in str(caught.value)
    with pytest.raises(ManifestSignatureError):
        read_keys(["nonsense"])


def test_sizes_are_read_and_shown() -> None:
    assert [parse_size(text) for text in ("0", "512", "4K", "1m", "2GiB", "3tb", " 7G ")] == [
        0, 512, 4096, 1 << 20, 2 << 30, 3 << 40, 7 << 30,
    ]  # fmt: skip
    for wrong in ("", "G", "-1", "1.5G", "1P", "1 G", "9" * 20):
        with pytest.raises(SizeError):
            parse_size(wrong)
    assert [shown_size(size) for size in (5, 1536, 5 << 30)] == ["5 bytes", "1.5 KiB", "5.0 GiB"]
