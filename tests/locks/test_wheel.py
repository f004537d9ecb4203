"""The two wheels: what is in which, the same bytes everywhere, and a guest that stands alone."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from appliance.image.errors import ImageError, MissingToolError
from appliance.image.wheel import build_guest_wheel, build_tools_wheel, contents

ROOT = Path(__file__).resolve().parents[2]
TOOLS_ROOMS = ("cli", "client", "gateway", "host", "image", "lab")
TOPS = ("appliance", "attestation", "measurements")


def copy(target: Path, mode: int = 0o644) -> Path:
    """The part of the checkout that wheels are made of, with modes of its own."""
    for name in (*TOPS, "packaging"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    return target


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels of one copy: other tests' files may come and go in the checkout itself."""
    checkout = copy(tmp_path_factory.mktemp("wheels") / "checkout")
    out = checkout.parent / "out"
    return {
        "checkout": checkout,
        "guest": build_guest_wheel(out, checkout),
        "tools": build_tools_wheel(out, checkout),
    }


def test_every_file_is_in_exactly_one_wheel(built: dict[str, Path]) -> None:
    guest, tools = names(built["guest"]), names(built["tools"])
    assert guest & tools == set()
    python = {
        path.relative_to(built["checkout"]).as_posix()
        for top in TOPS
        for path in (built["checkout"] / top).rglob("*.py")
        if "measurements/reference" not in path.as_posix()
    }
    assert python <= guest | tools
    assert not any(name.startswith("measurements/reference/") for name in guest | tools)


def test_the_guest_holds_no_room_of_the_tools(built: dict[str, Path]) -> None:
    guest = names(built["guest"])
    assert [name for name in guest if name.startswith(tuple(f"appliance/{room}/" for room in TOOLS_ROOMS))] == []
    for room in ("worker", "wire", "chain", "engine", "boot", "accounting", "config"):
        assert f"appliance/{room}/__init__.py" in guest
    assert {"attestation/verifier.py", "measurements/errors.py", "appliance/errors.py"} <= guest
    assert {f"appliance/{room}/__init__.py" for room in TOOLS_ROOMS} <= names(built["tools"])


def test_the_same_bytes_from_another_place_mode_time_and_with_leftovers(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = copy(tmp_path / "elsewhere with spaces", mode=0o600)
    for path in checkout.rglob("*.py"):
        os.utime(path, (86_400, 86_400))
    (checkout / "appliance/worker/__pycache__").mkdir()
    (checkout / "appliance/worker/__pycache__/program.cpython-311.pyc").write_bytes(b"stale")
    (checkout / "appliance/worker/program.py.orig").write_text("left by an editor")
    (checkout / "appliance/worker/.program.py.swp").write_text("left by an editor")
    (checkout / ".gitignore").write_text("*.py\n")
    subprocess.run(["git", "init", "-q", checkout], check=False)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    before = os.umask(0o077)
    try:
        guest, tools = (build(tmp_path / "out", checkout) for build in (build_guest_wheel, build_tools_wheel))
    finally:
        os.umask(before)
    assert digest(guest) == digest(built["guest"])
    assert digest(tools) == digest(built["tools"])
    assert guest.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("file", "moves_guest", "moves_tools"),
    [
        ("appliance/cli/main.py", False, True),
        ("appliance/gateway/program.py", False, True),
        ("appliance/accounting/gateway_ledger.py", False, True),
        ("appliance/worker/program.py", True, False),
        ("attestation/verifier.py", True, False),
    ],
)
def test_a_word_changed_in_the_tools_does_not_move_the_guest(
    built: dict[str, Path], tmp_path: Path, file: str, moves_guest: bool, moves_tools: bool
) -> None:
    checkout = copy(tmp_path / "changed")
    with (checkout / file).open("a") as text:
        text.write("# a word\n")
    assert (digest(build_guest_wheel(tmp_path, checkout)) != digest(built["guest"])) is moves_guest
    assert (digest(build_tools_wheel(tmp_path, checkout)) != digest(built["tools"])) is moves_tools


def test_a_readme_moves_nothing_that_is_measured(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["guest"]) as wheel:
        metadata = next(wheel.read(name) for name in wheel.namelist() if name.endswith("/METADATA"))
    assert b"Description-Content-Type" not in metadata


def test_no_compressed_byte_depends_on_the_machine(built: dict[str, Path]) -> None:
    for which in ("guest", "tools"):
        with zipfile.ZipFile(built[which]) as wheel:
            assert {info.compress_type for info in wheel.infolist()} == {zipfile.ZIP_STORED}
            assert len({(info.date_time, info.external_attr, info.create_system) for info in wheel.infolist()}) == 1


def imported(source: str) -> set[str]:
    """Modules that a file imports when it or a function of it runs; not those of type checkers."""
    tree = ast.parse(source)
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_nothing_of_the_guest_imports_what_only_the_tools_have(built: dict[str, Path]) -> None:
    files = contents(built["checkout"])
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files["tools"]
        if name.endswith(".py")
    }
    wrong = {
        name: sorted(found)
        for name in files["guest"]
        if name.endswith(".py") and (found := imported((built["checkout"] / name).read_text()) & modules)
    }
    assert wrong == {}
    assert imported("def f():\n    from appliance.cli import main\n") & modules  # control


def locked(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_the_guest_runs_with_its_locked_packages_alone(built: dict[str, Path], tmp_path: Path) -> None:
    """A path that has the wheel and, of this environment's packages, those that requirements/guest.txt names."""
    site = tmp_path / "site"
    site.mkdir()
    for name in locked("guest.txt"):
        distribution = importlib.metadata.distribution(name)
        for top in {Path(str(file)).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = site / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    guest = tmp_path / "guest"
    with zipfile.ZipFile(built["guest"]) as wheel:
        wheel.extractall(guest)

    def run(code: str) -> subprocess.CompletedProcess[str]:
        script = f"import sys; sys.path[1:1] = [{str(guest)!r}, {str(site)!r}]\n{code}"
        command = [sys.executable, "-I", "-S", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("import appliance.worker.program, attestation.verifier, appliance.boot; print(appliance.__file__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(guest))
    for absent in ("appliance.cli", "appliance.gateway.program", "typer", "appliance.lab"):  # control
        assert "ModuleNotFoundError" in run(f"import {absent}").stderr


def project(path: str) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / path).read_text())["project"]
    return found


def test_versions_and_ranges_agree() -> None:
    whole, guest, tools = (project(f"{place}pyproject.toml") for place in ("", "packaging/guest/", "packaging/tools/"))
    assert whole["version"] == guest["version"] == tools["version"]
    optional = whole["optional-dependencies"]
    assert isinstance(optional, dict)
    stated = {*whole["dependencies"], *(one for group in optional.values() for one in group)}  # type: ignore[misc]  # a table of lists
    wanted = {*guest["dependencies"], *tools["dependencies"]} - {f"chrysalis-appliance-guest=={whole['version']}"}  # type: ignore[misc]  # lists
    extra = tools["optional-dependencies"]
    assert isinstance(extra, dict)
    assert extra == {name: optional[name] for name in extra}
    wanted |= {one for group in extra.values() for one in group}
    assert wanted - stated == set()
    assert {one for one in stated if not one.startswith("chrysalis-appliance[")} - wanted == set()


def test_a_checkout_that_is_not_whole_is_told(built: dict[str, Path], tmp_path: Path) -> None:
    checkout = copy(tmp_path / "changed")
    rules = checkout / "packaging/guest/pyproject.toml"
    rules.write_text(rules.read_text().replace('"appliance/wire/generate.py"', '"appliance/wire/gone.py"'))
    with pytest.raises(ImageError, match=r"appliance/wire/gone\.py matches no file"):
        build_guest_wheel(tmp_path, checkout)
    rules.unlink()
    with pytest.raises(ImageError, match=r"guest/pyproject\.toml"):
        build_guest_wheel(tmp_path, checkout)


def test_another_back_end_is_refused(tmp_path: Path) -> None:
    checkout = copy(tmp_path / "changed")
    rules = checkout / "packaging/guest/pyproject.toml"
    rules.write_text(re.sub(r"hatchling==[\d.]+", "hatchling==1.0", rules.read_text()))
    with pytest.raises(MissingToolError, match=r"hatchling 1\.0, installed is"):
        build_guest_wheel(tmp_path, checkout)
