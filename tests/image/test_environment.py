"""Wheels into an environment: what PEP 427 says, nothing outside, the same bytes anywhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from appliance.image.environment import make_environment
from appliance.image.errors import InputError
from appliance.image.seal.finish import list_files


def wheel(directory: Path, name: str, members: dict[str, bytes], *, executable: frozenset[str] = frozenset()) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (0o100755 if member in executable else 0o100600) << 16
            archive.writestr(entry, content)
    return path


def test_an_environment_is_what_python_expects(tmp_path: Path) -> None:
    one = wheel(tmp_path, "one", {"one/__init__.py": b"x = 1\n", "one-1.dist-info/METADATA": b"Name: one\n"})
    two = wheel(
        tmp_path,
        "two",
        {
            "two-1.data/purelib/two.py": b"",
            "two-1.data/platlib/two_c.so": b"",
            "two-1.data/data/share/two/file": b"",
            "two-1.data/scripts/two": b"#!python\n",
            "two-1.data/headers/two.h": b"",
            "bin/helper": b"",
        },
        executable=frozenset({"bin/helper"}),
    )
    site = make_environment(tmp_path / "root", "/usr/lib/env", [two, one], system_site_packages=True)
    base = tmp_path / "root/usr/lib/env"
    assert site == base / "lib/python3.13/site-packages"
    assert (base / "pyvenv.cfg").read_text().splitlines()[:2] == [
        "home = /usr/bin",
        "include-system-site-packages = true",
    ]
    assert (base / "bin/python").readlink() == Path("/usr/bin/python3")
    files = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file() and not path.is_symlink()}
    assert files == {
        "pyvenv.cfg",
        "share/two/file",
        *(f"lib/python3.13/site-packages/{name}" for name in (
            "one/__init__.py", "one-1.dist-info/METADATA", "two.py", "two_c.so", "bin/helper")),
    }  # fmt: skip
    assert (site / "bin/helper").stat().st_mode & 0o777 == 0o755
    assert (site / "one/__init__.py").stat().st_mode & 0o777 == 0o644


def test_order_and_place_do_not_matter(tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, name, {f"{name}.py": name.encode(), "shared/__init__.py": b""}) for name in "abc"]
    make_environment(tmp_path / "x", "/e", wheels)
    make_environment(tmp_path / "longer-name", "/e", reversed(wheels))
    assert list_files(tmp_path / "x") == list_files(tmp_path / "longer-name")


@pytest.mark.parametrize("name", ["../out.py", "/etc/passwd", "a/../../b.py", "a\\..\\b.py"])
def test_a_wheel_cannot_lead_outside(tmp_path: Path, name: str) -> None:
    bad = wheel(tmp_path, "bad", {name: b""})
    with pytest.raises(InputError, match="leads outside"):
        make_environment(tmp_path / "root", "/e", [bad])
    make_environment(tmp_path / "control", "/e", [wheel(tmp_path, "good", {"fine.py": b""})])


def test_two_wheels_at_odds_are_refused(tmp_path: Path) -> None:
    one, two = (wheel(tmp_path, name, {"same.py": name.encode()}) for name in ("one", "two"))
    with pytest.raises(InputError, match=r"two-1-py3-none-any\.whl brings same\.py"):
        make_environment(tmp_path / "root", "/e", [one, two])
    equal = [wheel(tmp_path, name, {"same.py": b"equal"}) for name in ("three", "four")]
    make_environment(tmp_path / "control", "/e", equal)


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no-1-py3-none-any.whl"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be unpacked"):
        make_environment(tmp_path / "root", "/e", [path])
