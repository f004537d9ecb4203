"""Which platform this machine is: what was looked at, what was found, and why the answer is what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PlatformName = Literal["tdx", "snp", "azure", "gcp", "tpm", "none"]
_MAX_READ = 64 * 1024
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
"""Asset tag of every machine of Azure's, and of no other."""

_GOOGLE = "Google Compute Engine"


@dataclass(frozen=True, slots=True)
class Finding:
    """One platform that was looked for.

    Attributes:
        platform: Its name; may be one that cannot be used here.
        found: Whether the machine has it.
        usable: Whether evidence can be made with it.
        why: What was seen.
    """

    platform: str
    found: bool
    usable: bool
    why: str

    def __str__(self) -> str:
        answer = "yes" if self.usable else "found, not usable" if self.found else "no"
        return f"{self.platform}: {answer} ({self.why})"


@dataclass(frozen=True, slots=True)
class Detection:
    """The answer and everything it rests on.

    Attributes:
        platform: What to use.
        findings: What was looked for, strongest first.
    """

    platform: PlatformName
    findings: tuple[Finding, ...]

    def explain(self) -> list[str]:
        """Lines for a person."""
        return [f"platform {self.platform}", *(str(finding) for finding in self.findings)]


def detect(root: Path = Path("/")) -> Detection:
    """Look at this machine; nothing is opened but files of text.

    Args:
        root: Where the machine's file systems are, another one in tests.
    """
    tdx, snp, tpm = _tdx(root), _snp(root), _tpm(root)
    azure, gcp = _azure(root, tpm), _gcp(root, tpm, confidential=tdx.usable or snp.usable)
    chosen: PlatformName = "tdx" if tdx.usable else "snp" if snp.usable else "none"
    if chosen == "none":
        chosen = "azure" if azure.usable else "gcp" if gcp.usable else "tpm" if tpm.usable else "none"
    return Detection(chosen, (tdx, snp, azure, gcp, tpm))


def _tdx(root: Path) -> Finding:
    flagged = " tdx_guest" in _text(root / "proc/cpuinfo")
    reports = (root / "sys/kernel/config/tsm/report").is_dir()
    if not flagged:
        return Finding("tdx", False, False, "the processor does not say that this is a TDX guest")
    if reports:
        return Finding("tdx", True, True, "a TDX guest with /sys/kernel/config/tsm/report")
    if (root / "dev/tdx_guest").exists():
        why = "a TDX guest with /dev/tdx_guest, without configfs: the host's quote service is asked over vsock"
        return Finding("tdx", True, True, why)
    why = "a TDX guest without /sys/kernel/config/tsm/report and /dev/tdx_guest: load tdx_guest and tsm"
    return Finding("tdx", True, False, why)


def _snp(root: Path) -> Finding:
    """The firmware's own interfaces, which a guest under a paravisor may lack."""
    device = (root / "dev/sev-guest").exists()
    reports = (root / "sys/kernel/config/tsm/report").is_dir()
    flagged = " sev_snp" in _text(root / "proc/cpuinfo")
    if device:
        where = "configfs and /dev/sev-guest" if reports else "/dev/sev-guest, without configfs"
        return Finding("snp", True, True, f"an SEV-SNP guest with {where}")
    if flagged:
        why = "the processor says SEV-SNP, without /dev/sev-guest: load sev-guest, unless a paravisor keeps it"
        return Finding("snp", True, False, why)
    return Finding("snp", False, False, "no /dev/sev-guest, and the processor does not say SEV-SNP")


def _azure(root: Path, tpm: Finding) -> Finding:
    """A paravisor hides the processor's interfaces and shows a TPM: what it is under shows in the report in that."""
    tag = _text(root / "sys/class/dmi/id/chassis_asset_tag").strip()
    if tag != _AZURE_TAG:
        return Finding("azure", False, False, "the chassis has another asset tag than Azure's machines")
    if not tpm.usable:
        return Finding("azure", True, False, f"an Azure machine; its TPM: {tpm.why}")
    if "GenuineIntel" in _text(root / "proc/cpuinfo"):
        why = "an Azure machine with Intel's processor: its TDs lack SEPT_VE_DISABLE, which no verifier takes"
        return Finding("azure", True, False, why)
    return Finding(
        "azure", True, True, "an Azure machine with a TPM, which a paravisor holds if it is a confidential one"
    )


def _gcp(root: Path, tpm: Finding, *, confidential: bool) -> Finding:
    name = _text(root / "sys/class/dmi/id/product_name").strip()
    if name != _GOOGLE:
        return Finding("gcp", False, False, f"the product is called {name or 'nothing'}, not {_GOOGLE}")
    if not tpm.usable:
        return Finding("gcp", True, False, f"a Google machine; its vTPM: {tpm.why}")
    if confidential:
        return Finding("gcp", True, True, "a Google machine; its vTPM can say besides where it stands")
    return Finding("gcp", True, True, "a Google machine that no processor speaks for: its vTPM's word is Google's")


def _tpm(root: Path) -> Finding:
    version = _text(root / "sys/class/tpm/tpm0/tpm_version_major").strip()
    if not version:
        return Finding("tpm", False, False, "no /sys/class/tpm/tpm0")
    if version != "2":
        return Finding("tpm", True, False, f"a TPM of version {version}, expected 2")
    if not (root / "dev/tpmrm0").exists():
        return Finding("tpm", True, False, "a TPM 2.0 without /dev/tpmrm0, the kernel's resource manager")
    maker = " ".join(_text(root / f"sys/class/dmi/id/{name}").strip() for name in ("sys_vendor", "product_name"))
    return Finding("tpm", True, True, f"a TPM 2.0 on {maker.strip() or 'a machine without a name'}")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_READ).decode("utf-8", "replace")
    except OSError:
        return ""
