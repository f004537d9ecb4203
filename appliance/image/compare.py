"""Two builds compared: digests first, then what differs inside, down to the first file.

In: digests and directories of releases. Out: rows, and sentences. What is inside the root and the initrd is known from
the lists that the build writes beside them (``*.files``: path, kind, mode, owner, size, digest), so a root of many
gigabytes need not be unpacked, nor even be there any more.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.artefacts import DISK, INITRD, INITRD_FILES, ROOT, ROOT_FILES, UKI
from measurements import uki
from measurements.errors import MeasurementError
from measurements.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_CHUNK = 1 << 20
_DIFFOSCOPE_LINES = 60
_LISTS = {ROOT: ROOT_FILES, INITRD: INITRD_FILES}


@dataclass(frozen=True, slots=True)
class Row:
    """One artefact.

    Attributes:
        name: Its file name.
        digests: SHA-256 in each build that has it, in hexadecimal; one where all are the same.
        same: Whether every build has it, and the same.
    """

    name: str
    digests: tuple[str, ...]
    same: bool


def compare(builds: Sequence[Mapping[str, str]]) -> tuple[Row, ...]:
    """Rows of all artefacts.

    Args:
        builds: For each build digests by file name.
    """
    rows = []
    for name in sorted({name for build in builds for name in build}):
        digests = [build.get(name, "missing") for build in builds]
        same = len(set(digests)) == 1
        rows.append(Row(name, tuple(digests[:1] if same else digests), same))
    return tuple(rows)


def explain(rows: Sequence[Row], outputs: Sequence[Path], announce: Callable[[str], None]) -> Iterator[str]:
    """Sentences about what differs between the first build and the first one that is not like it.

    Args:
        rows: From :func:`compare`.
        outputs: The releases' directories; large files may be gone from them.
        announce: Told the commands that are run.
    """
    for row in rows:
        if row.same:
            continue
        other = next(number for number, digest in enumerate(row.digests) if digest != row.digests[0])
        first, second = outputs[0], outputs[other]
        yield f"{row.name} differs between build 1 and build {other + 1}: " + _inside(row.name, first, second)
        if row.name not in {DISK, MANIFEST_NAME} and (first / row.name).is_file() and (second / row.name).is_file():
            yield from diffoscope(first / row.name, second / row.name, announce)


def first_listed_difference(first: str, second: str) -> str | None:
    """The first path at which two file lists differ, how, and how many more do; None where they are equal."""
    one, two = entries(first), entries(second)
    paths = differing_paths(one, two)
    if not paths:
        return None
    path, more = paths[0], f"; {len(paths) - 1} more paths differ" if len(paths) > 1 else ""
    if path not in two:
        return f"{path} is only in the first{more}"
    if path not in one:
        return f"{path} is only in the second{more}"
    return f"{path} is {' '.join(one[path])} in the first, {' '.join(two[path])} in the second{more}"


def entries(text: str) -> dict[str, list[str]]:
    """A file list by path: kind, mode, owner, size and digest, as the seal writes them (``list_files``)."""
    found = {}
    for line in text.splitlines():
        path, _, rest = line.partition("\t")
        found[path] = rest.split(" ")
    return found


def differing_paths(one: Mapping[str, list[str]], two: Mapping[str, list[str]]) -> list[str]:
    """Paths at which two file lists differ, sorted."""
    return [path for path in sorted(one.keys() | two.keys()) if one.get(path) != two.get(path)]


def first_differing_byte(first: Path, second: Path) -> int | None:
    """Offset of the first byte in which two files differ, or the shorter one's length; None where they are equal."""
    offset = 0
    with first.open("rb") as one, second.open("rb") as two:
        while True:
            left, right = one.read(_CHUNK), two.read(_CHUNK)
            if left != right:
                for number, (a, b) in enumerate(zip(left, right, strict=False)):
                    if a != b:
                        return offset + number
                return offset + min(len(left), len(right))
            if not left:
                return None
            offset += len(left)


def _inside(name: str, first: Path, second: Path) -> str:
    if name in _LISTS:
        lists = [place / _LISTS[name] for place in (first, second)]
        if all(path.is_file() for path in lists):
            found = first_listed_difference(*(path.read_text(encoding="utf-8") for path in lists))
            if found:
                return found
    if not all((place / name).is_file() for place in (first, second)):
        return "one of the two files is gone"
    if name.endswith(".files"):
        texts = [(place / name).read_text(encoding="utf-8") for place in (first, second)]
        return first_listed_difference(*texts) or "the order of its lines"
    if name == UKI:
        return differing_section(first / name, second / name)
    if name == MANIFEST_NAME:
        return _manifest(first / name, second / name)
    offset = first_differing_byte(first / name, second / name)
    contents = " (its files are the same: how they lie in it differs)" if name in _LISTS else ""
    return f"first at byte {offset}{contents}"


def differing_section(first: Path, second: Path) -> str:
    """The first section in which two unified kernel images differ, or where outside of all, in words."""
    try:
        one, two = (uki.parse(path.read_bytes()).sections for path in (first, second))
    except MeasurementError as error:
        return error.message
    for section in sorted(one.keys() | two.keys()):
        if one.get(section) != two.get(section):
            return f"section {section}"
    return f"outside its sections, first at byte {first_differing_byte(first, second)}"


def _manifest(first: Path, second: Path) -> str:
    one, two = (json.loads(path.read_bytes()) for path in (first, second))
    keys = [key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)]
    return f"its {', '.join(keys)}"


def diffoscope(first: Path, second: Path, announce: Callable[[str], None]) -> Iterator[str]:
    """The first lines of diffoscope's report on two files, as one text; nothing where it is not installed."""
    program = shutil.which("diffoscope")
    if program is None:
        return
    command = [program, "--max-report-size", "20000", str(first), str(second)]
    announce(shlex.join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - diffoscope
    lines = done.stdout.splitlines()
    yield "\n".join(lines[:_DIFFOSCOPE_LINES])
