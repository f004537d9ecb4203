"""The policy language: what a policy file may say, as data. What becomes of it is :mod:`attestation.policies.build`'s.

Every key is optional but ``name``, and what is not known is refused. Bytes are hex. Sections of platforms speak of
machines of that platform only; ``platforms`` says which of them are taken at all. ``[[any]]`` and ``[[all]]`` hold
further demands with the same keys; of ``any`` at least one has to hold as a whole.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from attestation.errors import PolicyError
from attestation.policies import require as expressions
from attestation.policies.platforms import Azure, Gcp, Gpu, Snp, Tdx, Tpm
from attestation.policies.types import (
    MAX_ITEMS,
    Hash32,
    Part,
    PlatformName,
    PublicKey,
    RegisterHash,
    RegisterName,
    Rtmr,
    Text,
    Word,
)

SOURCES: Final = ("images", "registers", "signature", "registry")
DEFAULT_PLATFORMS: Final[tuple[PlatformName, ...]] = ("tdx", "snp", "azure", "gcp")
SECTIONS: Final = ("measurements", "machines", "gpu", "event_log", "freshness")
RootFiles = Annotated[tuple[Path, ...], Field(max_length=8)]
EventPlace = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,3})$")]
"""A number as keys of TOML and JSON are."""

Section: TypeAlias = Literal["measurements", "machines", "gpu", "event_log", "freshness"]


class SignedManifest(Part):
    """A release's manifest and the keys that have to have signed it.

    Attributes:
        file: ``manifest.json``; a relative path is taken from the policy's directory.
        signature: The detached signatures; by default beside the manifest with ``.sig`` at the end.
        keys: Public keys that are trusted, base64 or hex.
        threshold: How many of them have to have signed.
        development: Take a debug build, or one without a release number.
        boot: Ways to boot that are allowed, ``disk`` and ``direct``.
    """

    file: Path
    signature: Path | None = None
    keys: Annotated[tuple[PublicKey, ...], Field(min_length=1, max_length=16)]
    threshold: Annotated[int, Field(ge=1, le=16)] = 1
    development: bool = False
    boot: Annotated[tuple[Literal["disk", "direct"], ...], Field(min_length=1)] = ("disk", "direct")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.threshold > len(set(self.keys)):
            msg = f"threshold {self.threshold} with {len(set(self.keys))} keys"
            raise ValueError(msg)
        return self


class RegisterSet(Part):
    """Values of registers that belong together, for example ``{platform = "tdx", mr_td = "…", rtmr1 = "…"}``."""

    platform: PlatformName
    name: Word = "stated registers"
    values: Annotated[dict[RegisterName, RegisterHash], Field(min_length=1, max_length=64)]


class Measurements(Part):
    """Which images may run, by who says so.

    Attributes:
        require: Which of the sources below have to agree, for example ``"registry and signature"``; needed as soon as
            more than one of them is stated.
        images: Image hashes.
        registers: Sets of register values.
        manifests: Signed manifests: their registers are allowed (source ``signature``).
        registry: Ask the root contract (source ``registry``); whoever verifies gives the view of it.
    """

    require: str | None = None
    images: Annotated[tuple[Hash32, ...], Field(max_length=MAX_ITEMS)] = ()
    registers: Annotated[tuple[RegisterSet, ...], Field(max_length=256)] = ()
    manifests: Annotated[tuple[SignedManifest, ...], Field(max_length=16)] = ()
    registry: bool = False

    @property
    def stated(self) -> tuple[str, ...]:
        """The sources that this section names."""
        given = {
            "images": bool(self.images),
            "registers": bool(self.registers),
            "signature": bool(self.manifests),
            "registry": self.registry,
        }
        return tuple(name for name in SOURCES if given[name])

    def expression(self) -> expressions.Expression:
        """What has to hold.

        Raises:
            PolicyError: Several sources without saying how they go together.
        """
        if self.require is not None:
            return expressions.parse(self.require, SOURCES)
        if len(self.stated) != 1:
            raise PolicyError(
                f"measurements name {', '.join(self.stated) or 'no source'}, and no 'require' says what has to hold",
                hint='for example require = "registry and signature"',
            )
        return expressions.Name(self.stated[0])

    @model_validator(mode="after")
    def _whole(self) -> Self:
        try:
            names = set(expressions.used(self.expression()))
        except PolicyError as error:
            raise ValueError(str(error)) from None
        unused = set(self.stated) - names
        if unused:
            msg = f"{', '.join(sorted(unused))} is stated and 'require' does not use it"
            raise ValueError(msg)
        return self


class StatedEvents(Part):
    """Events of one register, by exact digest: an event's type and text are not authenticated and decide nothing.

    Attributes:
        register: ``rtmr0`` to ``rtmr3``, or ``pcr0`` to ``pcr23``.
        at: Digests of which the event at that place (from 0) is one. What ran later cannot change it.
        contains: Digests that all have to be there, in any order. Whoever takes the guest over can still add them.
        only: Digests of which every event's is one.
        exactly: The digests of all events, in order.
    """

    register_name: Annotated[
        str, StringConstraints(pattern=r"^(rtmr[0-3]|pcr([0-9]|1[0-9]|2[0-3]))$"), Field(alias="register")
    ]
    at: dict[EventPlace, Annotated[frozenset[RegisterHash], Field(min_length=1, max_length=MAX_ITEMS)]] = Field(
        default_factory=dict, max_length=MAX_ITEMS
    )
    contains: Annotated[tuple[RegisterHash, ...], Field(max_length=MAX_ITEMS)] = ()
    only: Annotated[frozenset[RegisterHash], Field(max_length=MAX_ITEMS)] | None = None
    exactly: Annotated[tuple[RegisterHash, ...], Field(max_length=MAX_ITEMS)] | None = None

    @model_validator(mode="after")
    def _demands(self) -> Self:
        if not self.at and not self.contains and self.only is None and self.exactly is None:
            msg = "demands nothing: state 'at', 'contains', 'only' or 'exactly'"
            raise ValueError(msg)
        return self


class EventLogDemands(Part):
    """What the event log has to say; that it replays is demanded either way where there is one.

    Attributes:
        required: A machine without a log is refused.
        rules: What the events of a register have to be.
        boot_sequence: Whether a TD's firmware has to have ended as it should, each separator measured once and boot
            services left; or how many separators each register has, where firmware measures others than today's.
    """

    required: bool = True
    rules: Annotated[tuple[StatedEvents, ...], Field(max_length=64)] = ()
    boot_sequence: bool | dict[Rtmr, Annotated[int, Field(ge=0, le=16)]] = False


class Freshness(Part):
    """How old evidence may be.

    Attributes:
        max_age_s: Seconds between the time that a bundle states and the time of the judgement.
        anchored: Its digest has to be on chain: only that proves that it was not made later than it says.
        anchored_within_s: Seconds between the stated time and the anchor's, at most.
    """

    max_age_s: Annotated[float, Field(gt=0)] | None = None
    anchored: bool = False
    anchored_within_s: Annotated[float, Field(gt=0)] = 86400.0


class StatedWorkload(Part):
    """What the workload statement has to say."""

    role: Literal["worker", "gateway", "client", "status"] | None = None
    model: Text | None = None
    model_hash: Hash32 | None = None
    measured_config: Hash32 | None = None
    root_contract: Text | None = None
    owner: Text | None = None
    chain: Hash32 | None = None


class Demands(Part):
    """What can be demanded, of a whole policy and of each part of ``any`` and ``all``."""

    measurements: Measurements | None = None
    workload: StatedWorkload | None = None
    tdx: Tdx | None = None
    snp: Snp | None = None
    azure: Azure | None = None
    gcp: Gcp | None = None
    tpm: Tpm | None = None
    gpu: Gpu | None = None
    event_log: EventLogDemands | None = None
    any: Annotated[tuple["NamedDemands", ...], Field(max_length=32)] = ()
    all: Annotated[tuple["NamedDemands", ...], Field(max_length=32)] = ()

    @property
    def asks_registry(self) -> bool:
        """Whether something in it asks the root contract."""
        own = self.measurements is not None and "registry" in expressions.used(self.measurements.expression())
        return own or any(part.asks_registry for part in (*self.any, *self.all))


class NamedDemands(Demands):
    """A part of ``any`` or ``all``: demands with a name for people; ``platforms`` limits it to machines of those."""

    name: Word
    platforms: Annotated[tuple[PlatformName, ...], Field(min_length=1)] | None = None


class SimulatedRoots(Part):
    """Roots made for a run, DER or PEM files. A verdict that rests on one says "no assurance" first.

    Attributes:
        tdx: Of TDX quotes.
        snp: Of SEV-SNP reports, Azure's too.
        gcp: Of the keys of Google's vTPMs.
        tpm: Of attestation keys of TPMs.
        gpu: Of devices.
        rim: Of the devices' reference manifests.
    """

    tdx: RootFiles = ()
    snp: RootFiles = ()
    gcp: RootFiles = ()
    tpm: RootFiles = ()
    gpu: RootFiles = ()
    rim: RootFiles = ()


class PolicyDocument(Demands):
    """A whole policy.

    Attributes:
        version: 1.
        name: What verdicts call it.
        about: Why it is as it is, for people.
        extends: A built-in policy whose keys hold where this one states none.
        platforms: Which machines are taken at all.
        freshness: How old evidence may be.
        not_needed: Sections that this policy leaves out on purpose, each with the reason; verdicts repeat it.
        simulated: Roots made for a run instead of the makers' own.
    """

    version: Literal[1] = 1
    name: Word
    about: Annotated[str, StringConstraints(max_length=4000)] = ""
    extends: Word | None = None
    platforms: Annotated[tuple[PlatformName, ...], Field(min_length=1)] = DEFAULT_PLATFORMS
    freshness: Freshness | None = None
    not_needed: dict[Section, Text] = Field(default_factory=dict)
    simulated: SimulatedRoots | None = None

    @property
    def lists_machines(self) -> bool:
        """Whether some section of its own names machines."""
        sections = (self.tdx, self.snp, self.gcp, self.tpm)
        return any(section is not None and section.machines is not None for section in sections)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for section in self.not_needed:
            demanded = self.lists_machines if section == "machines" else getattr(self, section) is not None
            if demanded:
                msg = f"{section} is demanded, and stated as not needed"
                raise ValueError(msg)
        return self
