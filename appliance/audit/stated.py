"""The first step: the manifest that is audited, its signatures before a value of it is used, and its commit."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.audit.errors import AuditError, UncheckedError
from appliance.audit.outcome import Finding, Step
from appliance.image.published import REFERENCE
from measurements.manifest import (
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    Manifest,
    ManifestDateError,
    ManifestError,
    parse_manifest,
)
from measurements.signature import MAX_SIGNATURE_BYTES, ManifestSignatureError, verify_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.audit.request import AuditRequest

NAME = "manifest"
TITLE = "The manifest"
_A_MANIFEST = f"name the manifest.json of a release, as under {REFERENCE}/<profile>/<release>/"
_A_SIGNATURE = f"name the release's {SIGNATURE_NAME} with --signature; it lies beside the manifest"


@dataclass(frozen=True, slots=True)
class Stated:
    """A manifest as it was read.

    Attributes:
        manifest: Its values.
        digest: SHA-256 of its bytes, in hexadecimal.
        step: What the report says of it.
    """

    manifest: Manifest
    digest: str
    step: Step

    @property
    def commit(self) -> str:
        """The commit that it names.

        Raises:
            UncheckedError: It names none, or says that the source was not that commit.
        """
        commit = self.manifest.source_commit
        if commit is None:
            raise UncheckedError(
                "the manifest names no source commit, so nobody can know what to build",
                hint="audit a release; --source-as-it-is compares a tree with it all the same",
            )
        if self.manifest.source_modified:
            raise UncheckedError(
                f"the manifest says that it was built from changes on top of commit {commit}, which nobody else has",
                hint="audit a release; --source-as-it-is compares a tree with it all the same",
            )
        return commit


def read_stated(request: AuditRequest) -> Stated:
    """Read the manifest.

    Raises:
        AuditError: The file or its signatures cannot be read, or it is no manifest.
    """
    data = read_bounded(request.manifest, MAX_MANIFEST_BYTES, hint=_A_MANIFEST)
    digest = hashlib.sha256(data).hexdigest()
    findings: list[Finding] = []
    signers: tuple[bytes, ...] = ()
    if request.keys:
        path = request.signature or request.manifest.with_name(SIGNATURE_NAME)
        signed = read_bounded(path, MAX_SIGNATURE_BYTES, hint=_A_SIGNATURE)
        try:
            _, signers = verify_manifest(data, signed, request.keys)
        except ManifestSignatureError as error:
            findings.append(Finding(request.manifest.name, error.message, error.hint))
        except ManifestError:
            pass  # signed, and still no manifest: refused in the next line, with the file's name
    manifest = _parse(request.manifest, data)
    notes = [] if request.keys else ["nobody's signature was asked for: name the release key with --key"]
    if manifest.debug:
        notes.append("a debug build: it has a console for whoever holds the host, and every release policy refuses it")
    if manifest.release == 0:
        notes.append("release number 0: a build that nobody released")
    try:
        manifest.require_current(time.time())
    except ManifestDateError as error:
        notes.append(f"clients do not take it now: {error.message}")
    by = ", ".join(base64.b64encode(key).decode() for key in signers)
    return Stated(
        manifest,
        digest,
        Step(
            name=NAME,
            title=TITLE,
            status="differs" if findings else "same",
            summary=_summary(manifest, by) if not findings else findings[0].text,
            inputs={
                "file": str(request.manifest),
                "sha256": digest,
                "image": f"{manifest.image_id} {manifest.version}, profile {manifest.profile}",
                "release": str(manifest.release),
                "commit": manifest.source_commit or "none",
                "signed by": by or "not asked",
            },
            findings=tuple(findings),
            notes=tuple(notes),
        ),
    )


def read_bounded(path: Path, limit: int, *, hint: str) -> bytes:
    """A file of at most so many bytes.

    Args:
        path: The file.
        limit: The bytes.
        hint: What is to be named there, for whoever named something else.

    Raises:
        AuditError: It cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror or type(error).__name__}", hint=hint) from None
    if len(data) > limit:
        raise AuditError(f"{path}: more than the {limit} bytes that are read", hint=hint)
    return data


def read_known(path: Path) -> Manifest:
    """Another manifest, which only serves to explain what a registry lists.

    Raises:
        AuditError: It cannot be read or is none.
    """
    return _parse(path, read_bounded(path, MAX_MANIFEST_BYTES, hint=_A_MANIFEST))


def _parse(path: Path, data: bytes) -> Manifest:
    """A manifest, its file named where it is none: several are named to one audit."""
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise AuditError(f"{path}: {error.message}", hint=error.hint or _A_MANIFEST) from None


def _summary(manifest: Manifest, signers: str) -> str:
    signed = f"signed by {signers}" if signers else "its signature was not asked for"
    return (
        f"{len(manifest.artefacts)} files, {len(manifest.registers)} register sets, "
        f"commit {manifest.source_commit or 'none'}; {signed}"
    )
