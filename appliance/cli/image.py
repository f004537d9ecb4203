"""``chrysalis image``: the image as files; signed, checked, put onto disks, exported."""

from __future__ import annotations

import base64
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.boot.configuration import Handed, check
from appliance.boot.volume import GAS_KEY, TEXTS
from appliance.cli.image_build import build_command, check_command, fetch_command
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown_bytes
from appliance.config import home
from appliance.engine.progress import Progress
from appliance.errors import ConfigError
from appliance.image.export import NEXT, Form, export
from appliance.image.flash import Extra, flash
from appliance.image.release import Person, Release, open_release, read_keys, sign, verify_files
from appliance.image.sigstore_bundle import Signer, sign_bundle
from appliance.image.sizes import parse_size, shown_size
from appliance.image.target import describe_device, is_device
from appliance.keys import new_key, read_key, read_secret
from measurements.manifest import SIGNATURE_NAME, SIGSTORE_NAME, ManifestDateError, date

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = typer.Typer(help="The image as files: signed, checked, put onto disks, exported.", no_args_is_help=True)
app.command("fetch")(fetch_command)
app.command("build")(build_command)
app.command("check")(check_command)

MAX_TEXT_BYTES = 256 * 1024

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


@app.command("keygen")
def make_key(
    file: Annotated[Path, typer.Argument(help="The key file to make (mode 0600).")],
    as_json: JsonOption = False,
) -> None:
    """Make a release key; prints its public key, which others name with --key."""
    output = Output(as_json=as_json)
    public = _b64(new_key(file).public_key().public_bytes_raw())
    file.with_name(f"{file.name}.pub").write_text(f"ed25519 {public}\n")
    output.say(f"public key: {public}, in {file}.pub")
    output.result({"ok": True, "public_key": public})


@app.command("sign")
def sign_release(
    key: Annotated[Path | None, typer.Option(help="The release key's file (chrysalis image keygen).")] = None,
    sigstore: Annotated[
        bool, typer.Option("--sigstore", help="Sign as a person, by a login and a public log; needs the network.")
    ] = False,
    image: ImageOption = None,
    profile: ProfileOption = "engine-cpu",
    previous: Annotated[
        Path | None, typer.Option(help="The manifest of the release before: this one's number has to be higher.")
    ] = None,
    development: DevelopmentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sign an image's manifest, after checking every file against it."""
    output = Output(as_json=as_json)
    if key is None and not sigstore:
        raise ConfigError("who signs?", hint="--key FILE, --sigstore, or both")
    secret = read_key(key, "release key") if key else None
    bundle = sign_bundle if sigstore else None
    with _shown(output) as report:
        release = sign(
            _directory(image, profile), secret, report, bundle=bundle, previous=previous, development=development
        )
    signers = [_b64(secret.public_key().public_bytes_raw())] if secret else []
    for public in signers:
        output.say(f"signed {_named(release)} with {public}: {release.directory / SIGNATURE_NAME}")
    if sigstore:
        output.say(f"signed {_named(release)} as a person: {release.directory / SIGSTORE_NAME}")
    output.result({"ok": True, **_facts(release), "signed_by": signers})


@app.command("verify")
def verify_release(
    directory: Annotated[Path, typer.Argument(help="Directory of an image.")],
    key: KeyOption = None,
    unsigned: UnsignedOption = False,
    identity: Annotated[
        str | None, typer.Option(help="Who has to have signed by sigstore: an e-mail address or a workflow's.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="Who vouches for that identity, https://…")] = None,
    trusted_root: Annotated[
        Path | None, typer.Option(help="sigstore's trusted_root.json; the library's own by default.", dir_okay=False)
    ] = None,
    development: DevelopmentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check an image's signatures and every file against its manifest; without a network."""
    output = Output(as_json=as_json)
    person = _person(identity, issuer, trusted_root)
    keys = None if person and not key and not unsigned else _keys(key, unsigned=unsigned)
    release = open_release(directory, keys, person=person, development=development)
    with _shown(output) as report:
        verify_files(release, report)
    signers = [*(_b64(signer) for signer in release.signers), *([str(release.person)] if release.person else [])]
    by = ", ".join(signers) or "nobody's signature was asked for"
    output.say(f"{_named(release)}: {len(release.manifest.artefacts)} files are as the manifest says; signed by: {by}")
    output.say(_dates(release, time.time()))
    output.result({"ok": True, **_facts(release)})


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
    release = open_release(_directory(image, profile), _keys(key, unsigned=unsigned), development=development)
    extra = Extra(_configuration(config) if config else None, model, parse_size(state) if state else None)
    overwrite = yes or _agreed(to, output)
    with _shown(output) as report:
        done = flash(release, to, extra, report, overwrite=overwrite, size=parse_size(size) if size else None)
    output.table("partitions", ("label", "size"), [(label, shown_size(length)) for label, length in done.partitions])
    past = "past the page cache" if done.direct else "after the caches were dropped"
    output.say(f"{_named(release)} is on {to} ({done.about}); read back {past} and equal")
    next_step = _next_step(to, extra)
    output.say(next_step)
    output.result({
        "ok": True, **_facts(release), "target": str(to), "size": done.size, "image_bytes": done.image_bytes,
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
    release = open_release(_directory(image, profile), _keys(key, unsigned=unsigned), development=development)
    with _shown(output) as report:
        made = export(release, form, to, report, tell=output.progress)
    output.say(f"{made.path}: {shown_size(made.size)}, disk of {shown_size(made.disk)}, SHA-256 {made.sha256}")
    output.say(f"next: {NEXT[form]}")
    output.result({
        "ok": True, **_facts(release), "format": form.value, "file": str(made.path), "size": made.size,
        "sha256": made.sha256, "disk": made.disk, "next": NEXT[form],
    })  # fmt: skip


def _directory(image: Path | None, profile: str) -> Path:
    return (image or home() / "image" / profile).absolute()


def _keys(named: list[str] | None, *, unsigned: bool) -> tuple[bytes, ...] | None:
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


def _person(identity: str | None, issuer: str | None, trusted_root: Path | None) -> Person | None:
    """Who has to have signed by sigstore.

    Raises:
        ConfigError: An identity without who vouches for it, or the other way round.
    """
    if identity is None and issuer is None and trusted_root is None:
        return None
    if not identity or not issuer:
        raise ConfigError(
            "--identity and --issuer belong together",
            hint="without the issuer anybody whose issuer the authority takes could claim the identity",
        )
    return Person(Signer(identity, issuer), trusted_root)


def _dates(release: Release, now: float) -> str:
    """Whether a release counts now, in words."""
    manifest = release.manifest
    try:
        manifest.require_current(now)
    except ManifestDateError as error:
        return f"note: {error}"
    return f"it counts until {date(manifest.expires)}" if manifest.expires else "it has no dates: nobody released it"


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


def _named(release: Release) -> str:
    manifest = release.manifest
    return f"{manifest.image_id} {manifest.profile} release {manifest.release}{' (debug)' if manifest.debug else ''}"


def _facts(release: Release) -> dict[str, object]:
    manifest = release.manifest
    return {
        "directory": str(release.directory), "manifest": release.digest.hex(), "profile": manifest.profile,
        "release": manifest.release, "debug": manifest.debug, "signed_by": [_b64(key) for key in release.signers],
        "sigstore": str(release.person) if release.person else None,
        "not_before": manifest.not_before, "expires": manifest.expires,
    }  # fmt: skip


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@contextmanager
def _shown(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """What flashing and exporting report: a step, its bytes so far, all of them."""
    with shown_bytes(output) as report:
        yield lambda step, done, total: report(Progress(step, done, total, "bytes"))
