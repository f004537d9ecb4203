"""The manifest of a build: its recipe and dates, and the registers of every machine that its files run on."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image import artefacts
from appliance.image.describe import make_manifest
from appliance.image.errors import BuildError
from appliance.image.issue import Issue, make_issue, parse_time
from appliance.image.predicted import ReleaseFiles, predicted_registers
from appliance.image.profiles import read_recipe
from measurements import shape_library, tpm
from measurements.errors import ArtefactError, MeasurementError
from measurements.manifest import Manifest, date, parse_manifest

sys.path += [str(Path(__file__).resolve().parents[1] / room) for room in ("measurements", "host")]

import disks
import measure_support as images

SOURCE = Path(__file__).resolve().parents[2]
ISSUE = Issue(3, 1_795_000_000, 1_800_000_000)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The files of a release as far as machines measure them, of an image that boots nothing; no firmware."""
    (tmp_path / artefacts.UKI).write_bytes(images.uki())
    (tmp_path / artefacts.DISK).write_bytes(disks.disk())
    return tmp_path


def sets(directory: Path, profile: str = "engine-cpu") -> tuple[dict[tuple[str, str, str], dict[str, str]], list[str]]:
    told: list[str] = []
    found = predicted_registers(directory, profile, told.append)
    keys = [(entry.platform, entry.boot, entry.shape) for entry in found]
    assert keys == sorted(set(keys))
    assert all(entry.decides_image for entry in found)
    return dict(zip(keys, (entry.values for entry in found), strict=True)), told


def test_every_shape_has_a_set_or_a_reason(release: Path) -> None:
    found, told = sets(release)
    small = [name for name in shape_library.names() if not shape_library.shape(name).gpus]
    assert small
    for name in small:
        listed = [key for key in found if key[2] == name]
        said = [text for text in told if text.startswith(f"no registers for shape {name}: ")]
        assert len(listed) + len(said) == 1, name
    assert len(told) == len(set(told))
    assert sum(text.endswith("the release has no firmware for it") for text in told) == len(told)


def test_what_any_machine_s_tpm_holds_is_the_image_s(release: Path) -> None:
    found, _ = sets(release)
    for boot in ("direct", "disk"):
        predicted = tpm.predict(images.uki(), boot=boot).registers
        assert found["tpm", boot, "any"] == {f"pcr{number}": value.hex() for number, value in predicted.items()}


def test_machines_with_gpus_run_the_engine_for_them_alone(release: Path) -> None:
    with_gpus = {name for name in shape_library.names() if shape_library.shape(name).gpus}
    assert with_gpus

    def spoken_of(profile: str) -> set[str]:
        found, told = sets(release, profile)
        return {key[2] for key in found} | {text.removeprefix("no registers for shape ").split(":")[0] for text in told}

    assert not spoken_of("engine-cpu") & with_gpus
    assert spoken_of("engine-gpu") >= with_gpus
    clouds = {key[0] for key in sets(release, "engine-gpu")[0]} - {"tpm"}
    assert clouds == {"azure", "gcp"}, "a cloud's firmware is in nobody's release, and its sets need none"


def test_firmware_of_another_build_is_another_machine_s(release: Path) -> None:
    """The shapes state which firmware they are of; a release with another one predicts nothing for them."""
    for name in (artefacts.FIRMWARE, artefacts.FIRMWARE_SNP, artefacts.FIRMWARE_CODE):
        (release / name).write_bytes(b"other firmware")
    _, told = sets(release)
    seen = hashlib.sha256(b"other firmware").hexdigest()[:16]
    assert told
    assert all(text.endswith(f"the release's is {seen}…") for text in told)


def test_an_image_that_nobody_can_predict_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no image given"):
        predicted_registers(tmp_path, "engine-cpu", lambda _: None)
    (tmp_path / artefacts.UKI).write_bytes(images.uki(stub="300.1"))
    with pytest.raises(ArtefactError, match="systemd-stub 300"):
        predicted_registers(tmp_path, "engine-cpu", lambda _: None)


def describe(directory: Path, issue: Issue = ISSUE, **changes: bool) -> Manifest:
    recipe = read_recipe(SOURCE, "engine-cpu", **changes)
    files = artefacts.describe_all(directory, [path.name for path in directory.iterdir()])
    return make_manifest(
        recipe, directory, files, engine_version="5.0", epoch=1_750_000_000, issue=issue, say=lambda _: None
    )


def test_the_manifest_says_how_to_build_it_again(release: Path) -> None:
    manifest = describe(release)
    assert parse_manifest(manifest.encode()) == manifest
    assert manifest.encode() == describe(release).encode(), "the same files, the same manifest"
    assert manifest.recipe.profile == "engine-cpu"
    assert manifest.recipe.mkosi_version.startswith("25.3")
    assert manifest.recipe.tools_lock == manifest.locks["tools.json"]
    assert manifest.recipe.command == (
        "chrysalis image build --profile engine-cpu --release 3 "
        f"--not-before {date(ISSUE.not_before)} --expires {date(ISSUE.expires)}"
    )
    assert (manifest.release, manifest.not_before, manifest.expires) == (3, ISSUE.not_before, ISSUE.expires)
    words = manifest.recipe.command.split()
    asked = {words[at]: words[at + 1] for at in range(3, len(words), 2)}
    assert make_issue(int(asked["--release"]), asked["--not-before"], asked["--expires"]) == ISSUE


def test_a_number_and_dates_change_nothing_else(release: Path) -> None:
    named = describe(release).model_dump()
    nobody = describe(release, Issue()).model_dump()
    differing = {key for key in named if named[key] != nobody[key]}
    assert differing == {"release", "not_before", "expires", "recipe"}
    assert nobody["recipe"]["command"] == "chrysalis image build --profile engine-cpu"
    assert (nobody["release"], nobody["not_before"], nobody["expires"]) == (0, 0, 0)
    assert describe(release, Issue(), debug=True).recipe.command.endswith("--profile engine-cpu --debug")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((0, "2026-12-01", None), "are a release's"),
        ((0, None, "2026-12-01"), "are a release's"),
        ((4, None, None), "release 4 without its dates"),
        ((4, "2026-12-01", None), "release 4 without its dates"),
        ((4, "2026-12-01", "2026-12-01"), "a release from 2026-12-01T00:00:00Z to 2026-12-01T00:00:00Z"),
        ((4, "2026-12-02", "2026-12-01"), "a release from"),
        ((4, "2026-12-01", "2028-12-03"), "a release from"),
        ((4, "0", "1"), "a release from"),
        ((4, "yesterday", "2026-12-01"), "'yesterday' is no time"),
        ((4, "2026-13-01", "2026-12-01"), "is no time"),
        ((4, "2026-12-01T00:00:00+01:00", "2027-12-01"), "is no time"),
        ((4, "-5", "2026-12-01"), "is no time"),
        ((2**53, "2026-12-01", "2027-12-01"), "release number"),
    ],
)
def test_dates_that_make_no_release(words: tuple[int, str | None, str | None], said: str) -> None:
    assert make_issue(4, "2026-12-01", "2028-12-01") == Issue(4, 1796083200, 1859241600)  # control
    with pytest.raises(BuildError, match=said):
        make_issue(*words)


@given(st.integers(0, 253402300799))
def test_a_time_is_read_as_it_is_shown(seconds: int) -> None:
    assert parse_time(str(seconds)) == seconds

    assert parse_time(date(seconds)) == seconds


@given(st.text(max_size=24))
def test_any_text_is_a_time_or_a_named_error(text: str) -> None:
    try:
        found = parse_time(text)
    except BuildError:
        return
    assert 0 <= found <= 253402300799


def test_what_a_manifest_cannot_hold_is_not_built(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sets(release)[0]  # control
    monkeypatch.setattr("appliance.image.predicted.MAX_REGISTER_SETS", 1)
    with pytest.raises(MeasurementError, match="a manifest holds 1"):
        predicted_registers(release, "engine-cpu", lambda _: None)


def test_a_file_is_read_once_and_as_far_as_was_asked(release: Path) -> None:
    files = ReleaseFiles(release)
    assert files.content(artefacts.DISK, 512) == disks.disk()[:512]
    assert files.content(artefacts.DISK) == disks.disk()
    (release / artefacts.DISK).unlink()
    assert files.content(artefacts.DISK, 512) == disks.disk()[:512]
    assert files.content("absent") is None
