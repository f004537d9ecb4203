"""The first step: the manifest that is audited, its signatures before a value of it is used, and its commit."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.audit.errors import AuditError, UncheckedError
from appliance.audit.outcome import Finding, Step
from measurements.errors import ChrysalisError
from measurements.manifest import MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest, ManifestDateError, parse_manifest
from measurements.signature import MAX_SIGNATURE_BYTES, ManifestSignatureError, verify_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.audit.request import AuditRequest

NAME = "manifest"
TITLE = "The manifest"


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
        AuditError: The file cannot be read.
        ManifestError: It is no manifest.
    """
    data = read_bounded(request.manifest, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    findings: list[Finding] = []
    signers: tuple[bytes, ...] = ()
    if request.keys:
        path = request.signature or request.manifest.with_name(SIGNATURE_NAME)
        signed = read_bounded(path, MAX_SIGNATURE_BYTES)
        try:
            manifest, signers = verify_manifest(data, signed, request.keys)
        except ManifestSignatureError as error:
            manifest = parse_manifest(data)
            findings.append(Finding(request.manifest.name, error.message, error.hint))
    else:
        manifest = parse_manifest(data)
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


def read_bounded(path: Path, limit: int) -> bytes:
    """A file of at most so many bytes.

    Raises:
        AuditError: It cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise AuditError(f"{path}: more than {limit} bytes")
    return data


def read_known(path: Path) -> Manifest:
    """Another manifest, which only serves to explain what a registry lists.

    Raises:
        AuditError: It cannot be read or is none.
    """
    try:
        return parse_manifest(read_bounded(path, MAX_MANIFEST_BYTES))
    except ChrysalisError as error:
        raise AuditError(f"{path}: {error.message}", hint=error.hint) from None


def _summary(manifest: Manifest, signers: str) -> str:
    signed = f"signed by {signers}" if signers else "its signature was not asked for"
    return (
        f"{len(manifest.artefacts)} files, {len(manifest.registers)} register sets, "
        f"commit {manifest.source_commit or 'none'}; {signed}"
    )
