"""Programs of a build, the namespaces they run in, another clock for them, the manifest of what they made."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from appliance.image import artefacts
from appliance.image.clock import FAKETIME, LOADER, clock_mounts
from appliance.image.commands import Commands
from appliance.image.describe import lock_files, root_hash, source_state, source_version
from appliance.image.errors import BuildError
from appliance.image.inputs import packages
from appliance.image.profiles import read_recipe
from appliance.image.sbom import locked_parts
from appliance.image.tools_tree import SANDBOX, inside

SOURCE = Path(__file__).resolve().parents[2]


def test_a_command_is_told_run_and_logged_in_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "yes")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    before = os.umask(0o077)
    told: list[str] = []
    try:
        Commands(told.append, tmp_path / "log").run(["/bin/sh", "-c", "umask; env | sort; echo 'two words'"])
    finally:
        os.umask(before)
    log = (tmp_path / "log").read_text()
    assert told == ["/bin/sh -c 'umask; env | sort; echo '\"'\"'two words'\"'\"''"]
    assert log.startswith(f"+ {told[0]}\n0022\n")
    assert "SECRET" not in log
    assert "TZ=UTC\n" in log


def test_a_command_that_fails_shows_its_last_words(tmp_path: Path) -> None:
    commands = Commands(lambda _: None, tmp_path / "log")
    with pytest.raises(BuildError, match=r"sh ended with status 3:\n(.*\n)*line 99") as caught:
        commands.run(["/bin/sh", "-c", "for i in $(seq 99); do echo line $i; done; exit 3"])
    assert "line 50\n" not in caught.value.message
    assert str(tmp_path / "log") in caught.value.hint
    with pytest.raises(BuildError, match="No such file"):
        commands.run([tmp_path / "absent"])


def test_inside_has_no_network_and_writes_only_where_it_may() -> None:
    words = inside(Path("/tree"), mounts=[(Path("/w"), "/build")], read_only=[(Path("/r"), "/repository")], chdir="/b")
    assert "--unshare-net" in words
    assert str(Path("/tree") / SANDBOX) in words
    assert words[-3:] == ["--chdir", "/b", "--"]
    places = {words[at + 2]: word for at, word in enumerate(words) if word in {"--bind", "--ro-bind"}}
    assert places == {"/": "--bind", "/sys": "--ro-bind", "/repository": "--ro-bind", "/build": "--bind"}


EXPORTED = (b"getenv", b"stat", b"fstat", b"time")


def symbols(library: bytes) -> list[bytes]:
    """Names of the symbols of a library made by :func:`clock_tree`, in order."""
    table = 64 + 56 + 48
    names = table + 24 * len(EXPORTED)
    found = []
    for number in range(len(EXPORTED)):
        begin = names + struct.unpack_from("<I", library, table + 24 * number)[0]
        found.append(library[begin : library.index(b"\0", begin)])
    return found


def clock_tree(root: Path, *, loader: bytes = b"\0/etc/ld.so.preload\0", twice: bool = False) -> Path:
    """A tree with a loader and a libfaketime that have just what is looked at: a dynamic section, symbols, names."""
    table = 64 + 56 + 48
    text, offsets = b"\0", []
    for name in EXPORTED:
        offsets.append(len(text))
        text += name + b"\0"
    head = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQIHHH", 64, 0, 0, 64, 56, 1)
    body = struct.pack("<IIQQQQQQ", 2, 4, 120, 120, 0, 48, 48, 8)
    body += struct.pack("<QQQQQQ", 6, table, 5, table + 24 * len(EXPORTED), 0, 0)
    body += b"".join(struct.pack("<I20x", at) for at in offsets) + text
    body += b"\0/etc/faketimerc\0y\0FAKETIME_DISABLE_SHM\0" * (2 if twice else 1)
    for name, content in ((LOADER, loader), (FAKETIME, head.ljust(64, b"\0") + body)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_another_clock_is_four_files_over_the_tree(tmp_path: Path) -> None:
    tree = clock_tree(tmp_path / "t")
    mounts = {place: path for path, place in clock_mounts(tree, tmp_path / "s", 500)}
    assert mounts["/usr/faketimerc"].read_text() == "+500d\n"
    assert mounts["/usr/ld.so.preload"].read_text() == f"/{FAKETIME}\n"
    assert mounts[f"/{LOADER}"].read_bytes() == b"\0/usr/ld.so.preload\0"
    changed = mounts[f"/{FAKETIME}"].read_bytes()
    assert len(changed) == (tree / FAKETIME).stat().st_size
    assert b"/usr/faketimerc\0" in changed
    assert symbols((tree / FAKETIME).read_bytes()) == list(EXPORTED)
    assert symbols(changed) == [b"getenv", b"getenv", b"getenv", b"time"]  # the times of files are not touched


def test_a_loader_that_is_another_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"names /etc/ld\.so\.preload 0 times"):
        clock_mounts(clock_tree(tmp_path / "t", loader=b"\0/etc/other\0"), tmp_path / "s", 1)
    with pytest.raises(BuildError, match="2 times"):
        clock_mounts(clock_tree(tmp_path / "u", twice=True), tmp_path / "s", 1)
    with pytest.raises(BuildError, match="No such file"):
        clock_mounts(tmp_path / "absent", tmp_path / "s", 1)
    with pytest.raises(BuildError, match="-1 days"):
        clock_mounts(tmp_path / "t", tmp_path / "s", -1)


def test_taking_over_what_mkosi_made(tmp_path: Path) -> None:
    built, output = tmp_path / "built", tmp_path / "output"
    built.mkdir()
    output.mkdir()
    for name in artefacts.BUILT:
        (built / name).write_bytes(name.encode())
    artefacts.take_over(built, output)
    files = artefacts.describe_all(output, [*artefacts.BUILT, "absent"])
    assert [file.name for file in files] == sorted(artefacts.BUILT)
    assert files[0].size == len(files[0].name)
    with pytest.raises(BuildError, match=f"wrote no {artefacts.BUILT[0]}"):
        artefacts.take_over(built, output)


def test_the_root_hash_is_the_command_lines() -> None:
    assert root_hash(f"quiet roothash={'a' * 64} x") == "a" * 64
    with pytest.raises(BuildError, match="names no root"):
        root_hash("quiet")


def test_locks_of_an_image_are_files_that_are_there() -> None:
    for profile in ("base", "engine-cpu", "engine-gpu"):
        names = lock_files(read_recipe(SOURCE, profile))
        assert {"tools.json", "firmware.json", "firmware-next.json", "base.json", "wheels-guest.json"} <= set(names)
        assert all((SOURCE / "image/lock" / name).is_file() for name in names), names


def test_the_source_is_named_by_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert source_state(tmp_path) == (None, True)
    run = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*run, *words], check=True)
    commit, modified = source_state(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    assert not modified
    (tmp_path / "new").write_text("")
    assert source_state(tmp_path) == (commit, True)


def test_the_version_is_the_distributions() -> None:
    assert source_version(SOURCE).count(".") == 2


@pytest.mark.parametrize("profile", ["engine-cpu", "engine-gpu"])
def test_what_a_release_carries_is_fetched_and_billed(profile: str) -> None:
    recipe = read_recipe(SOURCE, profile)
    assert {item.package for item in packages(recipe)} >= {"ovmf", "ovmf-amdsev", "mkosi"}
    uses = {part.lock: part.use for part in locked_parts(recipe)}
    assert {uses[name] for name in artefacts.FIRMWARE_LOCKS} == {"firmware"}


def _package(directory: Path, name: str, *files: str) -> tuple[str, Path]:
    """A package of the distribution's form that holds these files, each with its own name in it."""
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: a test\n"
    (tree / "DEBIAN/control").write_text(control)
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(file)
    made = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(made)], check=True, capture_output=True)
    return name, made


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_the_firmware_of_every_kind_of_machine_is_taken(tmp_path: Path) -> None:
    ovmf = ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd", "usr/share/ovmf/OVMF.fd")
    debs = [
        _package(tmp_path, "ovmf", *ovmf, "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
        _package(tmp_path, "ovmf-amdsev", "usr/share/ovmf/OVMF.amdsev.fd"),
    ]
    output, commands = tmp_path / "output", Commands(lambda _: None, tmp_path / "log")
    output.mkdir()
    artefacts.take_firmware(debs, output, tmp_path / "scratch", commands)
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "OVMF_CODE.fd": ovmf[0],
        "OVMF_VARS.fd": ovmf[1],
        "OVMF.fd": ovmf[2],
        "OVMF.amdsev.fd": "usr/share/ovmf/OVMF.amdsev.fd",
    }
    with pytest.raises(BuildError, match="the firmware locks name ovmf, expected ovmf, ovmf-amdsev"):
        artefacts.take_firmware(debs[:1], output, tmp_path / "scratch", commands)
    empty = [debs[0], _package(tmp_path / "e", "ovmf-amdsev", "usr/share/other")]
    with pytest.raises(BuildError, match=r"ovmf-amdsev .*has no usr/share/ovmf/OVMF\.amdsev\.fd"):
        artefacts.take_firmware(empty, output, tmp_path / "scratch2", commands)
