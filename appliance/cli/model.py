"""``chrysalis model``: make a model volume from a checkpoint, check one, look at one."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from appliance import model
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown_bytes
from appliance.model.formats import find

app = typer.Typer(help="Model volumes: packed the same anywhere, named by their root hash.", no_args_is_help=True)
FileArgument = Annotated[Path, typer.Argument(help="The volume's file.", dir_okay=False)]
WorkersOption = Annotated[int | None, typer.Option(help="Processes that hash; one a processor by default.", min=1)]


class Format(StrEnum):
    """The forms of volumes."""

    erofs = "erofs"
    cocoon_tar = "cocoon-tar"


@app.command()
def pack(
    directory: Annotated[Path, typer.Argument(help="The checkpoint: safetensors, JSON, tokenizer.", file_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to make.", dir_okay=False)],
    name: Annotated[str, typer.Option(help="The model's name, which requests carry.")],
    commit: Annotated[str, typer.Option(help="The checkpoint's version, as its publisher counts.")] = "local",
    format: Annotated[  # noqa: A002 - the option is called so
        Format, typer.Option(help="erofs for this image; cocoon-tar, two files, for the reference's machines.")
    ] = Format.erofs,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model volume; prints name@commit:roothash and what the measured configuration gets."""
    out = Output(as_json=as_json)
    kind = find(format).name
    with shown_bytes(out) as progress:
        packed = model.pack(
            directory, output, name=name, commit=commit, format=kind, progress=progress, workers=workers
        )
    out.say(packed.name)
    if packed.left_out:
        out.progress(f"left out: {', '.join(packed.left_out)}")
    out.progress(
        f"{packed.files} files, {packed.size:,} bytes in {packed.seconds:.1f} s"
        f" ({packed.size / max(packed.seconds, 1e-9) / 1e6:,.0f} MB/s): {packed.path}"
    )
    if packed.path == packed.hash_path:
        out.progress("\nfor the measured configuration, before its first table:")
        out.say(f'model = "{packed.name}"')
        out.say(f'model_volume = {{ format = "{packed.format}", data_blocks = {packed.data_blocks} }}')
    else:
        out.progress(f"hash area: {packed.hash_path}")
    out.result(
        {
            "ok": True,
            "name": packed.name,
            "listed_as": hashlib.sha256(packed.name.encode()).hexdigest(),
            "root_hash": packed.name.rpartition(":")[2],
            "format": packed.format,
            "data_blocks": packed.data_blocks,
            "file": str(packed.path),
            "hash_file": str(packed.hash_path),
            "hash_offset": packed.hash_offset,
            "bytes": packed.size,
            "files": packed.files,
            "left_out": list(packed.left_out),
            "seconds": round(packed.seconds, 3),
        }
    )


@app.command()
def verify(
    file: FileArgument,
    name: Annotated[str, typer.Argument(help="name@commit:roothash, as the network lists it.")],
    data_blocks: Annotated[int | None, typer.Option(help="As the measured configuration has it.", min=1)] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a whole volume and check that every byte is the named model's."""
    out = Output(as_json=as_json)
    with shown_bytes(out) as progress:
        found = model.verify(file, name, data_blocks=data_blocks, progress=progress, workers=workers)
    out.say(f"{file} is {name}: {found.data_blocks} data blocks, format {found.format}")
    out.result({"ok": True, "name": name, **_values(found)})


@app.command()
def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Say what a volume says of itself; only verify proves it."""
    out = Output(as_json=as_json)
    found = _values(model.show(file))
    for what, value in found.items():
        out.say(f"{what.replace('_', ' ')}: {value}")
    out.result({"ok": True, **found})


def _values(found: model.VolumeSummary) -> dict[str, str | int]:
    return {
        "format": found.format,
        "root_hash": found.root_hash,
        "data_blocks": found.data_blocks,
        "hash_file": str(found.hash_path),
        "hash_offset": found.hash_offset,
        "bytes": found.size,
    }
