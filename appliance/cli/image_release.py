"""What the commands about a release's files share: options, whose signature is asked for, words for the result."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.progress import shown_bytes
from appliance.config import home
from appliance.engine.progress import Progress
from appliance.errors import ConfigError
from appliance.image.release import read_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.cli.output import Output
    from appliance.image.release import Release

ImageOption = Annotated[Path | None, typer.Option("--image", help="Directory of a built image.", file_okay=False)]
ProfileOption = Annotated[str, typer.Option(help="Take the image that was built for this profile.")]
KeyOption = Annotated[
    list[str] | None,
    typer.Option("--key", help="A trusted public key (base64 or hex), or a file with one a line; may be repeated."),
]
UnsignedOption = Annotated[bool, typer.Option("--unsigned", help="Take my own build: ask for no signature.")]
DevelopmentOption = Annotated[
    bool, typer.Option("--development", help="Take debug builds and builds of uncommitted source.")
]


def release_directory(image: Path | None, profile: str) -> Path:
    """Where the image is: as named, or where a build puts it."""
    return (image or home() / "image" / profile).absolute()


def trusted_keys(named: list[str] | None, *, unsigned: bool) -> tuple[bytes, ...] | None:
    """The trusted keys; None where no signature is asked for.

    Raises:
        ConfigError: Neither was said, or both.
    """
    if bool(named) == unsigned:
        raise ConfigError(
            "which key has to have signed the image?" if not named else "--key and --unsigned at once",
            hint="--key names the release key; --unsigned takes your own build",
        )
    return read_keys(named) if named else None


def release_name(release: Release) -> str:
    """A release for people."""
    manifest = release.manifest
    return f"{manifest.image_id} {manifest.profile} release {manifest.release}{' (debug)' if manifest.debug else ''}"


def release_facts(release: Release) -> dict[str, object]:
    """A release for programs."""
    manifest = release.manifest
    return {
        "directory": str(release.directory), "manifest": release.digest.hex(), "profile": manifest.profile,
        "release": manifest.release, "debug": manifest.debug, "signed_by": [key_text(key) for key in release.signers],
        "sigstore": str(release.person) if release.person else None,
        "not_before": manifest.not_before, "expires": manifest.expires,
    }  # fmt: skip


def key_text(raw: bytes) -> str:
    """A public key as it is written everywhere."""
    return base64.b64encode(raw).decode()


@contextmanager
def shown_steps(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """What flashing and exporting report: a step, its bytes so far, all of them."""
    with shown_bytes(output) as report:
        yield lambda step, done, total: report(Progress(step, done, total, "bytes"))
