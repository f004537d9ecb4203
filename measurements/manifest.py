"""The manifest of a release: what an image is, to the byte, and what it will measure.

In: the bytes of ``manifest.json`` from anywhere, or values from a build. Out: a checked :class:`Manifest`, or its one
encoding. The encoding is canonical JSON (RFC 8785 restricted to printable ASCII and integers below 2^53): keys sorted,
no white space, no final newline. A text is accepted only if encoding its values again gives the same bytes, so two
different files never mean the same release and a signature covers one reading only.

Signatures are detached and live in :mod:`measurements.signature`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from measurements.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = "chrysalis image manifest 1"
"""First among the values a reader looks at; no other signed text of this project starts with these keys."""
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_ARTEFACTS = 64
MAX_REGISTER_SETS = 256
MAX_INTEGER = 2**53 - 1
"""RFC 8785, section 3.2.2.3: larger integers do not survive every reader."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RegisterValue = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96})$")]
"""SHA-256 or SHA-384, lower-case hex."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$")]
Printable = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,4096}$")]
Natural = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class ManifestError(MeasurementError):
    """A manifest is not what this project writes, or says something that is refused."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Artefact(_Part):
    """One file of the release: its name in the release's directory, length in bytes, SHA-256."""

    name: FileName
    size: Natural
    sha256: Digest


class Engine(_Part):
    """The model server inside the image."""

    name: Word
    version: Word


class Registers(_Part):
    """Predicted registers of one platform, one way to boot and one machine shape.

    ``boot`` is ``disk`` (the firmware finds the image's ESP) or ``direct`` (the host hands over the UKI); ``shape`` is
    ``any`` where the machine's size moves none of these values. Keys of ``values`` are ``pcr4``, ``rtmr1``, ``mrtd``….
    """

    platform: Word
    boot: Literal["disk", "direct"]
    shape: Word = "any"
    values: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,12}[0-9]{0,2}$")], RegisterValue],
        Field(min_length=1, max_length=64),
    ]


class Manifest(_Part):
    """A release.

    Attributes:
        image_id: Name of the image family.
        version: Version of the source's distribution.
        release: Number of the release, only ever rising; 0 is a build that nobody released.
        profile: What was built, for example ``engine-cpu``.
        debug: Whether it carries the debug profile; every release policy refuses that.
        engine: The model server inside.
        command_line: The kernel command line, whole, as it stands in the UKI.
        root_hash: Root of the verity tree over the root file system.
        source_commit: The commit it was built from; None where the source was no checkout.
        source_modified: Whether the source differed from that commit.
        source_date_epoch: The one time inside the image, seconds since 1970.
        locks: SHA-256 of each lock file, by its path below ``image/lock``, slashes written as ``--``.
        artefacts: The files, sorted by name.
        registers: What machines will report.
    """

    format: Literal["chrysalis image manifest 1"] = FORMAT
    image_id: Word
    version: Word
    release: Natural
    profile: Word
    debug: bool
    engine: Engine
    command_line: Printable
    root_hash: Digest
    source_commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None
    source_modified: bool
    source_date_epoch: Natural
    locks: Annotated[dict[FileName, Digest], Field(max_length=64)]
    artefacts: Annotated[tuple[Artefact, ...], Field(min_length=1, max_length=MAX_ARTEFACTS, strict=False)]
    registers: Annotated[tuple[Registers, ...], Field(max_length=MAX_REGISTER_SETS, strict=False)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [artefact.name for artefact in self.artefacts]
        if names != sorted(set(names)):
            msg = "artefacts are not sorted by name, or one appears twice"
            raise ValueError(msg)
        if MANIFEST_NAME in names or SIGNATURE_NAME in names:
            msg = f"a manifest cannot list {MANIFEST_NAME} or {SIGNATURE_NAME}"
            raise ValueError(msg)
        keys = [(entry.platform, entry.boot, entry.shape) for entry in self.registers]
        if keys != sorted(set(keys)):
            msg = "registers are not sorted by platform, boot and shape, or one set appears twice"
            raise ValueError(msg)
        if f"roothash={self.root_hash}" not in self.command_line.split(" "):
            msg = "command_line does not carry the root_hash"
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

    def registers_for(self, platform: str, boot: str, shape: str = "any") -> Registers:
        """The predicted registers of a platform and way to boot; a set for ``any`` shape serves every shape.

        Raises:
            ManifestError: The release predicts none.
        """
        for wanted in (shape, "any"):
            for entry in self.registers:
                if (entry.platform, entry.boot, entry.shape) == (platform, boot, wanted):
                    return entry
        raise ManifestError(f"the manifest predicts no registers for {platform}, {boot} boot, shape {shape}")

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
