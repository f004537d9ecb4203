"""Locked requirement files: what is read, what is refused, and what the release's own files promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from appliance.engine import lockfile
from appliance.engine.environment import Locks
from appliance.engine.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = f"""# bytes: 12
one==1.0 \\
    --hash=sha256:{"0" * 64} \\
    --hash=sha256:{"1" * 64}

two-three==2.0+cpu \\
    --hash=sha256:{"2" * 64}
"""


def write(tmp_path: Path, text: str, name: str = "lock.txt") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_reads_names_versions_hashes_and_sizes(tmp_path: Path) -> None:
    lock = lockfile.parse(write(tmp_path, GOOD))
    assert [(r.name, r.version, r.size, len(r.hashes)) for r in lock.requirements] == [
        ("one", "1.0", 12, 2),
        ("two-three", "2.0+cpu", 0, 1),
    ]
    assert lock.size == 12
    assert lock["one"].version == "1.0"


@pytest.mark.parametrize(
    "bad",
    [
        "one>=1.0 \\\n    --hash=sha256:" + "0" * 64,
        "one==1.0\n",
        "one==1.0 \\\n    --hash=md5:00",
        "--index-url=https://example.invalid/simple\n" + GOOD,
        "--hash=sha256:" + "0" * 64,
        "one @ file:///tmp/one.whl",
    ],
)
def test_refuses_what_is_not_pinned_and_hashed(tmp_path: Path, bad: str) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"lock\.txt"):
        lockfile.parse(write(tmp_path, bad))


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="locks no torch"):
        lockfile.parse(write(tmp_path, GOOD))["torch"]


def test_digest_depends_on_each_file_and_on_python(tmp_path: Path) -> None:
    one = lockfile.parse(write(tmp_path, GOOD, "a"))
    other = lockfile.parse(write(tmp_path, GOOD.replace("1.0", "1.1"), "b"))
    digests = {
        lockfile.digest(one, one, python="cpython-311"),
        lockfile.digest(one, other, python="cpython-311"),
        lockfile.digest(other, one, python="cpython-311"),
        lockfile.digest(one, one, python="cpython-312"),
    }
    assert len(digests) == 4


def test_the_release_locks_one_torch_in_both_builds_and_no_audio() -> None:
    locks = Locks.packaged()
    torch = locks.engine["torch"]
    cpu = locks.cpu_torch["torch"]
    assert cpu.version == f"{torch.version}+cpu"
    assert cpu.hashes < torch.hashes
    names = {requirement.name for requirement in locks.engine.requirements}
    assert not names & {"torchaudio", "sglang-kernel", "flashinfer-python"}
    assert not names & {requirement.name for requirement in locks.cuda_deps.requirements}
    assert locks.size(cpu=True) < locks.size(cpu=False)


def test_the_release_names_no_host() -> None:
    for lock in (Locks.packaged().engine, Locks.packaged().cpu_torch, Locks.packaged().cuda_deps):
        assert "://" not in lock.path.read_text()
    assert "://" not in lockfile.packaged("model-smollm2.txt").path.read_text()
