"""What mkosi builds from: the checkout's configuration and what a recipe adds, the same for any caller."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.image import staging
from appliance.image.errors import BuildError
from appliance.image.profiles import LOCKS, read_profile, read_recipe
from appliance.image.seal.rules import Rules, matcher

SOURCE = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[0o022, 0o077])
def staged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The debug image's configuration, staged under an umask."""
    before = os.umask(request.param)
    try:
        config = tmp_path / "config"
        recipe = read_recipe(SOURCE, "engine-cpu", debug=True)
        staging.stage(recipe, config, ["guest", "engine"], epoch=1767225600)
    finally:
        os.umask(before)
    return config


def test_modes_do_not_depend_on_the_caller(staged: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in [staged, *staged.rglob("*")] if not path.is_symlink()}
    assert modes == {0o644, 0o755}
    assert (staged / "mkosi.finalize").stat().st_mode & 0o111 == 0o111


def test_the_only_source_of_packages_is_the_local_repository(staged: Path) -> None:
    sources = list((staged / "mkosi.sandbox/etc/apt").rglob("*"))
    text = "".join(path.read_text() for path in sources if path.is_file())
    assert text == "Types: deb\nURIs: file:///build/repository/\nSuites: ./\nTrusted: yes\n"
    for path in (path for path in staged.rglob("*.conf") if path.is_file()):
        assert not re.search(r"https?://", path.read_text()), path


def test_the_seal_runs_from_what_was_staged_alone(staged: Path) -> None:
    command = [sys.executable, "-I", "-B", "-S", staged / "seal/program", "both"]
    done = subprocess.run(command, env={"BUILDROOT": "/"}, capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (2, "seal: ['both'] is no way to call this\n")


def test_packages_trees_and_rules_are_staged(staged: Path) -> None:
    settings = (staged / "mkosi.conf.d/90-staged.conf").read_text()
    assert "Packages=linux-image-cloud-amd64\n" in settings
    assert "Packages=strace\n" in settings
    assert settings.endswith("ExtraTrees=/build/trees/guest\nExtraTrees=/build/trees/engine\n")
    script = (staged / "mkosi.finalize").read_text()
    positions = [script.index(f"{name}.rules") for name in ("initrd", "root", "staged", "engine-cpu/seal", "debug")]
    assert positions == sorted(positions)
    assert "SOURCE_DATE_EPOCH=1767225600" in script
    assert not (staged / "lock").exists()
    assert not (staged / "packages").exists()


def test_the_kernel_and_the_stub_are_not_in_the_root(staged: Path) -> None:
    excluded = (staged / "mkosi.repart/10-root.conf.d/staged.conf").read_text()
    assert re.search(r"^ExcludeFiles=/usr/lib/modules/6\.\d+\.\d+\+deb13-cloud-amd64/vmlinuz$", excluded, re.MULTILINE)
    assert "ExcludeFiles=/usr/lib/systemd/boot\n" in excluded


def test_every_rules_file_is_well_formed() -> None:
    found = sorted([*SOURCE.glob("image/seal/*.rules"), *SOURCE.glob("image/mkosi.profiles/*/seal.rules")])
    assert len(found) >= 4
    for path in found:
        Rules().read(path.read_text(), path.name)


def test_the_release_keeps_no_shell_and_no_way_to_one() -> None:
    rules = Rules()
    for name in ("root", "initrd"):
        rules.read((SOURCE / f"image/seal/{name}.rules").read_text(), name)
    matches = matcher(rules.keep)
    for program in ("sh", "bash", "dash", "busybox", "perl", "dpkg", "apt-get", "sudo", "su", "login", "gdb", "nc"):
        assert not matches.fullmatch(f"/usr/bin/{program}"), program
    for program in ("agetty", "sulogin", "sshd", "chroot"):
        assert not matches.fullmatch(f"/usr/sbin/{program}"), program
    assert not matches.fullmatch("/usr/lib/systemd/systemd-sulogin-shell")
    debug = Rules()
    debug.read((SOURCE / "image/seal/debug.rules").read_text(), "debug")
    assert matcher(debug.keep).fullmatch("/usr/bin/bash")  # the control


def test_staged_rules_keep_our_files_and_make_links_again(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_text("")
    (tmp_path / "etc/link").symlink_to("/dev/null")
    text = staging.staged_rules([tmp_path, tmp_path / "absent"], ["guest", "engine", "driver"])
    rules = Rules()
    rules.read(text, "staged")
    assert rules.keep == ["/etc/file"]
    assert rules.bundle == ["/usr/lib/chrysalis/**", "/usr/lib/chrysalis-engine/**"]
    assert rules.link == [("/etc/link", "/dev/null")]
    assert rules.compile == ["/usr/lib/chrysalis", "/usr/lib/chrysalis-engine"]


def test_list_settings_are_read_as_mkosi_reads_them(tmp_path: Path) -> None:
    one, two = tmp_path / "1.conf", tmp_path / "2.conf"
    one.write_text("[Content]\n# Other=x\nKernelCommandLine=a=1\n    b\n\tc d\nOther=no\n  neither\n")
    two.write_text("[Content]\nKernelCommandLine=debug\n")
    assert staging.settings([one, two, tmp_path / "absent"], "KernelCommandLine") == ["a=1", "b", "c", "d", "debug"]


def test_the_debug_image_says_so_on_its_command_line() -> None:
    image = SOURCE / "image"
    release = staging.settings([image / "mkosi.conf"], "KernelCommandLine")
    debug = staging.settings([image / "mkosi.conf", image / "mkosi.profiles/debug/mkosi.conf"], "KernelCommandLine")
    assert "chrysalis.debug" not in release
    assert debug == [*release, "chrysalis.debug"]


@pytest.mark.parametrize("profile", sorted(LOCKS))
def test_every_profile_has_a_recipe(profile: str) -> None:
    recipe = read_recipe(SOURCE, profile)
    assert re.fullmatch(r"6\.\d+\.\d+\+deb13-cloud-amd64", recipe.kernel)
    assert {"tools", "firmware", "base"} <= set(recipe.lock_names)
    assert "linux-image-cloud-amd64" in recipe.packages
    described = json.loads(staging.image_file(recipe, engine_version="1", epoch=5, command_line="quiet"))
    assert described["profile"] == profile
    assert described["debug"] is False
    assert described["source_date_epoch"] == 5
    assert (described["engine"] is None) is (profile == "base")


def test_a_profile_that_is_none_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(BuildError) as caught:
        read_recipe(SOURCE, "engine-tpu")
    assert "engine-cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine = 1", "engine"),
        ("[engine]\nname = 'x'\n", "engine.wheels"),
        ("[[trees]]\nname = 'Up'\nproduce = 'appliance.image.x:y'\n", "trees.0.name"),
        ("[[trees]]\nname = 'x'\nproduce = 'os:system'\n", "trees.0.produce"),
        ("unknown = 1", "unknown"),
        ("[", "profile.toml"),
    ],
)
def test_a_malformed_profile_is_refused_by_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(BuildError, match=words):
        read_profile(path)
    assert read_profile(tmp_path / "absent.toml").engine is None
