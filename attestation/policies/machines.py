"""Rules of the sections about machines and devices: a healthy production machine, with what the section replaces.

In parts of ``any`` and ``all`` a section is exactly what it states: ``only`` picks the rules of the keys that are set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from attestation.policies.rules import TpmMachineListed
from attestation.rules import ReportData
from attestation.tdx_rules import (
    ConfigBinding,
    MachineListed,
    PlatformFlags,
    PlatformKind,
    Register,
    RootKey,
    TcbStatus,
    TdAttributes,
    Xfam,
)
from attestation.tpm.rules import ConfigurationRegister, LogsReplay, References, TpmReportData, Unchecked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attestation.policies.platforms import Azure, Gcp, Gpu, Snp, Tdx, Tpm
    from attestation.policies.types import Part
    from attestation.rules import Rule

T = TypeVar("T")
_ZERO8 = frozenset({bytes(8)})
_ZERO48 = frozenset({bytes(48)})
_TDX_KEYS = {"cached_keys": "dynamic_platform", "smt": "dynamic_platform"}
_SNP_KEYS: Mapping[str, str] = {
    "products": "SnpProducts",
    "tcb_minimum": "SnpTcbMinimum",
    "guest_policy": "SnpGuestPolicy",
    "platform_info": "SnpPlatform",
    "chips": "SnpSigner",
    "providers": "SnpSigner",
    "id_keys": "SnpIdKeys",
    "author_keys": "SnpIdKeys",
    "machines": "SnpMachines",
    "revocation_list": "SnpRevocation",
}
_AZURE_KEYS: Mapping[str, str] = {"fresh_report": "UserData", "settings": "Settings"}
_GPU_KEYS: Mapping[str, str] = {
    "count": "GpuCount",
    "switches": "SwitchCount",
    "driver": "DriverRange",
    "vbios": "VbiosRange",
    "devices": "DevicesListed",
    "modes": "Fabric",
    "cc_mode": "CcMode",
    "devtools_mode": "CcMode",
}


def tdx_rules(section: Tdx, roots: frozenset[bytes]) -> tuple[Rule, ...]:
    """All rules of a TDX machine.

    Args:
        section: What is demanded of it.
        roots: Key ids of the roots that its quote may rest on.
    """
    return (
        RootKey(roots),
        ReportData(),
        *(rule for rule in _tdx(section).values() if rule is not None),
        Register("seam_attributes", _ZERO8, "the TDX module is not a production one"),
        Register("mr_service_td", _ZERO48, "a service TD is bound to the machine and may migrate it"),
        ConfigBinding(),
    )


def stated_tdx(section: Tdx) -> tuple[Rule, ...]:
    """The rules of the keys that a section of a part states."""
    wanted = {_TDX_KEYS.get(name, name) for name in section.model_fields_set}
    return tuple(rule for name, rule in _tdx(section).items() if rule is not None and name in wanted)


def _tdx(section: Tdx) -> dict[str, Rule | None]:
    tcb, listed, modules = section.tcb, section.machines, section.mr_seam
    return {
        "tcb": TcbStatus(
            grace_days=tcb.grace_days,
            grace_statuses=frozenset(tcb.grace_statuses),
            grace_advisories=tcb.grace_advisories,
            min_evaluation_number=tcb.min_evaluation_number,
        ),
        "dynamic_platform": PlatformFlags(
            allow_dynamic_platform=section.dynamic_platform,
            allow_cached_keys=section.cached_keys,
            allow_smt=section.smt,
        ),
        "td_attributes": TdAttributes(section.td_attributes),
        "xfam": Xfam(exactly=section.xfam or ()),
        "mr_seam": Register("mr_seam", modules, "another TDX module than the listed ones is loaded")
        if modules is not None
        else None,
        "mr_signer_seam": Register("mr_signer_seam", section.mr_signer_seam, "another signs the TDX module"),
        "mr_owner": Register("mr_owner", section.mr_owner, "the machine was launched for another owner"),
        "mr_owner_config": Register("mr_owner_config", section.mr_owner_config, "launched with other owner settings"),
        "fmspc": PlatformKind(section.fmspc) if section.fmspc is not None else None,
        "machines": MachineListed(listed) if listed is not None else None,
    }


def snp_section(section: Snp, *, id_keys: frozenset[bytes] | None = None) -> tuple[Rule, ...]:
    """All rules of an SEV-SNP report.

    Args:
        section: What is demanded.
        id_keys: Keys of which one has to have signed the ID block, instead of the section's.
    """
    from attestation.snp import machine_rules, rules  # noqa: PLC0415 - a policy of other machines loads none of it
    from attestation.snp.tcb import Product  # noqa: PLC0415 - as above

    guest, host = section.guest_policy, section.platform_info
    demanded = id_keys is not None
    return rules.snp_rules(
        products=frozenset(Product(name) for name in section.products),
        tcb_minimum={
            Product(name): {str(level): value for level, value in levels.items()}
            for name, levels in section.tcb_minimum.items()
        },
        guest_policy=machine_rules.SnpGuestPolicy(**guest.model_dump()),
        platform=machine_rules.SnpPlatform(**host.model_dump()),
        signer=rules.SnpSigner(section.chips, section.providers),
        id_keys=rules.SnpIdKeys(
            id_keys if id_keys is not None else section.id_keys,
            section.author_keys,
            required=demanded,
        ),
        machines=section.machines,
        require_revocation_list=section.revocation_list,
    )


def azure_section(section: Azure, snp: Snp) -> tuple[Rule, ...]:
    """All rules of an Azure machine; ``snp`` is what is demanded of the processor's report."""
    from attestation.azure import rules as azure  # noqa: PLC0415 - as above
    from attestation.azure.references import MICROSOFT_ID_KEYS  # noqa: PLC0415 - as above

    keys = section.id_keys if section.id_keys is not None else snp.id_keys or MICROSOFT_ID_KEYS
    return azure.azure_rules(
        snp=snp_section(snp, id_keys=keys),
        user_data=azure.UserData(section.fresh_report),
        settings=azure.Settings(dict(section.settings)),
    )


def gcp_section(section: Gcp, tdx: Sequence[Rule]) -> tuple[Rule, ...]:
    """All rules of a Google machine; ``tdx`` are those of its TDX quote."""
    from attestation.gcp import rules as gcp  # noqa: PLC0415 - as above

    place = gcp.InstancePlace(projects=section.projects, zones=section.zones, machines=section.machines)
    return gcp.gcp_rules(tdx=tdx, demand_tdx=section.tdx, place=place)


def tpm_section(section: Tpm) -> tuple[Rule, ...]:
    """All rules of a machine that a TPM alone speaks for."""
    listed: tuple[Rule, ...] = () if section.machines is None else (TpmMachineListed(section.machines),)
    return (TpmReportData(), References(()), ConfigurationRegister(), LogsReplay(), Unchecked(), *listed)


def gpu_section(section: Gpu) -> tuple[Rule, ...]:
    """All rules of the machine's devices."""
    from attestation.gpu import rules as gpu  # noqa: PLC0415 - as above
    from attestation.gpu.claims import MultiGpu  # noqa: PLC0415 - as above

    drivers, vbioses, switches = section.driver, section.vbios, section.switches
    return gpu.gpu_rules(
        count=gpu.GpuCount(section.count.min, section.count.max),
        driver=gpu.DriverRange(drivers.min or "", drivers.max or "", drivers.only, drivers.refused),
        vbios=gpu.VbiosRange(vbioses.min or "", vbioses.max or "", vbioses.only, vbioses.refused),
        switches=gpu.SwitchCount(switches.min, switches.max) if switches is not None else None,
        devices=section.devices,
        modes=frozenset(MultiGpu(mode) for mode in section.modes) if section.modes is not None else None,
    )


def stated_snp(section: Snp) -> tuple[Rule, ...]:
    """The rules of the keys that an SNP section of a part states."""
    return _stated(snp_section(section), section, _SNP_KEYS)


def stated_azure(section: Azure) -> tuple[Rule, ...]:
    """The rules of the keys that an Azure section of a part states."""
    from attestation.azure.rules import OfParavisor  # noqa: PLC0415 - as above
    from attestation.policies.platforms import Snp  # noqa: PLC0415 - as above

    rules = list(_stated(azure_section(section, Snp()), section, _AZURE_KEYS))
    if section.id_keys is not None:
        rules += [OfParavisor(rule) for rule in snp_section(Snp(), id_keys=section.id_keys) if _is(rule, "SnpIdKeys")]
    return tuple(rules)


def stated_gcp(section: Gcp) -> tuple[Rule, ...]:
    """The rules of the keys that a Google section of a part states."""
    keys = {"tdx": "Confidential", "projects": "InstancePlace", "zones": "InstancePlace", "machines": "InstancePlace"}
    return _stated(gcp_section(section, ()), section, keys)


def of_google_s_tdx(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules about a TDX machine, put to the TDX quote of a Google machine; one without a quote fails them."""
    from attestation.gcp import rules as gcp  # noqa: PLC0415 - as above

    return (gcp.Confidential(), *(gcp.OfTdx(rule) for rule in rules))


def of_azure_s_processor(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules about an SEV-SNP machine, put to the processor's report of an Azure machine."""
    from attestation.azure.rules import OfParavisor  # noqa: PLC0415 - as above

    return tuple(OfParavisor(rule) for rule in rules)


def stated_gpu(section: Gpu) -> tuple[Rule, ...]:
    """The rules of the keys that a GPU section of a part states."""
    return _stated(gpu_section(section), section, _GPU_KEYS)


def _stated(rules: Sequence[Rule], section: Part, keys: Mapping[str, str]) -> tuple[Rule, ...]:
    wanted = {keys[name] for name in section.model_fields_set}
    return tuple(rule for rule in rules if type(rule).__name__ in wanted)


def _is(rule: Rule, name: str) -> bool:
    return type(rule).__name__ == name
