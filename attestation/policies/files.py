"""Files that a policy names: bounded reads, root certificates, signed manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import PolicyError
from attestation.policies.rules import ReferenceSet
from measurements.errors import MeasurementError
from measurements.signature import verify_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.policies.model import SignedManifest

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


def references_of(stated: SignedManifest, directory: Path) -> tuple[ReferenceSet, ...]:
    """The registers of a signed manifest, once its signatures hold.

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
    name = f"{manifest.image_id} {manifest.profile} release {manifest.release}"
    by = "1 signature" if len(signers) == 1 else f"{len(signers)} signatures"
    return tuple(
        ReferenceSet(
            entry.platform,
            f"{name} ({entry.boot} boot, shape {entry.shape}; {by})",
            {register: bytes.fromhex(value) for register, value in entry.values.items()},
        )
        for entry in manifest.registers
        if entry.boot in stated.boot
    )
