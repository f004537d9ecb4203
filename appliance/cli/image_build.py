"""``chrysalis image fetch|build|check``: the image from its locks, and the proof that everybody gets the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown
from appliance.image.archive import from_machine, snapshot
from appliance.image.build import BuildRequest, build_image
from appliance.image.check import check_image
from appliance.image.inputs import fetch_inputs, missing_packages
from appliance.image.issue import make_issue
from appliance.image.profiles import Recipe, read_recipe
from appliance.image.source import SOURCE

ProfileOption = Annotated[str, typer.Option(help="engine-cpu, engine-gpu, or base (no engine).")]
DebugOption = Annotated[bool, typer.Option("--debug", help="With a console; no release policy accepts it.")]
WorkOption = Annotated[Path | None, typer.Option(help="Scratch space; beside the output by default.", file_okay=False)]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fetch nothing: the cache has everything.")]
ArchiveOption = Annotated[str | None, typer.Option(help="Address of the package archive; apt's by default.")]
SnapshotOption = Annotated[
    str | None,
    typer.Option("--snapshot", help="Address of an archive that keeps old versions, for what the first no longer has."),
]


def fetch_command(
    profile: ProfileOption = "engine-cpu",
    debug: DebugOption = False,
    archive: ArchiveOption = None,
    snapshot_archive: SnapshotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring every locked input into the cache; after that a build needs no network."""
    output = Output(as_json=as_json)
    _fetch(read_recipe(SOURCE, profile, debug=debug), archive, snapshot_archive, output)
    output.say(f"every input of {profile} is in the cache")
    output.result({"ok": True, "profile": profile})


def build_command(
    profile: ProfileOption = "engine-cpu",
    debug: DebugOption = False,
    output_directory: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the release goes.", file_okay=False)
    ] = None,
    work: WorkOption = None,
    release: Annotated[int, typer.Option(help="Number of the release; 0: not one.", min=0)] = 0,
    not_before: Annotated[
        str | None, typer.Option(help="When the release begins to count: 2026-12-01 or 2026-12-01T06:00:00Z, in UTC.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends to count; two years after its beginning at most.")
    ] = None,
    offline: OfflineOption = False,
    archive: ArchiveOption = None,
    snapshot_archive: SnapshotOption = None,
    clock_days: Annotated[int, typer.Option(help="Build with a clock so many days ahead.", min=0, hidden=True)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Build the image from its locks; needs root. Fetches what is missing first, then uses no network."""
    output = Output(as_json=as_json)
    issue = make_issue(release, not_before, expires)
    if not offline:
        _fetch(read_recipe(SOURCE, profile, debug=debug), archive, snapshot_archive, output)
    request = BuildRequest(profile, debug, output_directory, work, issue=issue, clock_days=clock_days)
    with shown(output) as progress:
        built = build_image(request, announce=lambda command: output.progress(f"+ {command}"), progress=progress)
    output.table(
        f"{profile}{' (debug)' if debug else ''} in {built.directory}",
        ("file", "bytes", "SHA-256"),
        ((file.name, f"{file.size:,}", file.sha256) for file in built.files),
    )
    output.result(
        {
            "ok": True,
            "profile": profile,
            "debug": debug,
            "directory": str(built.directory),
            "seconds": built.seconds,
            "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in built.files},
        }
    )


def check_command(
    profile: ProfileOption = "engine-cpu",
    builds: Annotated[int, typer.Option(help="How many builds are compared.", min=2, max=8)] = 2,
    work: WorkOption = None,
    offline: OfflineOption = False,
    archive: ArchiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the image at least twice under different conditions; every artefact must be the same, bit for bit."""
    output = Output(as_json=as_json)
    if not offline:
        _fetch(read_recipe(SOURCE, profile), archive, None, output)
    with shown(output) as progress:
        result = check_image(
            profile, builds=builds, work=work, announce=lambda text: output.progress(f"+ {text}"), progress=progress
        )
    output.table(
        f"{profile}: {builds} builds",
        ("file", "same", "SHA-256"),
        ((row.name, "yes" if row.same else "NO", "\n".join(row.digests)) for row in result.rows),
    )
    for difference in result.differences:
        output.say(difference)
    output.result(result.to_json())
    if not result.same:
        raise typer.Exit(1)


def _fetch(recipe: Recipe, archive: str | None, snapshot_archive: str | None, output: Output) -> None:
    missing = missing_packages(recipe)
    archives = from_machine(archive) if missing else None
    fallback = snapshot(snapshot_archive) if snapshot_archive else None
    with shown(output) as progress:
        asyncio.run(fetch_inputs(recipe, archives, fallback=fallback, progress=progress))
