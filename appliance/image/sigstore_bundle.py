"""Signatures of people instead of keys: a sigstore bundle beside the manifest, ``manifest.json.sigstore.json``.

In: a manifest's bytes. Out: a bundle (version 0.3, a message signature), or the verdict on one. Whoever signs logs in
where their identity is known; a certificate of minutes then binds that identity to a key used once, and a public log
keeps the signature for everybody to see. Signing needs a network. Verifying needs none: certificate, log entry, the
proof that the log holds it and the log's own signature are all in the bundle, and are judged against a trusted root.

The judging is the library's (sigstore-python); here its errors become ours, and what it reads is bounded. It is
an optional part of this distribution: releases signed with a key alone need nothing of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import DuplicateExtension, ExtensionNotFound

from appliance.image.errors import ImageError
from measurements.manifest import parse_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from sigstore.models import ClientTrustConfig, TrustedRoot

MAX_BUNDLE_BYTES = 256 * 1024
_FAULTS = (
    AttributeError, DuplicateExtension, ExtensionNotFound, InvalidSignature, KeyError, RecursionError, TypeError,
    UnsupportedAlgorithm, ValueError, struct.error,
)  # fmt: skip
"""What the library, and what it stands on, raise for bytes that are no bundle, besides its own errors."""


class SigstoreError(ImageError):
    """A sigstore bundle cannot be made, or does not hold."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature is trusted.

    Attributes:
        identity: As the certificate has it: an e-mail address, or the address of a workflow.
        issuer: Who vouches for that identity, for example ``https://accounts.google.com``. Without it whoever runs any
            issuer that the authority takes could speak for the identity, so there is no default.
    """

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} ({self.issuer})"


def verify_bundle(data: bytes, bundle: bytes, signer: Signer, trusted_root: Path | None = None) -> None:
    """Check that somebody signed these bytes; no network is used.

    Args:
        data: Bytes of ``manifest.json``.
        bundle: Bytes of the bundle.
        signer: Who has to have signed.
        trusted_root: Keys of certificate authority and logs, as sigstore's ``trusted_root.json``; the public instance's
            as the library carries them, or last fetched them, when not given.

    Raises:
        SigstoreError: The library is absent, the root cannot be read, or the bundle does not hold: which part is named.
    """
    _require_library()
    from sigstore.errors import Error  # noqa: PLC0415 - an optional part of the distribution
    from sigstore.models import Bundle  # noqa: PLC0415 - likewise
    from sigstore.verify import Verifier  # noqa: PLC0415 - likewise
    from sigstore.verify.policy import Identity  # noqa: PLC0415 - likewise

    if len(bundle) > MAX_BUNDLE_BYTES:
        raise SigstoreError(f"a sigstore bundle of {len(bundle)} bytes, at most {MAX_BUNDLE_BYTES} are read")
    root = _trusted_root(trusted_root)
    try:
        policy = Identity(identity=signer.identity, issuer=signer.issuer)
        Verifier(trusted_root=root).verify_artifact(data, Bundle.from_json(bundle), policy)
    except (Error, *_FAULTS) as error:
        raise SigstoreError(
            f"the sigstore bundle does not hold for {signer}: {_words(error)}",
            hint="is it this manifest's, signed by that identity, and does the trusted root belong to that log?",
        ) from None


def sign_bundle(data: bytes, config: Path | None = None) -> bytes:
    """Sign a manifest as a person, through the network: as what the surroundings say (a workflow), else by a login.

    Args:
        data: Bytes of ``manifest.json``.
        config: Addresses and keys of another instance than the public one, as sigstore's client trust configuration.

    Returns:
        The bundle.

    Raises:
        ManifestError: ``data`` is no manifest.
        SigstoreError: The library is absent, the network does not answer, or the identity is refused.
    """
    _require_library()
    from requests.exceptions import RequestException  # noqa: PLC0415 - an optional part of the distribution
    from sigstore.errors import Error  # noqa: PLC0415 - likewise
    from sigstore.oidc import (  # noqa: PLC0415 - likewise
        ExpiredIdentity,
        IdentityToken,
        Issuer,
        IssuerError,
        detect_credential,
    )
    from sigstore.sign import SigningContext  # noqa: PLC0415 - likewise

    parse_manifest(data)
    try:
        trust = _trust_config(config)
        raw = detect_credential()
        identity = IdentityToken(raw) if raw else Issuer(trust.signing_config.get_oidc_url()).identity_token()
        with SigningContext.from_trust_config(trust).signer(identity) as signer:
            made: str = signer.sign_artifact(data).to_json()
    except (Error, ExpiredIdentity, IssuerError, RequestException, OSError, *_FAULTS) as error:
        raise SigstoreError(
            f"sigstore did not sign: {_words(error)}",
            hint="this needs the network and a login; with a release key (--key) signing needs neither",
        ) from None
    return made.encode()


def _trust_config(path: Path | None) -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415 - an optional part of the distribution

    if path is None:
        return ClientTrustConfig.production()
    return ClientTrustConfig.from_json(path.read_text(encoding="utf-8"))


def _trusted_root(path: Path | None) -> TrustedRoot:
    from sigstore.errors import Error  # noqa: PLC0415 - an optional part of the distribution
    from sigstore.models import ClientTrustConfig, TrustedRoot  # noqa: PLC0415 - likewise

    try:
        if path is None:
            return ClientTrustConfig.production(offline=True).trusted_root
        return TrustedRoot.from_file(str(path))
    except OSError as error:
        raise SigstoreError(f"{path or 'trusted root'}: {error.strerror}") from None
    except (Error, *_FAULTS) as error:
        raise SigstoreError(
            f"{path or 'the built-in root'} is no trusted root: {_words(error)}",
            hint="it is sigstore's trusted_root.json",
        ) from None


def _require_library() -> None:
    try:
        import sigstore  # noqa: F401, PLC0415 - only whether it is there
    except ModuleNotFoundError:
        raise SigstoreError(
            "sigstore bundles need a library that is not installed",
            hint="pip install 'chrysalis-appliance[sigstore]', or use a release key (--key)",
        ) from None


def _words(error: BaseException) -> str:
    """What went wrong, with what stood behind it, in a line of bounded length."""
    found: list[str] = []
    step: Any = error
    while step is not None and len(found) < 3:
        found.append(f"{step}" or type(step).__name__)
        step = step.__cause__
    return " ".join(": ".join(found).split())[:400]
