"""The rules about a Google machine; what its vTPM and its TDX quote have to say is judged by the rules for those.

A vTPM's word is Google's word: its host runs it. A processor's is not: that is why a TDX quote is demanded unless a
policy says otherwise, and why both have to be over the same report data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attestation.gcp.references import BY_PROFILE
from attestation.rules import Finding, InGroup, StatementImage, one
from attestation.tpm.rules import ConfigurationRegister, LogsReplay, References, TpmReportData, Unchecked
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.rules import Rule, Subject
    from attestation.tpm.references import TpmReference

_UNCHECKED = "by policy: unchecked"
_HOST = "Google's host runs the vTPM: its word is Google's, not a processor's"


@dataclass(frozen=True, slots=True)
class OfVtpm:
    """A rule about a TPM, put to the vTPM of a Google machine."""

    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look at the vTPM."""
        found = replace(subject, tpm=subject.gcp.tpm if subject.gcp else None)
        return InGroup("platform/vtpm", self.rule).appraise(found)


@dataclass(frozen=True, slots=True)
class OfTdx:
    """A rule about a TDX machine, put to the TDX quote of a Google machine; fulfilled where there is none."""

    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look at the TDX quote."""
        if subject.gcp is None or subject.gcp.report is None:
            return Finding(())
        found = replace(subject, report=subject.gcp.report, claims=subject.gcp.tdx)
        return InGroup("platform/processor", self.rule).appraise(found)


@dataclass(frozen=True, slots=True)
class Confidential:
    """The machine shows a TDX quote beside its vTPM's.

    Attributes:
        demanded: Whether it has to; without, the verdict says that only Google's word was heard.
    """

    demanded: bool = True

    def appraise(self, subject: Subject) -> Finding:
        """Look for the quote."""
        shown = subject.gcp is not None and subject.gcp.report is not None
        seen = "a TDX quote over the same report data" if shown else "no quote of a processor"
        why = "without it nothing shows that the host cannot read the machine's memory"
        if not shown and not self.demanded:
            return Finding((Check("confidential machine", True, seen, _UNCHECKED, checked=False, why=why),))
        hint = "start it as a confidential VM of type TDX; SEV-SNP machines show their own report (platform snp)"
        return one("confidential machine", shown, seen, "a TDX quote", hint, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlace:
    """The instance is a production one, and stands where it may.

    Attributes:
        projects: Project ids that are allowed, ``None`` for all.
        zones: Zones that are allowed, ``None`` for all.
        machines: :attr:`attestation.gcp.instance.Instance.machine` of the instances that are allowed, ``None`` for all.
    """

    projects: frozenset[str] | None = None
    zones: frozenset[str] | None = None
    machines: frozenset[bytes] | None = None

    def appraise(self, subject: Subject) -> Finding:
        """Compare what the certificate says."""
        if subject.gcp is None:
            return one("instance", False, "no verified certificate", "a verified certificate")
        found = subject.gcp.instance
        checks = [
            Check(
                "instance on production hosts",
                found.security.production,
                "yes" if found.security.production else "no",
                "yes",
                "Google certifies this instance as one of its own tests",
                why="only production hosts are promised to keep the vTPM's keys",
            ),
            self._listed("project", found.project_id, self.projects),
            self._listed("zone", found.zone, self.zones),
        ]
        name = f"{found.instance_name} ({found.instance_id})"
        if self.machines is None:
            checks.append(Check("instance", True, name, _UNCHECKED, checked=False))
        else:
            listed = found.machine in self.machines
            checks.append(Check("instance", listed, name, f"one of {len(self.machines)} listed"))
        return Finding(tuple(checks))

    @staticmethod
    def _listed(name: str, seen: str, allowed: frozenset[str] | None) -> Check:
        if allowed is None:
            return Check(name, True, seen, _UNCHECKED, checked=False)
        return Check(name, seen in allowed, seen, " or ".join(sorted(allowed)), f"the instance runs in another {name}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What nothing here judges about the vTPM's certificate, said in so many words."""

    def appraise(self, subject: Subject) -> Finding:
        """List it."""
        if subject.gcp is None:
            return Finding(())
        said = subject.gcp.instance.security
        promises = (
            f"version {said.version}, TPM data always encrypted: {_word(said.tpm_data_always_encrypted)}, "
            f"suspend and resume disabled: {_word(said.suspend_resume_always_disabled)}"
        )
        return Finding(
            (
                Check("host's security", True, promises, _UNCHECKED, checked=False),
                Check("attestation key revocation", True, "not looked up", _UNCHECKED, checked=False),
            )
        )


def gcp_rules(
    *,
    tdx: Sequence[Rule] = (),
    references: Sequence[TpmReference] = (),
    demand_tdx: bool = True,
    place: InstancePlace | None = None,
) -> tuple[Rule, ...]:
    """The rules of a Google machine.

    Args:
        tdx: Rules for its TDX quote (:func:`attestation.policy.production_rules` and a root): Google's firmware leaves
            owner fields, MRCONFIGID and MRSERVICETD zero, so a TD of theirs fulfils the same ones. They compare the
            report data too.
        references: The images that it may have booted; without any, the image hash alone says. One that does not state
            register 2 is of machines whose firmware measures the image into 4 and leaves a separator in 2.
        demand_tdx: Whether a vTPM alone is too little.
        place: Which instances are allowed; every production one by default.
    """
    whole = tuple(replace(item, registers={2: BY_PROFILE, **item.registers}) for item in references)
    vtpm = (TpmReportData(), References(whole), ConfigurationRegister(), LogsReplay(), Unchecked(_HOST))
    return (
        Confidential(demand_tdx),
        *(OfVtpm(rule) for rule in vtpm),
        *(OfTdx(rule) for rule in tdx if not isinstance(rule, StatementImage)),
        StatementImage(),
        place or InstancePlace(),
        LeftOut(),
    )


def _word(value: bool) -> str:
    return "yes" if value else "not promised"
