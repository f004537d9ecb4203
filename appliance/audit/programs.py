"""Programs that an audit runs: each is written down as it can be repeated, what it says goes to the log.

A program ends with the audit, however that ends (``setpriv --pdeathsig``), so that an audit which was killed and is
started again does not meet its own build.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.audit.errors import UncheckedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_UNTIL_WE_END = ("setpriv", "--pdeathsig", "TERM", "--")
_OF_A_REPOSITORY = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE",
})  # fmt: skip
"""Variables that a hook or an alias leaves, and that would make git look at another repository than the named one, or
at attributes of another commit."""
_TAIL = 25
_MAX_SAID = 8 << 20
"""Bytes of a program's standard output that are read."""


@dataclass(slots=True)
class Programs:
    """Runs programs one after the other.

    Attributes:
        log: Where their output goes.
        announce: Told each command.
        ran: Commands since :meth:`began`, as a shell takes them.
    """

    log: Path
    announce: Callable[[str], None]
    ran: list[str] = field(default_factory=list)

    def began(self) -> None:
        """A step begins: forget the commands of the one before."""
        self.ran.clear()

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> str:
        """Run a command to its end.

        Args:
            command: Its words.
            cwd: Where it runs.
            environment: Variables besides this process's own.
            quiet: Whether it only looks at something and is not worth repeating by hand.

        Returns:
            What it wrote to standard output.

        Raises:
            UncheckedError: It is not installed, or did not end with status 0; the message has its last words.
        """
        words = [os.fspath(word) for word in command]
        shown = shell_line(words, cwd=cwd, environment=environment)
        if not quiet:
            self.ran.append(shown)
            self.announce(shown)
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            with (
                self.log.open("a", encoding="utf-8") as log,
                tempfile.TemporaryFile() as said,
                subprocess.Popen(  # noqa: S603 - git and the build's command, written down above
                    [*_UNTIL_WE_END, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.PIPE,
                    env={**_surroundings(), **(environment or {})},
                    cwd=cwd,
                    text=True,
                    errors="replace",
                ) as process,
            ):
                log.write(f"+ {shown}\n")
                assert process.stderr is not None  # noqa: S101 - PIPE was asked for
                for line in process.stderr:
                    log.write(line)
                    tail.append(line.rstrip())
                process.wait()
                said.seek(0)
                output = said.read(_MAX_SAID).decode("utf-8", "replace")
                log.write(output)
        except OSError as error:
            raise UncheckedError(f"{words[0]} cannot be run: {error.strerror}") from None
        if process.returncode:
            raise UncheckedError(
                f"{Path(words[0]).name} ended with status {process.returncode}: " + "\n".join(tail).strip(),
                hint=f"the whole log is {self.log}",
            )
        return output


def _surroundings() -> dict[str, str]:
    """This process's variables, without those that name a repository."""
    return {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}


def shell_line(words: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """A command as a shell takes it, with its directory and the variables that were set for it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
    line = " ".join([*variables, shlex.join(words)])
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd is not None else line
