"""The manifest of a release: what an image is, to the byte, and what it will measure.

In: the bytes of ``manifest.json`` from anywhere, or values from a build. Out: a checked :class:`Manifest`, or its one
encoding. The encoding is canonical JSON (RFC 8785 restricted to printable ASCII and integers below 2^53): keys sorted,
no white space, no final newline. A text is accepted only if encoding its values again gives the same bytes, so two
different files never mean the same release and a signature covers one reading only.

Its form is also a JSON Schema, for programs that are not ours (:mod:`measurements.manifest_schema`). Signatures are
detached and live in :mod:`measurements.signature`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from measurements.errors import MeasurementError
from measurements.manifest_parts import (
    MAX_INTEGER,
    MAX_TIME,
    Artefact,
    BuildRecipe,
    Digest,
    Engine,
    FileName,
    Natural,
    Part,
    Printable,
    Registers,
    UnixTime,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FORMAT",
    "MANIFEST_NAME",
    "MAX_ARTEFACTS",
    "MAX_INTEGER",
    "MAX_LIFETIME_S",
    "MAX_MANIFEST_BYTES",
    "MAX_REGISTER_SETS",
    "MAX_TIME",
    "SIGNATURE_NAME",
    "SIGSTORE_NAME",
    "Artefact",
    "BuildRecipe",
    "Digest",
    "Engine",
    "Manifest",
    "ManifestDateError",
    "ManifestError",
    "Natural",
    "Registers",
    "canonical",
    "date",
    "parse_manifest",
    "sorted_artefacts",
]

FORMAT: Final = "chrysalis image manifest 2"
"""First among the values a reader looks at; no other signed text of this project starts with these keys."""
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
SIGSTORE_NAME = "manifest.json.sigstore.json"
"""The manifest, its signatures by keys, and its signature by a person: never among a release's own files."""
MAX_MANIFEST_BYTES = 1 << 20
MAX_ARTEFACTS = 64
MAX_REGISTER_SETS = 256
MAX_LIFETIME_S = 731 * 24 * 3600
"""Two years. A manifest without an end would let any old release be shown for ever."""


class ManifestError(MeasurementError):
    """A manifest is not what this project writes, or says something that is refused."""


class ManifestDateError(ManifestError):
    """A manifest's time has not begun, or is over."""


class Manifest(Part):
    """A release.

    Attributes:
        image_id: Name of the image family.
        version: Version of the source's distribution.
        release: Number of the release, only ever rising; 0 is a build that nobody released.
        not_before: When it begins to count, Unix seconds; 0 if nobody released it.
        expires: When it ends to count, Unix seconds, at most two years later; 0 if nobody released it.
        profile: What was built, for example ``engine-cpu``.
        debug: Whether it carries the debug profile; every release policy refuses that.
        engine: The model server inside.
        command_line: The kernel command line, whole, as it stands in the UKI.
        root_hash: Root of the verity tree over the root file system.
        source_commit: The commit it was built from; None where the source was no checkout.
        source_modified: Whether the source differed from that commit.
        source_date_epoch: The one time inside the image, seconds since 1970.
        recipe: How to build it again.
        locks: SHA-256 of each lock file, by its path below ``image/lock``, slashes written as ``--``.
        artefacts: The files, sorted by name.
        registers: What machines will report.
    """

    format: Literal["chrysalis image manifest 2"] = FORMAT
    image_id: Word
    version: Word
    release: Natural
    not_before: UnixTime = 0
    expires: UnixTime = 0
    profile: Word
    debug: bool
    engine: Engine
    command_line: Printable
    root_hash: Digest
    source_commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None
    source_modified: bool
    source_date_epoch: Natural
    recipe: BuildRecipe
    locks: Annotated[dict[FileName, Digest], Field(max_length=64)]
    artefacts: Annotated[tuple[Artefact, ...], Field(min_length=1, max_length=MAX_ARTEFACTS, strict=False)]
    registers: Annotated[tuple[Registers, ...], Field(max_length=MAX_REGISTER_SETS, strict=False)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [artefact.name for artefact in self.artefacts]
        if names != sorted(set(names)):
            msg = "artefacts are not sorted by name, or one appears twice"
            raise ValueError(msg)
        if own := {MANIFEST_NAME, SIGNATURE_NAME, SIGSTORE_NAME}.intersection(names):
            msg = f"a manifest cannot list {min(own)}"
            raise ValueError(msg)
        keys = [(entry.platform, entry.boot, entry.shape) for entry in self.registers]
        if keys != sorted(set(keys)):
            msg = "registers are not sorted by platform, boot and shape, or one set appears twice"
            raise ValueError(msg)
        if f"roothash={self.root_hash}" not in self.command_line.split(" "):
            msg = "command_line does not carry the root_hash"
            raise ValueError(msg)
        if self.recipe.profile != self.profile:
            msg = f"recipe builds {self.recipe.profile}, and the manifest is of {self.profile}"
            raise ValueError(msg)
        if self.locks.get("tools.json", self.recipe.tools_lock) != self.recipe.tools_lock:
            msg = "recipe names another tools lock than locks do"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _dated(self) -> Manifest:
        if self.release == 0:
            if self.not_before or self.expires:
                msg = "not_before and expires are a release's, and this is none (release 0)"
                raise ValueError(msg)
        elif not 0 < self.not_before < self.expires <= self.not_before + MAX_LIFETIME_S:
            msg = "a release needs not_before, and expires after it by two years at most"
            raise ValueError(msg)
        return self

    def encode(self) -> bytes:
        """The one encoding of these values."""
        return canonical(self.model_dump(mode="json"))

    def artefact(self, name: str) -> Artefact:
        """The entry of one file.

        Raises:
            ManifestError: The release has no such file.
        """
        for entry in self.artefacts:
            if entry.name == name:
                return entry
        listed = ", ".join(entry.name for entry in self.artefacts)
        raise ManifestError(f"the manifest lists no {name}; it lists {listed}", hint="is this another kind of release?")

    def require_release(self, *, numbered: bool = True) -> None:
        """Refuse what no policy of a release accepts.

        Args:
            numbered: Refuse a build without a release number too; one's own build has none.

        Raises:
            ManifestError: A debug build, a build of modified source, or one without a release number.
        """
        if self.debug:
            raise ManifestError(
                f"{self.profile} is a debug build: it has a console for whoever holds the host",
                hint="use a release build; for development only, ask for it with --development",
            )
        if self.source_modified or self.source_commit is None:
            raise ManifestError(
                f"{self.profile} was built from source that no commit holds; nobody else can rebuild it",
                hint="commit and build again; for development only, ask for it with --development",
            )
        if numbered and self.release == 0:
            raise ManifestError(
                f"{self.profile} has release number 0: a build that nobody released",
                hint="state a release number in the build; for development only, ask for it with --development",
            )

    def require_current(self, now: float) -> None:
        """Refuse a release before its time, or after it. A build that nobody released has none.

        Args:
            now: The clock of whoever asks, Unix seconds.

        Raises:
            ManifestDateError: ``now`` is before ``not_before``, or not before ``expires``.
        """
        if self.release == 0:
            return
        if now < self.not_before:
            raise ManifestDateError(
                f"release {self.release} of {self.profile} counts from {date(self.not_before)}, it is {date(now)}",
                hint="is this clock right? else use the release before until then",
            )
        if now >= self.expires:
            raise ManifestDateError(
                f"release {self.release} of {self.profile} expired at {date(self.expires)}, it is {date(now)}",
                hint="take the manifest of a newer release; is this clock right?",
            )

    def require_newer_than(self, previous: Manifest) -> None:
        """Refuse a release number that does not rise.

        Raises:
            ManifestError: Another image family or profile, or a number not above the previous one.
        """
        if (self.image_id, self.profile) != (previous.image_id, previous.profile):
            raise ManifestError(
                f"{self.image_id}/{self.profile} does not follow {previous.image_id}/{previous.profile}",
                hint="compare releases of one profile",
            )
        if self.release <= previous.release:
            raise ManifestError(
                f"release {self.release} does not follow release {previous.release}: numbers only rise",
                hint="an older image with a newer number is how a known hole would be brought back",
            )


def date(seconds: float) -> str:
    """A Unix time for people, in UTC; times that no calendar has stay numbers."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values (see the module's first lines)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest from bytes of any origin.

    Raises:
        ManifestError: Too long, not JSON, unknown, missing or wrong values (each is named), or not canonical.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"a manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are read")
    try:
        value = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the manifest is not JSON in ASCII: {type(error).__name__}") from None
    if isinstance(value, dict) and value.get("format") != FORMAT:
        raise ManifestError(
            f"format {str(value.get('format', 'none'))[:40]!r}, expected {FORMAT!r}",
            hint="it was made by another version of this project: build again, or use that version",
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise ManifestError(f"the manifest is malformed: {_faults(error)}") from None
    if manifest.encode() != data:
        raise ManifestError(
            "the manifest is not in its canonical form: encoding its values again gives other bytes",
            hint="take the file as it was published; editors and formatters change it",
        )
    return manifest


def sorted_artefacts(entries: Iterable[Artefact]) -> tuple[Artefact, ...]:
    """Entries in the order a manifest has them."""
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _faults(error: ValidationError) -> str:
    found = [f"{'.'.join(str(step) for step in item['loc']) or 'file'}: {item['msg']}" for item in error.errors()[:4]]
    more = error.error_count() - len(found)
    return "; ".join(found)[:600] + (f"; and {more} more" if more > 0 else "")
