"""The artefacts: every file of a build against the manifest, every published file against the manifest.

Digests decide. Where one differs, the place inside is named as far as both files are at hand: the published ones are
(``--artefacts``), and the manifest vouches for them only where their digest is the one it states.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from appliance.audit.inside import LISTS, Place, file_difference, listed_difference, paths_by_digest, reached, read_list
from appliance.audit.outcome import Finding, Row, Step
from appliance.image import artefacts as release
from appliance.image.compare import diffoscope
from appliance.image.fetch import file_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from appliance.audit.rebuild import Built
    from measurements.manifest import Manifest

NAME = "artefacts"
TITLE = "The artefacts"
PUBLISHED_NAME = "published"
PUBLISHED_TITLE = "The published files"
MISSING: Final = "missing"
UNSTATED: Final = "not in the manifest"

_ORDER = (
    release.ROOT_FILES,
    release.ROOT,
    release.INITRD_FILES,
    release.INITRD,
    release.KERNEL,
    release.UKI,
    release.FIRMWARE_CODE,
    release.FIRMWARE_VARIABLES,
    release.FIRMWARE,
    release.SBOM,
    release.VERITY,
    release.DISK,
)
"""Causes before what follows from them: a changed file of the root changes root, verity tree, command line and disk."""

_RELEASED = frozenset({
    "artefacts", "expires", "format", "not_before", "registers", "release", "source_commit", "source_modified",
})  # fmt: skip
"""Of a manifest: what whoever releases states (numbers and dates), and what is compared by itself."""

_UNPACKED_LARGE = frozenset({release.DISK, release.ROOT, release.VERITY})
"""Compared by list and digest: diffoscope on them takes longer than the build and says less than the list."""


def compare_artefacts(
    manifest: Manifest,
    built: Built,
    published: Path | None,
    *,
    changed: Mapping[str, str],
    announce: Callable[[str], None],
) -> Step:
    """Compare a build with the manifest.

    Args:
        manifest: What is stated.
        built: What was built.
        published: Directory of the published files, where they are at hand.
        changed: Source files that differ from the manifest's commit, and where they are in the image
            (:func:`changed_in_image`).
        announce: Told the commands that run.
    """
    stated = {entry.name: entry.sha256 for entry in manifest.artefacts}
    seen = built.digests()
    rows = [_row(name, stated.get(name, UNSTATED), seen.get(name, MISSING)) for name in _ordered({*stated, *seen})]
    differing = [row.name for row in rows if not row.same]
    findings = [Finding(place, f"changed in the source: {name}") for name, place in changed.items() if differing]
    vouched = None if published is None else _Vouched(published, stated)
    findings += _findings(rows, built.directory, vouched, announce)
    facts = list(_fact_rows(manifest.model_dump(mode="json"), built.stated))
    findings += [
        Finding(row.name, f"the manifest says {row.stated}, the source makes {row.seen}")
        for row in facts
        if not row.same
    ]
    notes = []
    if differing and published is None and not changed:
        notes.append("which file inside differs is known where the release's own files are at hand: --artefacts DIR")
    same = sum(row.same for row in rows)
    return Step(
        name=NAME,
        title=TITLE,
        status="differs" if findings else "same",
        summary=f"{same} of {len(rows)} files have the digests that the manifest states",
        inputs={"build": str(built.directory), "published": str(published or "not at hand")},
        rows=(*rows, *facts),
        findings=tuple(_once(findings)),
        notes=tuple(notes),
    )


def compare_published(
    manifest: Manifest, published: Path, built: Built | None, *, announce: Callable[[str], None]
) -> Step:
    """Compare published files with the manifest; where one differs, the place in it is found with the build's help."""
    rows, findings, absent = [], [], []
    by_name = {entry.name: entry for entry in manifest.artefacts}
    for name in _ordered(by_name):
        path = published / name
        if not path.is_file():
            absent.append(name)
            continue
        row = _row(name, by_name[name].sha256, file_digest(path))
        rows.append(row)
        if row.same:
            continue
        place = file_difference(name, published, built.directory) if built is not None else None
        where = f": {place.text}" if place is not None else ""
        details = _details(name, published, built.directory, announce) if built is not None else ""
        subject = place.subject if place is not None else name
        findings.append(
            Finding(f"published {subject}", f"{path} is not the file that the manifest states{where}", details)
        )
    return Step(
        name=PUBLISHED_NAME,
        title=PUBLISHED_TITLE,
        status="differs" if findings else "same" if rows else "unchecked",
        summary=f"{sum(row.same for row in rows)} of {len(rows)} published files are the manifest's"
        if rows
        else f"{published} holds no file of this release",
        inputs={"directory": str(published)},
        rows=tuple(rows),
        findings=tuple(findings),
        notes=(f"not there: {', '.join(absent)}",) if absent and rows else (),
    )


def changed_in_image(changed: Iterable[str], source: Path, built: Built) -> dict[str, str]:
    """Source files that differ from the manifest's commit and are in the image, with their place in it."""
    return reached(changed, source, paths_by_digest(built.directory))


class _Vouched:
    """A directory of published files, of which only those count that the manifest states."""

    def __init__(self, directory: Path, stated: Mapping[str, str]) -> None:
        self.directory = directory
        self._stated = stated
        self._known: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        """Whether the file is there and is the stated one."""
        if name not in self._known:
            path = self.directory / name
            self._known[name] = path.is_file() and file_digest(path) == self._stated.get(name)
        return self._known[name]


def _findings(
    rows: Iterable[Row], built: Path, published: _Vouched | None, announce: Callable[[str], None]
) -> Iterator[Finding]:
    for row in rows:
        if row.same:
            continue
        place, details = None, ""
        if published is not None and row.seen != MISSING:
            place = _place(row.name, published, built)
            if published.has(row.name):
                details = _details(row.name, published.directory, built, announce)
        yield (
            Finding(place.subject, place.text, details) if place is not None else Finding(row.name, _told(row), details)
        )


def _told(row: Row) -> str:
    if row.stated == UNSTATED:
        return f"the build makes {row.name}, which the manifest does not list"
    if row.seen == MISSING:
        return f"the manifest lists {row.name}, which the build does not make"
    return f"its SHA-256 is {row.seen}, the manifest says {row.stated}"


def _place(name: str, published: _Vouched, built: Path) -> Place | None:
    listed = LISTS.get(name)
    if listed is not None and published.has(listed) and (built / listed).is_file():
        found = listed_difference(name, read_list(published.directory / listed), read_list(built / listed))
        if found is not None:
            return found
    return file_difference(name, published.directory, built) if published.has(name) else None


def _details(name: str, published: Path, built: Path, announce: Callable[[str], None]) -> str:
    if name in _UNPACKED_LARGE or not (built / name).is_file():
        return ""
    return "\n".join(diffoscope(published / name, built / name, announce))


def _fact_rows(stated: Mapping[str, Any], built: Mapping[str, Any]) -> Iterator[Row]:
    """What the two manifests say besides digests: only what both know, since a commit's may be of an older form."""
    for name in sorted((stated.keys() & built.keys()) - _RELEASED):
        one, two = (json.dumps(value[name], sort_keys=True) for value in (stated, built))
        yield _row(f"manifest's {name}", one, two)


def _row(name: str, stated: str, seen: str) -> Row:
    return Row(name, stated, "" if stated == seen else seen, stated == seen)


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each subject: an artefact, its list and a changed source file name the same file inside."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        first = kept.setdefault(finding.subject, finding)
        if finding.text not in first.text:
            text = f"{first.text}; {finding.text}"
            kept[finding.subject] = Finding(finding.subject, text, first.details or finding.details)
    return list(kept.values())
