"""A planted difference is found and named down to the file; equal builds have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from appliance.image import check as checking
from appliance.image.artefacts import DISK, INITRD, INITRD_FILES, KERNEL, ROOT, ROOT_FILES, describe_all
from appliance.image.check import VARIED, build_command, check_image
from appliance.image.compare import compare, explain, first_differing_byte, first_listed_difference

if TYPE_CHECKING:
    from pathlib import Path

LIST = "/etc\tdirectory 0755 0:0\n/etc/passwd\tfile 0644 0:0 10 aa\n/init\tlink usr/lib/systemd/systemd\n"


def release(directory: Path, changed: dict[str, bytes] | None = None) -> Path:
    directory.mkdir(parents=True)
    files = {
        DISK: b"disk" * 100,
        ROOT: b"root" * 100,
        INITRD: b"initrd",
        KERNEL: b"kernel",
        ROOT_FILES: LIST.encode(),
        INITRD_FILES: LIST.encode(),
        "manifest.json": b'{"profile":"base","release":0}',
    }
    for name, content in {**files, **(changed or {})}.items():
        (directory / name).write_bytes(content)
    return directory


def digests(directory: Path) -> dict[str, str]:
    return {file.name: file.sha256 for file in describe_all(directory, [path.name for path in directory.iterdir()])}


def told(first: Path, second: Path) -> list[str]:
    rows = compare([digests(first), digests(second)])
    return [line.splitlines()[0] for line in explain(rows, [first, second], lambda _: None)]


def test_equal_builds_are_the_same(tmp_path: Path) -> None:
    first, second = release(tmp_path / "a"), release(tmp_path / "b")
    rows = compare([digests(first), digests(second)])
    assert all(row.same and len(row.digests) == 1 for row in rows)
    assert {row.name for row in rows} >= {DISK, ROOT, INITRD, KERNEL}
    assert told(first, second) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {ROOT: b"other", ROOT_FILES: LIST.replace("10 aa", "10 ab").encode()},
            "/etc/passwd is file 0644 0:0 10 aa in",
        ),
        (
            {ROOT: b"other", ROOT_FILES: LIST.replace("0755", "0700").encode()},
            "/etc is directory 0755 0:0 in the first",
        ),
        ({ROOT: b"other", ROOT_FILES: LIST.replace("/init", "/initx").encode()}, "/init is only in the first"),
        ({ROOT: b"root" * 99 + b"rooT"}, "byte 399 (its files are the same"),
        ({INITRD: b"x", INITRD_FILES: (LIST + "/zzz\tlink a\n").encode()}, "/zzz is only in the second"),
        ({KERNEL: b"kerneL"}, "first at byte 5"),
        ({KERNEL: b"kernel and more"}, "first at byte 6"),
        ({"manifest.json": b'{"profile":"base","release":1}'}, "its release"),
        ({"chrysalis.efi": b"only here"}, "one of the two files is gone"),
    ],
)
def test_a_difference_is_named(tmp_path: Path, changed: dict[str, bytes], words: str) -> None:
    found = told(release(tmp_path / "a"), release(tmp_path / "b", changed))
    assert any(words in line and next(iter(changed)) in line for line in found), found
    assert {line.split()[0] for line in found if " differs between " in line} == set(changed)


def test_a_dropped_file_is_explained_from_its_list(tmp_path: Path) -> None:
    first = release(tmp_path / "a")
    second = release(tmp_path / "b", {ROOT: b"other", ROOT_FILES: LIST.replace("10 aa", "11 aa").encode()})
    rows = compare([digests(first), digests(second)])
    (first / ROOT).unlink()
    assert any("/etc/passwd" in line for line in explain(rows, [first, second], lambda _: None))


def test_bytes_and_lists() -> None:
    assert first_listed_difference(LIST, LIST) is None


def test_first_differing_byte_across_chunks(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    content = bytes((1 << 20) + 7)
    one.write_bytes(content)
    two.write_bytes(content)
    assert first_differing_byte(one, two) is None
    two.write_bytes(content[:-1] + b"\1")
    assert first_differing_byte(one, two) == (1 << 20) + 6


def test_surroundings_differ_in_everything() -> None:
    first, second, *_ = VARIED
    for field in ("timezone", "locale", "umask", "host_name", "processors", "days"):
        assert getattr(first, field) != getattr(second, field)


def test_a_build_gets_its_surroundings(tmp_path: Path) -> None:
    command, environment = build_command("engine-cpu", tmp_path / "p", VARIED[1])
    line = " ".join(command)
    assert "unshare --uts" in line
    assert "hostname second.example && umask 077" in line
    assert "taskset --cpu-list 0-0" in line
    assert "--clock-days 500" in line
    assert "--offline" in line
    assert environment["TZ"] == "Pacific/Kiritimati"
    assert environment["LC_ALL"] == "tr_TR.UTF-8"
    assert environment["CHRYSALIS_HOME"] == str(tmp_path / "p" / "home")
    plain, _ = build_command("engine-cpu", tmp_path / "p", VARIED[0])
    assert "taskset" not in plain
    assert "--clock-days" not in plain


@pytest.mark.parametrize("planted", [False, True])
def test_check_compares_what_the_builds_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: bool) -> None:
    """The builds are files written here: what is tested is keeping, dropping, comparing and reporting."""
    monkeypatch.setenv("CHRYSALIS_HOME", str(tmp_path))
    places: list[Path] = []

    def build(profile: str, place: Path, *_: object, **__: object) -> dict[str, object]:
        changed = {ROOT: b"other", ROOT_FILES: LIST.replace("aa", "bb").encode()} if planted and places else {}
        output = release(place / "output", changed)
        places.append(place)
        files = {name: {"sha256": digest} for name, digest in digests(output).items()}
        return {"directory": str(output), "files": files, "seconds": {"mkosi": 1.0}}

    monkeypatch.setattr(checking, "_build", build)
    result = check_image("engine-cpu", builds=2, announce=lambda _: None)
    assert result.same is not planted
    assert any("/etc/passwd" in line for line in result.differences) is planted
    assert result.to_json()["ok"] is not planted
    assert result.to_json()["artefacts"][ROOT]["same"] is not planted
    assert len({len(str(place)) for place in places}) == 2
    assert not any(place.exists() for place in places)
