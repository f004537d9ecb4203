"""Files that a policy names: bounded reads, root certificates, signed manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import PolicyError
from attestation.policies.references import ReferenceSet
from measurements.errors import MeasurementError
from measurements.signature import verify_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from attestation.policies.model import SignedManifest
    from measurements.manifest import Manifest

MAX_FILE = 1 << 20


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """A file that a policy names.

    Raises:
        PolicyError: It cannot be read or is too long.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}", hint="paths are taken from the policy's directory") from None
    if len(data) > limit:
        raise PolicyError(f"{path} is over {limit} bytes")
    return data


def read_root(path: Path) -> bytes:
    """A root certificate as DER, from DER or PEM.

    Raises:
        PolicyError: It cannot be read or is no certificate.
    """
    data = read_file(path)
    try:
        if data.startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        x509.load_der_x509_certificate(data)
    except ValueError:
        raise PolicyError(f"{path} is not a certificate", hint="a root is one DER or PEM certificate") from None
    return data


def open_signed(stated: SignedManifest, directory: Path) -> tuple[Manifest, tuple[bytes, ...]]:
    """A signed manifest, once its signatures hold.

    Its dates are not looked at here: a policy outlives them, so its rules compare them with the time of each judgement.

    Returns:
        The manifest, and the trusted keys that signed it.

    Raises:
        PolicyError: A file cannot be read, too few trusted keys signed it, or no release policy takes it.
    """
    path = directory / stated.file
    signature = directory / stated.signature if stated.signature else path.with_name(path.name + ".sig")
    try:
        manifest, signers = verify_manifest(read_file(path), read_file(signature), stated.keys)
        if not stated.development:
            manifest.require_release()
    except MeasurementError as error:
        raise PolicyError(f"manifest {path}: {error.message}", hint=error.hint) from None
    if len(signers) < stated.threshold:
        raise PolicyError(
            f"manifest {path} is signed by {len(signers)} of the trusted keys, expected {stated.threshold}",
            hint="one stolen key is not enough on purpose: have the others sign it",
        )
    return manifest, signers


def reference_sets(manifest: Manifest, signers: Sequence[bytes], boots: Collection[str]) -> tuple[ReferenceSet, ...]:
    """The registers of a release: a set for each platform, way to boot and shape.

    A set that leaves open which image runs (a firmware's registers alone) vouches for nothing and is left out.

    Args:
        manifest: The release.
        signers: The trusted keys that signed it.
        boots: The ways to boot that are taken, ``disk`` and ``direct``.
    """
    name = f"{manifest.image_id} {manifest.profile} release {manifest.release}"
    by = "1 signature" if len(signers) == 1 else f"{len(signers)} signatures"
    return tuple(
        ReferenceSet(
            entry.platform,
            f"{name} ({entry.boot} boot, shape {entry.shape}; {by})",
            {register: bytes.fromhex(value) for register, value in entry.values.items()},
            manifest,
        )
        for entry in manifest.registers
        if entry.boot in boots and entry.decides_image
    )
