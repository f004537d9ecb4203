"""Programs that a build runs: each is printed as it can be repeated, and its last words are kept for the error.

In: a command. Out: nothing, or :class:`BuildError` with what the program said last.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

UMASK = 0o022
"""Of everything that a build runs: a caller's stricter one would show in the image."""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "TZ": "UTC", "TERM": "dumb", "HOME": "/"}
"""The whole environment of everything that a build runs."""

_UNTIL_WE_END = ("setpriv", "--pdeathsig", "TERM", "--")
"""A build that is killed leaves no program behind that goes on building."""

_TAIL = 25


@dataclass(slots=True)
class Commands:
    """Runs programs one after the other.

    Attributes:
        announce: Told each command, as a shell would take it.
        log: Where output goes; it is shown nowhere else, only its end in an error.
    """

    announce: Callable[[str], None]
    log: Path
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def run(self, command: Sequence[str | os.PathLike[str]], *, environment: Mapping[str, str] | None = None) -> None:
        """Run one command to its end.

        Raises:
            BuildError: It could not be started or did not end with status 0.
        """
        words = [os.fspath(word) for word in command]
        self.announce(shlex.join(words))
        self._tail.clear()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                self.log.open("a", encoding="utf-8") as log,
                subprocess.Popen(  # noqa: S603 - the build's own commands, printed before they run
                    [*_UNTIL_WE_END, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=dict(environment or ENVIRONMENT),
                    umask=UMASK,
                    text=True,
                    errors="replace",
                ) as process,
            ):
                log.write(f"+ {shlex.join(words)}\n")
                assert process.stdout is not None  # noqa: S101 - PIPE was asked for
                for line in process.stdout:
                    log.write(line)
                    self._tail.append(line.rstrip())
        except OSError as error:
            raise BuildError(f"{words[0]}: {error.strerror}") from None
        if process.returncode:
            said = "\n".join(self._tail)
            raise BuildError(
                f"{Path(words[0]).name} ended with status {process.returncode}:\n{said}",
                hint=f"the whole log is {self.log}",
            )
