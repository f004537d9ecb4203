"""The rules about an Azure machine; its processor's report and its vTPM are judged by the rules for those.

Three parties have a say in an Azure machine: AMD's processor, the paravisor that Microsoft signs, and the image. The
first is judged as on any SEV-SNP machine; the second by who signed it, and by the image hash, which covers its
measurement; the third by the vTPM's registers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attestation.azure.references import MICROSOFT_ID_KEYS
from attestation.rules import Finding, InGroup, StatementImage, one, short
from attestation.snp.rules import SnpIdKeys, SnpReportData, snp_rules
from attestation.tpm.rules import ConfigurationRegister, LogsReplay, References, TpmReportData, Unchecked
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attestation.azure.runtime import Setting
    from attestation.rules import Rule, Subject
    from attestation.tpm.references import TpmReference

_UNCHECKED = "by policy: unchecked"


@dataclass(frozen=True, slots=True)
class OfParavisor:
    """A rule about an SEV-SNP machine, put to the report that the processor made for the paravisor."""

    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look at the report."""
        found = replace(subject, snp=subject.azure.snp if subject.azure else None)
        return InGroup("platform/processor", self.rule).appraise(found)


@dataclass(frozen=True, slots=True)
class OfVtpm:
    """A rule about a TPM, put to the paravisor's vTPM."""

    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look at the vTPM."""
        found = replace(subject, tpm=subject.azure.tpm if subject.azure else None)
        return InGroup("platform/vtpm", self.rule).appraise(found)


@dataclass(frozen=True, slots=True)
class UserData:
    """The processor made its report for this very question: the runtime data holds the report data.

    A vTPM's quote is fresh by what it was asked for; the processor's report under it may be of any age. An old one
    proves that this key was once held by a paravisor of that measurement and patch level, not that it still is.
    Certificates carry no fresh report: for them nothing is said.

    Attributes:
        demanded: Whether fresh evidence needs it; early paravisors have no user data.
    """

    demanded: bool = True

    def appraise(self, subject: Subject) -> Finding:
        """Compare all 64 bytes, in fresh evidence."""
        seen = (subject.azure.runtime.user_data if subject.azure else None) or b""
        fresh = seen == subject.report_data
        why = "an old report says nothing about the paravisor and the patch level of today"
        if subject.statement is None or (not fresh and not self.demanded):
            return Finding((Check("user data", True, short(seen), _UNCHECKED, checked=False, why=why),))
        return one(
            "user data",
            fresh,
            short(seen),
            short(subject.report_data),
            "the processor's report is older than this question: it was kept back, or the paravisor makes no new ones",
            why=why,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """The machine's settings are what they have to be; the others are listed.

    They are what the host asked the paravisor for: measured, but the host's own choice.

    Attributes:
        demanded: Values by name, for example ``{"secure-boot": True}``.
    """

    demanded: Mapping[str, Setting] = field(default_factory=lambda: {"tpm-enabled": True}, hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Compare each, and list the rest in one line."""
        seen = dict(subject.azure.runtime.settings) if subject.azure else {}
        checks = []
        for name, wanted in sorted(self.demanded.items()):
            found = seen.pop(name, None)
            passed = type(found) is type(wanted) and found == wanted
            checks.append(Check(f"machine setting {name}", passed, str(found), str(wanted)))
        rest = ", ".join(f"{name}: {value}" for name, value in sorted(seen.items())) or "none"
        checks.append(Check("machine settings", True, rest, _UNCHECKED, checked=False))
        return Finding(tuple(checks))


def azure_rules(
    *,
    snp: Sequence[Rule] | None = None,
    references: Sequence[TpmReference] = (),
    user_data: UserData | None = None,
    settings: Settings | None = None,
) -> tuple[Rule, ...]:
    """The rules of an Azure machine.

    Args:
        snp: Rules for the processor's report (:func:`attestation.snp.rules.snp_rules`); by default those of a
            production guest at privilege level 0, with an ID block that Microsoft signed. The one about report data is
            left out: that is the runtime data's hash here.
        references: The images that it may have booted; without any, the image hash alone says.
        user_data: Whether the processor's report has to be fresh; it has to by default.
        settings: What the machine's settings have to be; by default that it has a vTPM.
    """
    if snp is None:
        snp = snp_rules(id_keys=SnpIdKeys(id_keys=MICROSOFT_ID_KEYS, required=True))
    vtpm = (TpmReportData(), References(tuple(references)), ConfigurationRegister(), LogsReplay(), Unchecked(""))
    return (
        *(OfParavisor(rule) for rule in snp if not isinstance(rule, SnpReportData)),
        user_data or UserData(),
        settings or Settings(),
        *(OfVtpm(rule) for rule in vtpm),
        StatementImage(),
    )
