"""Sections of a policy that speak of machines and devices: TDX, SEV-SNP, Azure, Google Cloud, TPM, GPU.

Defaults are those of a healthy production machine. What is left at a default that allows something is listed in the
verdict as unchecked.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from attestation.policies.types import (
    MAX_ITEMS,
    U64,
    Attributes,
    ChipId,
    Days,
    DriverVersion,
    Fmspc,
    Hash32,
    Hash48,
    Level,
    Part,
    Ppid,
    Text,
    VbiosVersion,
)
from attestation.tdx import TdAttribute

TcbState: TypeAlias = Literal[
    "OutOfDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]
ProductName: TypeAlias = Literal["Milan", "Genoa", "Turin"]
LevelName: TypeAlias = Literal["fmc", "bootloader", "tee", "snp", "microcode"]
LinkMode: TypeAlias = Literal["single", "protected pcie", "multi-gpu passthrough"]
_ZERO48 = frozenset({bytes(48)})


def _default_settings() -> dict[str, bool | int | str]:
    return {"tpm-enabled": True}


class Tcb(Part):
    """How far behind a TDX platform may be.

    Attributes:
        grace_days: Days after the date of the level that replaced the machine's; 0 for none.
        grace_statuses: Statuses that the grace covers; ``Revoked`` is never covered.
        grace_advisories: Advisories that it covers; all of them when this is not stated.
        min_evaluation_number: Smallest ``tcbEvaluationDataNumber``.
    """

    grace_days: Days = 0
    grace_statuses: frozenset[TcbState] = frozenset({"OutOfDate", "SWHardeningNeeded"})
    grace_advisories: frozenset[Annotated[str, StringConstraints(pattern=r"^INTEL-SA-\d{5}$")]] | None = None
    min_evaluation_number: Annotated[int, Field(ge=0)] = 0


class Tdx(Part):
    """Demands on a TDX machine, also on Google's, whose TDX quote is the same.

    Attributes:
        td_attributes: TDATTRIBUTES, exactly: a number, or the names of the bits that are set.
        xfam: Values of XFAM that are allowed, exactly; without it, what no guest of this project uses is refused.
        mr_seam: Digests of TDX modules that are allowed; without it TCB info decides.
        mr_signer_seam: Signers of the TDX module; zeros are Intel.
        mr_owner: Owner fields that are allowed.
        mr_owner_config: As ``mr_owner``.
        tcb: How far behind the platform may be.
        dynamic_platform: Whether a machine to which packages can be added is taken.
        cached_keys: Whether a machine whose platform keys Intel keeps is taken.
        smt: Whether hyper-threading is allowed.
        fmspc: Kinds of platforms that are allowed, as Intel numbers families of processors and boards.
        machines: PPIDs of the only machines that are taken.
        zero_padding: Take quotes with zeros after them.
    """

    td_attributes: Attributes = 1 << TdAttribute.SEPT_VE_DISABLE
    xfam: Annotated[tuple[U64, ...], Field(min_length=1, max_length=16)] | None = None
    mr_seam: Annotated[frozenset[Hash48], Field(min_length=1, max_length=64)] | None = None
    mr_signer_seam: Annotated[frozenset[Hash48], Field(min_length=1, max_length=8)] = _ZERO48
    mr_owner: Annotated[frozenset[Hash48], Field(min_length=1, max_length=64)] = _ZERO48
    mr_owner_config: Annotated[frozenset[Hash48], Field(min_length=1, max_length=64)] = _ZERO48
    tcb: Tcb = Tcb()
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt: bool = True
    fmspc: Annotated[frozenset[Fmspc], Field(min_length=1, max_length=256)] | None = None
    machines: Annotated[frozenset[Ppid], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    zero_padding: bool = False


class SnpGuest(Part):
    """The guest policy of an SEV-SNP machine; debugging and migration are refused in any case.

    Attributes:
        min_abi: Lowest firmware ABI version, major and minor.
        allow_smt: Whether the host may use simultaneous multithreading.
        allow_cxl: Whether the host may put memory or devices on CXL.
        require_single_socket: The guest has to stay on one socket.
        require_aes_256: Memory has to be encrypted with AES-256-XTS.
        require_rapl_disabled: Power readings have to be off.
        require_ciphertext_hiding: The host must not read encrypted memory.
        require_no_page_swap: The host must not move or swap pages.
    """

    min_abi: tuple[Level, Level] | None = None
    allow_smt: bool = True
    allow_cxl: bool = False
    require_single_socket: bool = False
    require_aes_256: bool = False
    require_rapl_disabled: bool = False
    require_ciphertext_hiding: bool = False
    require_no_page_swap: bool = False


class SnpHost(Part):
    """The platform info of an SEV-SNP machine.

    Attributes:
        require_alias_check: The check for aliased memory has to have passed (BadRAM).
        allow_smt: Whether simultaneous multithreading may be on.
        require_ecc: Memory has to correct errors.
        require_tsme: All memory has to be encrypted, the host's too.
        require_rapl_disabled: Power readings have to be off.
        require_ciphertext_hiding: The host must not read encrypted memory.
    """

    require_alias_check: bool = True
    allow_smt: bool = True
    require_ecc: bool = False
    require_tsme: bool = False
    require_rapl_disabled: bool = False
    require_ciphertext_hiding: bool = False


class Snp(Part):
    """Demands on an SEV-SNP machine, also on Azure's, whose paravisor shows such a report.

    Attributes:
        products: Product lines that are taken. Milan is not by default: its key seed can be extracted by software.
        tcb_minimum: Lowest patch levels by product.
        guest_policy: What the guest's owner lets the host do.
        platform_info: What the firmware has to say of the machine.
        chips: Whether a chip's own key may sign.
        providers: Clouds whose keys may sign; any when this is not stated.
        id_keys: SHA-384 of keys that may sign the guest's ID block.
        author_keys: SHA-384 of keys that may certify those.
        machines: CHIP_IDs of the only machines that are taken.
        revocation_list: Whether AMD's revocation list has to be at hand.
    """

    products: Annotated[frozenset[ProductName], Field(min_length=1)] = frozenset({"Genoa", "Turin"})
    tcb_minimum: dict[ProductName, dict[LevelName, Level]] = Field(default_factory=dict)
    guest_policy: SnpGuest = SnpGuest()
    platform_info: SnpHost = SnpHost()
    chips: bool = True
    providers: Annotated[frozenset[Text], Field(min_length=1, max_length=16)] | None = None
    id_keys: Annotated[frozenset[Hash48], Field(max_length=64)] = frozenset()
    author_keys: Annotated[frozenset[Hash48], Field(max_length=64)] = frozenset()
    machines: Annotated[frozenset[ChipId], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    revocation_list: bool = True


class Azure(Part):
    """Demands on an Azure machine besides those of ``snp``.

    Attributes:
        fresh_report: The processor's report has to be made for this very question.
        settings: What the machine's settings have to be, for example ``{"secure-boot" = true}``.
        id_keys: SHA-384 of the keys that sign Azure's paravisors; Microsoft's by default.
    """

    fresh_report: bool = True
    settings: Annotated[dict[Text, bool | int | Text], Field(max_length=64)] = Field(default_factory=_default_settings)
    id_keys: Annotated[frozenset[Hash48], Field(min_length=1, max_length=64)] | None = None


class Gcp(Part):
    """Demands on a Google Cloud machine besides those of ``tdx``.

    Attributes:
        tdx: Whether it has to show a TDX quote; a vTPM alone is Google's word.
        projects: Projects that are allowed.
        zones: Zones that are allowed.
        machines: Identifiers of the only instances that are taken.
    """

    tdx: bool = True
    projects: Annotated[frozenset[Text], Field(min_length=1, max_length=256)] | None = None
    zones: Annotated[frozenset[Text], Field(min_length=1, max_length=256)] | None = None
    machines: Annotated[frozenset[Hash32], Field(min_length=1, max_length=MAX_ITEMS)] | None = None


class Tpm(Part):
    """Demands on a machine that a TPM alone speaks for: ``machines`` are identifiers of its endorsement key."""

    machines: Annotated[frozenset[Hash32], Field(min_length=1, max_length=MAX_ITEMS)] | None = None


class Count(Part):
    """How many of something: at least and at most."""

    min: Annotated[int, Field(ge=0, le=16)] = 0
    max: Annotated[int, Field(ge=0, le=16)] = 16

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min > self.max:
            msg = f"min {self.min} is above max {self.max}"
            raise ValueError(msg)
        return self


class Drivers(Part):
    """Driver versions: from ``min`` to ``max``, one of ``only``, none of ``not``."""

    min: DriverVersion | None = None
    max: DriverVersion | None = None
    only: Annotated[frozenset[DriverVersion], Field(max_length=256)] = frozenset()
    refused: Annotated[frozenset[DriverVersion], Field(max_length=256, alias="not")] = frozenset()


class Vbioses(Part):
    """VBIOS versions (hexadecimal fields): from ``min`` to ``max``, one of ``only``, none of ``not``."""

    min: VbiosVersion | None = None
    max: VbiosVersion | None = None
    only: Annotated[frozenset[VbiosVersion], Field(max_length=256)] = frozenset()
    refused: Annotated[frozenset[VbiosVersion], Field(max_length=256, alias="not")] = frozenset()


class Gpu(Part):
    """Demands on the devices that are shown. Confidential computing on and devtools mode off are demanded of every GPU.

    Attributes:
        count: How many GPUs.
        switches: How many NVSwitches; without it as many as the GPUs' links say.
        driver: Which drivers; without it any whose manifest NVIDIA signed.
        vbios: Which VBIOSes, likewise.
        devices: Identifiers of the only devices that are taken (SHA-256 of the device's own key).
        modes: How GPUs may be linked.
        cc_mode: Always ``on``: a policy can say so, and nothing else.
        devtools_mode: Always ``off``, likewise.
    """

    count: Count = Count(min=1)
    switches: Count | None = None
    driver: Drivers = Drivers()
    vbios: Vbioses = Vbioses()
    devices: Annotated[frozenset[Hash32], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    modes: Annotated[frozenset[LinkMode], Field(min_length=1)] | None = None
    cc_mode: Literal["on"] = "on"
    devtools_mode: Literal["off"] = "off"
