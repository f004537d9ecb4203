"""Programs that a build runs: told, logged, quoted in the error, and gone when the build is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.image.commands import Commands
from appliance.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).resolve().parents[2]
KILLED = """
import sys
from pathlib import Path
from appliance.image.commands import Commands
Commands(lambda _: None, Path("log")).run(["sh", "-c", 'echo $$ > "$0"; exec sleep 600', sys.argv[1]])
"""


def test_a_command_is_told_and_logged_as_it_can_be_repeated(tmp_path: Path) -> None:
    told: list[str] = []
    Commands(told.append, tmp_path / "log").run(["sh", "-c", "echo said; umask"])
    assert told == ["sh -c 'echo said; umask'"]
    assert (tmp_path / "log").read_text() == "+ sh -c 'echo said; umask'\nsaid\n0022\n"


def test_a_failed_command_is_quoted(tmp_path: Path) -> None:
    commands = Commands(lambda _: None, tmp_path / "log")
    with pytest.raises(BuildError, match=r"sh ended with status 3:\nwhy"):
        commands.run(["sh", "-c", "echo why; exit 3"])
    with pytest.raises(BuildError, match="no-such-program"):
        commands.run(["no-such-program"])


def test_a_killed_build_leaves_no_program_behind(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen([sys.executable, "-c", KILLED, said], cwd=tmp_path, env=environment) as build:
        try:
            pid = int(_until(lambda: said.exists() and said.read_text().splitlines())[0])
            assert _lives(pid)
        finally:
            build.kill()
    _until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _until(seen: Callable[[], bool | list[str]]) -> list[str]:
    for _ in range(600):
        if found := seen():
            return found if isinstance(found, list) else []
        time.sleep(0.05)
    pytest.fail("it did not come about")
