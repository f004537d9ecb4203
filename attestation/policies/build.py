"""From a checked policy document to a policy: each key becomes one small rule, named in the verdict.

In: a document, its directory, a registry view. Out: a :class:`~attestation.policy.Policy`. On the platforms that a
policy takes, the rules of a healthy production machine always hold; a section replaces what it states.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attestation import dcap
from attestation.device_rules import StatedDevices
from attestation.devices import Judged
from attestation.errors import PolicyError
from attestation.gpu.roots import GpuRoots
from attestation.policies import machines, require
from attestation.policies.files import open_signed, read_root, reference_sets
from attestation.policies.model import SECTIONS
from attestation.policies.platforms import Azure, Gcp, Snp, Tdx, Tpm
from attestation.policies.references import ReferenceSet, RegistersAre
from attestation.policies.rules import (
    Alternative,
    Anchored,
    EventsAre,
    FreshForm,
    ImageRegistered,
    ImageStated,
    NotNeeded,
    OnPlatform,
)
from attestation.policies.types import PLATFORMS
from attestation.policy import Policy, root_key_id
from attestation.roots import MAKERS, Roots, open_reader
from attestation.rules import AllOf, AnyOf, ByPlatform, InGroup, MaxAge, StatementImage, StatementValues
from attestation.snp.roots import root_key_id as snp_root
from attestation.tdx_log_rules import EDK2_SEPARATORS, BootSequence, log_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from attestation.policies.model import Demands, EventLogDemands, Measurements, PolicyDocument, SignedManifest
    from attestation.rules import RegistryView, Rule
    from measurements.manifest import Manifest

_TDX = ("tdx", "gcp")
_PCR = ("tpm", "azure", "gcp")


@dataclass(frozen=True, slots=True)
class Given:
    """What whoever verifies adds to a document.

    Attributes:
        directory: Relative paths are taken from it.
        registry: The proven view of the root contract, ``None`` if there is none.
        manifests: Signed manifests besides the document's own.
        admit: Told all manifests together once their signatures hold; raises for one that is not to be used, such as
            one that is older than a release that was seen.
    """

    directory: Path = Path()
    registry: RegistryView | None = None
    manifests: tuple[SignedManifest, ...] = ()
    admit: Callable[[Sequence[Manifest]], None] | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What the rules of a document are made from besides its own words.

    Attributes:
        registry: The view of the root contract.
        manifests: Signed manifests besides the document's own.
        signed: Every signed manifest, the document's own and these: what it says, and who signed it.
    """

    registry: RegistryView | None
    manifests: tuple[SignedManifest, ...]
    signed: Mapping[SignedManifest, tuple[Manifest, tuple[bytes, ...]]]

    def references(self, own: tuple[SignedManifest, ...]) -> tuple[ReferenceSet, ...]:
        """The registers of a section's own manifests and of those that whoever verifies gave."""
        return tuple(
            entry
            for stated in (*own, *self.manifests)
            for entry in reference_sets(*self.signed[stated], boots=stated.boot)
        )


def build(document: PolicyDocument, given: Given) -> Policy:
    """Make the policy of a document.

    Raises:
        PolicyError: A file that it names cannot be read, or a manifest's signatures do not hold.
        AttestationError: Simulated roots are none, or too many, or ``given.admit`` refuses a manifest.
    """
    known = _read(document, given)
    roots = _roots(document, given)
    logs = log_rules(required=document.event_log is not None and document.event_log.required)
    tdx = (*machines.tdx_rules(document.tdx or Tdx(), frozenset(map(_tdx_root, roots.tdx))), logs)
    snp = document.snp or Snp()
    by_platform: dict[str, Rule] = {
        "tdx": AllOf(tdx),
        "snp": AllOf(machines.snp_section(snp)),
        "azure": AllOf(machines.azure_section(document.azure or Azure(), snp)),
        "gcp": AllOf(machines.gcp_section(document.gcp or Gcp(), tdx)),
        "tpm": AllOf(machines.tpm_section(document.tpm or Tpm())),
    }
    rules: list[Rule] = [
        ByPlatform({name: by_platform[name] for name in document.platforms}),
        StatementImage(),
        *_demands(document, known),
        *_fresh(document),
    ]
    if document.gpu is not None:
        rules.append(InGroup("gpu", AllOf(machines.gpu_section(document.gpu))))
    if document.event_log is not None:
        rules += [OnPlatform(names, rule) for names, rule in _events(document.event_log)]
    rules += [StatedDevices(), *_left_out(document)]
    return Policy(
        document.name,
        "none" if document.simulated is not None else "hardware",
        open_reader(roots, zero_padding=document.tdx is not None and document.tdx.zero_padding),
        AllOf(tuple(rules)),
        Judged(roots.gpu),
    )


def _roots(document: PolicyDocument, given: Given) -> Roots:
    """The makers' own, or those of a run; never both."""
    stated = document.simulated
    if stated is None:
        return MAKERS

    def read(paths: Sequence[Path]) -> tuple[bytes, ...]:
        return tuple(read_root(given.directory / path) for path in paths)

    devices = GpuRoots(read(stated.gpu), read(stated.rim)) if stated.gpu or stated.rim else None
    return Roots(
        tdx=read(stated.tdx),
        snp=frozenset(snp_root(root) for root in read(stated.snp)),
        tpm=read(stated.tpm),
        gcp=read(stated.gcp),
        gpu=devices,
    )


def _tdx_root(root: bytes | None) -> bytes:
    return dcap.INTEL_ROOT_KEY_ID if root is None else root_key_id(root)


def _read(document: PolicyDocument, given: Given) -> _Known:
    """Every signed manifest, read once, and admitted together."""
    signed = {stated: open_signed(stated, given.directory) for stated in (*_stated(document), *given.manifests)}
    if given.admit is not None and signed:
        given.admit([manifest for manifest, _ in signed.values()])
    return _Known(given.registry, given.manifests, signed)


def _stated(demands: Demands) -> Iterator[SignedManifest]:
    """The manifests that a document names, those of its parts too."""
    if demands.measurements is not None:
        yield from demands.measurements.manifests
    for part in (*demands.all, *demands.any):
        yield from _stated(part)


def _demands(demands: Demands, known: _Known) -> list[Rule]:
    """The rules that a whole document and its parts make in the same way, for machines of every platform."""
    rules: list[Rule] = []
    if demands.measurements is not None:
        rules.append(_measurements(demands.measurements, known))
    stated = {} if demands.workload is None else demands.workload.model_dump(exclude_none=True)
    if stated:
        rules.append(StatementValues(stated))
    rules += [_part(part.name, part.platforms, part, known) for part in demands.all]
    if demands.any:
        rules.append(AnyOf(tuple(_part(part.name, part.platforms, part, known) for part in demands.any)))
    return rules


def _part(name: str, platforms: Sequence[str] | None, part: Demands, known: _Known) -> Rule:
    """A part of ``any`` or ``all``: exactly what it states.

    Raises:
        PolicyError: It demands nothing of machines that it speaks of: every one of them would fulfil it.
    """
    special = _by_platform(part)
    general = _demands(part, known)
    if part.gpu is not None and (devices := machines.stated_gpu(part.gpu)):
        general.append(InGroup("gpu", AllOf(devices)))
    own = tuple(dict.fromkeys(platform for names, _ in special for platform in names))
    taken = tuple(platforms or (own or PLATFORMS))
    empty = [platform for platform in taken if not general and platform not in own]
    if empty:
        raise PolicyError(
            f"part {name!r} demands nothing of machines of {', '.join(empty)}",
            hint="state what they have to be, or leave them out of its platforms",
        )
    rules = [*(OnPlatform(names, rule) for names, rule in special), *general]
    return Alternative(name, taken, AllOf(tuple(rules)))


def _by_platform(part: Demands) -> list[tuple[tuple[str, ...], Rule]]:
    """The rules of a part's sections about machines, each with the platforms that it is for."""
    found: list[tuple[tuple[str, ...], Rule]] = []

    def add(platform: str, rules: Sequence[Rule]) -> None:
        if rules:
            found.append(((platform,), AllOf(tuple(rules))))

    if part.tdx is not None:
        rules = machines.stated_tdx(part.tdx)
        add("tdx", rules)
        add("gcp", machines.of_google_s_tdx(rules) if rules else ())
    if part.snp is not None:
        rules = machines.stated_snp(part.snp)
        add("snp", rules)
        add("azure", machines.of_azure_s_processor(rules) if rules else ())
    if part.azure is not None:
        add("azure", machines.stated_azure(part.azure))
    if part.gcp is not None:
        add("gcp", machines.stated_gcp(part.gcp))
    if part.tpm is not None and part.tpm.machines is not None:
        add("tpm", machines.tpm_section(part.tpm)[-1:])
    if part.event_log is not None:
        found += _events(part.event_log)
    return found


def _measurements(section: Measurements, known: _Known) -> Rule:
    signed = known.references(section.manifests)
    stated = tuple(ReferenceSet(entry.platform, entry.name, entry.values) for entry in section.registers)
    hint = (
        "another image runs, or the manifest is of another release"
        if signed
        else "name the signed manifest of the release (--manifest FILE --key KEY)"
    )
    sources: dict[str, Rule] = {
        "images": ImageStated(frozenset(section.images)),
        "registers": RegistersAre("image registers", stated, "another image runs than the policy states"),
        "signature": RegistersAre("image in a signed manifest", signed, hint),
        "registry": ImageRegistered(known.registry),
    }
    return require.compose(section.expression(), sources)


def _events(section: EventLogDemands) -> list[tuple[tuple[str, ...], Rule]]:
    """A rule for each register that is spoken of and for the order of a TD's boot, with the platforms that have it."""
    stated = section.boot_sequence
    counts = {int(name[4:]): count for name, count in stated.items()} if isinstance(stated, dict) else EDK2_SEPARATORS
    order = BootSequence(counts)
    sequence: list[tuple[tuple[str, ...], Rule]] = (
        [] if stated is False else [(("tdx",), order), (("gcp",), AllOf(machines.of_google_s_tdx((order,))))]
    )
    return sequence + [
        (
            _PCR if stated.register_name.startswith("pcr") else _TDX,
            InGroup(
                "event log",
                EventsAre(
                    register=stated.register_name,
                    at={int(place): digests for place, digests in stated.at.items()},
                    contains=stated.contains,
                    only=stated.only,
                    exactly=stated.exactly,
                ),
            ),
        )
        for stated in section.rules
    ]


def _fresh(document: PolicyDocument) -> list[Rule]:
    section = document.freshness
    if section is None:
        return []
    rules: list[Rule] = [InGroup("bundle", FreshForm())]
    if section.max_age_s is not None:
        rules.append(MaxAge(section.max_age_s))
    if section.anchored:
        rules.append(InGroup("bundle", Anchored(section.anchored_within_s)))
    return rules


def _left_out(document: PolicyDocument) -> list[Rule]:
    """What the policy leaves out on purpose, with its reason; what it does not mention is found by the verifier."""
    return [NotNeeded(section, document.not_needed[section]) for section in SECTIONS if section in document.not_needed]
