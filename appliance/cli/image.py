"""``chrysalis image``: the image as files; signed, checked, put onto disks, exported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.boot.configuration import Handed, check
from appliance.boot.volume import GAS_KEY, TEXTS
from appliance.cli.image_build import build_command, check_command, fetch_command
from appliance.cli.image_release import (
    DevelopmentOption,
    ImageOption,
    KeyOption,
    ProfileOption,
    UnsignedOption,
    release_directory,
    release_facts,
    release_name,
    shown_steps,
    trusted_keys,
)
from appliance.cli.image_sign import keygen_command, publish_command, sign_command, verify_command
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from appliance.image.export import NEXT, Form, export
from appliance.image.flash import Extra, flash
from appliance.image.release import open_release
from appliance.image.sizes import parse_size, shown_size
from appliance.image.target import describe_device, is_device
from appliance.keys import read_secret

app = typer.Typer(help="The image as files: signed, checked, put onto disks, exported.", no_args_is_help=True)
app.command("fetch")(fetch_command)
app.command("build")(build_command)
app.command("check")(check_command)
app.command("keygen")(keygen_command)
app.command("sign")(sign_command)
app.command("verify")(verify_command)
app.command("publish")(publish_command)

MAX_TEXT_BYTES = 256 * 1024


@app.command("flash")
def flash_image(
    to: Annotated[Path, typer.Option("--to", help="A whole disk (/dev/…), or a file.")],
    image: ImageOption = None,
    profile: ProfileOption = "engine-cpu",
    key: KeyOption = None,
    unsigned: UnsignedOption = False,
    development: DevelopmentOption = False,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="measured.toml, owner.toml, host.toml and perhaps gas.key, by these names; repeat it."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model volume (chrysalis model pack).", dir_okay=False)] = None,
    state: Annotated[
        str | None, typer.Option(help="Size of a partition that survives, for example 20G; 0 takes the rest.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of a file to be made, for example 8G.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="What the disk or file holds may be lost.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the image to a disk or file: signature first, digest while writing, read back from the medium."""
    output = Output(as_json=as_json)
    release = open_release(
        release_directory(image, profile), trusted_keys(key, unsigned=unsigned), development=development
    )
    extra = Extra(_configuration(config) if config else None, model, parse_size(state) if state else None)
    overwrite = yes or _agreed(to, output)
    with shown_steps(output) as report:
        done = flash(release, to, extra, report, overwrite=overwrite, size=parse_size(size) if size else None)
    output.table("partitions", ("label", "size"), [(label, shown_size(length)) for label, length in done.partitions])
    past = "past the page cache" if done.direct else "after the caches were dropped"
    output.say(f"{release_name(release)} is on {to} ({done.about}); read back {past} and equal")
    next_step = _next_step(to, extra)
    output.say(next_step)
    output.result({
        "ok": True, **release_facts(release), "target": str(to), "size": done.size, "image_bytes": done.image_bytes,
        "sha256": done.sha256, "partitions": dict(done.partitions), "direct": done.direct, "next": next_step,
    })  # fmt: skip


@app.command("export")
def export_image(
    form: Annotated[Form, typer.Option("--format", help="raw, qcow2, vhd (Azure) or gcp-tar (Google Cloud).")],
    to: Annotated[Path, typer.Option("--output", "-o", help="The file to make, or a directory for it.")] = Path(),
    image: ImageOption = None,
    profile: ProfileOption = "engine-cpu",
    key: KeyOption = None,
    unsigned: UnsignedOption = False,
    development: DevelopmentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the image's disk in the form that somebody's import takes; the same release gives the same bytes."""
    output = Output(as_json=as_json)
    release = open_release(
        release_directory(image, profile), trusted_keys(key, unsigned=unsigned), development=development
    )
    with shown_steps(output) as report:
        made = export(release, form, to, report, tell=output.progress)
    output.say(f"{made.path}: {shown_size(made.size)}, disk of {shown_size(made.disk)}, SHA-256 {made.sha256}")
    output.say(f"next: {NEXT[form]}")
    output.result({
        "ok": True, **release_facts(release), "format": form.value, "file": str(made.path), "size": made.size,
        "sha256": made.sha256, "disk": made.disk, "next": NEXT[form],
    })  # fmt: skip


def _configuration(files: list[Path]) -> dict[str, bytes]:
    """The configuration's members, checked as the guest will check them."""
    members: dict[str, bytes] = {}
    for path in files:
        if path.name not in {*TEXTS, GAS_KEY} or path.name in members:
            raise ConfigError(
                f"{path}: expected each of {', '.join(TEXTS)} and perhaps {GAS_KEY}, once, by these names"
            )
        members[path.name] = read_secret(path, "gas key") if path.name == GAS_KEY else _text(path)
    check(Handed("volume", members))
    return members


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError(f"{path}: more than {MAX_TEXT_BYTES} bytes", hint="this is not a configuration file")
    return data


def _agreed(to: Path, output: Output) -> bool:
    """Ask a person at a terminal; a program says --yes."""
    if not is_device(to) or output.as_json or not sys.stdin.isatty():
        return False
    return typer.confirm(f"Everything on {to} ({describe_device(to.resolve())}) will be lost. Go on?")


def _next_step(to: Path, extra: Extra) -> str:
    first = "put the disk into its machine" if is_device(to) else "copy the file to a disk, or attach it to a machine"
    config = "" if extra.configuration else " attach a configuration volume (serial chrysalis-config);"
    return (
        f"next: {first}; in its firmware: UEFI, TPM or confidential guest on, this disk first;{config} "
        "after the start its stages are at https://ADDRESS:9443/v1/stages"
    )
