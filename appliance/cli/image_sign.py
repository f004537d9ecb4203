"""``chrysalis image keygen|sign|verify|publish``: who stands behind a release, and whether its files are its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.image_release import (
    DevelopmentOption,
    ImageOption,
    KeyOption,
    ProfileOption,
    UnsignedOption,
    key_text,
    release_directory,
    release_facts,
    release_name,
    shown_steps,
    trusted_keys,
)
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from appliance.image.published import publish, release_keys
from appliance.image.release import Person, Release, open_release, read_keys, sign, verify_files
from appliance.image.sigstore_bundle import Signer, sign_bundle
from appliance.image.source import SOURCE
from appliance.keys import new_key, read_key
from measurements.manifest import SIGNATURE_NAME, SIGSTORE_NAME, ManifestDateError, date

IdentityOption = Annotated[
    str | None, typer.Option(help="Who has to have signed by sigstore: an e-mail address or a workflow's.")
]
IssuerOption = Annotated[str | None, typer.Option(help="Who vouches for that identity, https://…")]
TrustedRootOption = Annotated[
    Path | None, typer.Option(help="sigstore's trusted_root.json; the library's own by default.", dir_okay=False)
]


def keygen_command(
    file: Annotated[Path, typer.Argument(help="The key file to make (mode 0600).")],
    as_json: JsonOption = False,
) -> None:
    """Make a release key; prints its public key, which others name with --key."""
    output = Output(as_json=as_json)
    public = key_text(new_key(file).public_key().public_bytes_raw())
    file.with_name(f"{file.name}.pub").write_text(f"ed25519 {public}\n")
    output.say(f"public key: {public}, in {file}.pub")
    output.result({"ok": True, "public_key": public})


def sign_command(
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
    with shown_steps(output) as report:
        release = sign(
            release_directory(image, profile), secret, report, bundle=bundle, previous=previous, development=development
        )
    signers = [key_text(secret.public_key().public_bytes_raw())] if secret else []
    for public in signers:
        output.say(f"signed {release_name(release)} with {public}: {release.directory / SIGNATURE_NAME}")
    if sigstore:
        output.say(f"signed {release_name(release)} as a person: {release.directory / SIGSTORE_NAME}")
    output.result({"ok": True, **release_facts(release), "signed_by": signers})


def verify_command(
    directory: Annotated[Path, typer.Argument(help="Directory of an image.")],
    key: KeyOption = None,
    unsigned: UnsignedOption = False,
    identity: IdentityOption = None,
    issuer: IssuerOption = None,
    trusted_root: TrustedRootOption = None,
    development: DevelopmentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check an image's signatures and every file against its manifest; without a network."""
    output = Output(as_json=as_json)
    person = _person(identity, issuer, trusted_root)
    keys = None if person and not key and not unsigned else trusted_keys(key, unsigned=unsigned)
    release = open_release(directory, keys, person=person, development=development)
    with shown_steps(output) as report:
        verify_files(release, report)
    signers = [*(key_text(signer) for signer in release.signers), *([str(release.person)] if release.person else [])]
    by = ", ".join(signers) or "nobody's signature was asked for"
    output.say(
        f"{release_name(release)}: {len(release.manifest.artefacts)} files are as the manifest says; signed by: {by}"
    )
    output.say(_dates(release, time.time()))
    output.result({"ok": True, **release_facts(release)})


def publish_command(
    image: ImageOption = None,
    profile: ProfileOption = "engine-cpu",
    key: KeyOption = None,
    identity: IdentityOption = None,
    issuer: IssuerOption = None,
    trusted_root: TrustedRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a signed manifest into this checkout's measurements/reference, to be committed.

    A sigstore signature goes with it where --identity and --issuer say whose it has to be.
    """
    output = Output(as_json=as_json)
    keys = read_keys(key) if key else release_keys(SOURCE)
    person = _person(identity, issuer, trusted_root)
    release = open_release(release_directory(image, profile), keys, person=person)
    place = publish(release, SOURCE)
    output.say(f"{release_name(release)} is in {place}: review and commit it")
    left_out = [SIGSTORE_NAME] if release.person is None and (release.directory / SIGSTORE_NAME).exists() else []
    for name in left_out:
        output.say(f"left out: {name}, which nobody judged; --identity and --issuer say whose signature it has to be")
    output.result({"ok": True, **release_facts(release), "published": str(place), "left_out": left_out})


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
