"""House rules that no linter knows: nothing here names a host to fetch from or a machine; locks are complete."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("appliance", "attestation", "measurements")
# Each is put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    "pypi" + ".org",
    "python" + "hosted",
    "npmjs" + ".",
    "crates" + ".io",
    "proxy.go" + "lang",
    "deb." + "debian",
]
INDEX_OPTIONS = ["--" + "index-url", "--" + "extra-index-url", "--" + "trusted-host"]
MACHINE_PATHS = re.compile(r"(?<![\w.~/-])/(?:wor" + r"k|roo" + r"t|hom" + r"e/\w+)(?![\w-])")
PRIVATE = re.compile(r"CONTRA" + r"CT\.md|\bsub-?ag" + r"ents?\b|\bissues (?:sh" + r"ow|cl" + r"ose)\b", re.IGNORECASE)
PACKAGE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[^]]*\])?==\S+")


def tracked() -> list[Path]:
    """The repository's files; in an unpacked archive without git, all that are no build output."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        hidden = {"build", "dist", "__pycache__"}
        found = [path for path in ROOT.rglob("*") if not hidden & set(path.parts)]
        return [path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    return [ROOT / name for name in done.stdout.split("\0") if name]


def texts() -> dict[str, str]:
    """Text files by name."""
    found = {}
    for path in tracked():
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if b"\0" not in data:
                found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8", "replace")
    return found


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    found = texts()
    assert "README.md" in found
    assert "appliance/__init__.py" in found
    return found


def lines_with(files: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in files.items()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_package_registry_is_named(files: dict[str, str]) -> None:
    assert lines_with(files, re.compile("|".join(map(re.escape, REGISTRIES)), re.IGNORECASE)) == []


def test_no_machine_path_is_named(files: dict[str, str]) -> None:
    assert lines_with(files, MACHINE_PATHS) == []


def test_no_private_matter_is_named(files: dict[str, str]) -> None:
    assert lines_with(files, PRIVATE) == []


@pytest.mark.parametrize(
    ("pattern", "caught", "fine"),
    [
        (MACHINE_PATHS, "see /wor" + "k/main/x", "the frame/work/flow"),
        (MACHINE_PATHS, '"/roo' + 't/.cache"', "registry/root"),
        (MACHINE_PATHS, "/hom" + "e/me/x", "http://host/home/"),
        (PRIVATE, "by a sub" + "agent", "by an agent"),
    ],
)
def test_the_patterns_can_fail(pattern: re.Pattern[str], caught: str, fine: str) -> None:
    """Control."""
    assert pattern.search(caught)
    assert not pattern.search(fine)


LOCKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("requirements/*.txt"))


def unhashed(text: str) -> list[str]:
    """Requirements without a hash, and lines that are neither a pinned package, nor a hash, nor a comment."""
    bad = []
    for entry in text.replace("\\\n", " ").splitlines():
        words = entry.split("#")[0].strip()
        if words and not (PACKAGE.match(words) and re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", words)):
            bad.append(words[:80])
    return bad


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_lock_names_a_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.search(PACKAGE.pattern, text, re.MULTILINE)
    assert unhashed(text) == []
    assert not any(option in text for option in INDEX_OPTIONS)
    assert "://" not in text


def test_a_lock_without_a_hash_is_noticed() -> None:
    """Control."""
    good = "a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\n"
    assert unhashed(good) == []
    assert unhashed(good.replace("sha256", "md5")) != []
    assert unhashed("a==1\n") == ["a==1"]
    assert unhashed("a @ file:x --hash=sha256:" + "0" * 64) != []


def test_the_packaged_engine_locks_are_those_of_the_repository() -> None:
    for path in (ROOT / "appliance" / "engine").glob("*.txt"):
        assert path.read_bytes() == (ROOT / "requirements" / path.name).read_bytes()


def test_npm_locks_have_integrity_and_no_addresses(files: dict[str, str]) -> None:
    locks = [name for name in files if name.endswith("package-lock.json")]
    assert locks
    for name in locks:
        for place, package in json.loads(files[name])["packages"].items():
            assert "resolved" not in package, f"{name}: {place}"
            assert not place or package.get("integrity", "").startswith("sha512-"), f"{name}: {place}"


def test_exceptions_to_the_linters_carry_a_reason(files: dict[str, str]) -> None:
    """``# noqa: CODE - why``, ``# type: ignore[code]  # why``, or the reason as a comment on the line above."""
    codes = r"[A-Z]+\d+(?:, ?[A-Z]+\d+)*"
    bare = re.compile(rf"# noqa(?!: {codes} --? \S)|# type: ignore(?!\[[\w, -]+\] +# \S)")
    found = []
    for name, text in files.items():
        if name.startswith(PACKAGES) and name.endswith(".py"):
            lines = ["", *text.splitlines()]
            found += [
                f"{name}:{number}: {line.strip()}"
                for number, line in enumerate(lines)
                if bare.search(line) and not lines[number - 1].lstrip().startswith("# ")
            ]
    assert found == []


def test_no_module_is_a_drawer(files: dict[str, str]) -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [name for name in files if name.startswith(PACKAGES) and name.rpartition("/")[2] in drawers] == []


def test_nothing_is_put_off_in_the_code(files: dict[str, str]) -> None:
    ours = {name: text for name, text in files.items() if name.startswith(PACKAGES) and name.endswith(".py")}
    assert lines_with(ours, re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")) == []
