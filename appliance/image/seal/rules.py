"""The rules of what stays in a root.

A rules file has one rule a line, ``#`` begins a comment::

    keep GLOB       these files stay; a symbolic link's target and an ELF file's libraries stay with it
    bundle GLOB     the same for a bundle whose libraries find each other: one that is in no search path is no error,
                    the program loads it before it is needed (wheels of one environment do so)
    drop GLOB       these go, whatever names them (libraries that something needs are never dropped silently: an error)
    directory PATH  this directory is there, empty if need be
    link PATH TO    this symbolic link is there
    compile PATH    every Python source below gets a byte-code file that is used without a look at its source
    shadow PATH     passwords below are dated like everything else in the image: the tools write the day of the build
    modules PATH    kernel modules below are unpacked (a file system or archive around them compresses better)

In a glob ``*`` stays within a directory, ``**`` crosses them, ``{a,b}`` is either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.seal.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(slots=True)
class Rules:
    """A rules file, or several read one after the other."""

    keep: list[str] = field(default_factory=list)
    bundle: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    directory: list[str] = field(default_factory=list)
    link: list[tuple[str, str]] = field(default_factory=list)
    compile: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    shadow: list[str] = field(default_factory=list)

    def read(self, text: str, source: str) -> None:
        """Add the rules of a text.

        Raises:
            SealError: A line is no rule.
        """
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            verb, *operands = words
            if verb == "link" and len(operands) == 2:
                self.link.append((operands[0], operands[1]))
            elif verb in {"keep", "bundle", "drop", "directory", "compile", "modules", "shadow"} and len(operands) == 1:
                getattr(self, verb).append(operands[0])
            else:
                raise SealError(f"{source}:{number}: {line.strip()!r} is no rule")
            if not operands[0].startswith("/"):
                raise SealError(f"{source}:{number}: {operands[0]!r} does not start with /")


def read_rules(names: Sequence[str]) -> Rules:
    """Rules files, one after the other.

    Raises:
        SealError: A line is no rule.
    """
    rules = Rules()
    for name in names:
        rules.read(Path(name).read_text(encoding="utf-8"), name)
    return rules


def glob_pattern(glob: str) -> str:
    """A regular expression for a glob of a rule."""
    found = []
    for part in re.findall(r"\*\*|\*|\?|\{[^{}]*\}|\[[^\]]*\]|[^*?{\[]+|.", glob):
        if part == "**":
            found.append(".*")
        elif part == "*":
            found.append("[^/]*")
        elif part == "?":
            found.append("[^/]")
        elif part[0] == "{" and part[-1] == "}":
            found.append("(?:" + "|".join(glob_pattern(choice) for choice in part[1:-1].split(",")) + ")")
        elif part[0] == "[" and part[-1] == "]":
            found.append(part)
        else:
            found.append(re.escape(part))
    return "".join(found)


def matcher(globs: Iterable[str]) -> re.Pattern[str]:
    """One expression that matches what any of the globs matches; nothing where there are none."""
    return re.compile("|".join(f"(?:{glob_pattern(glob)})" for glob in globs) or r"(?!)")
