"""Whether this host really protects guests: TDX or SEV-SNP, by what the kernel, QEMU and the device say together.

Written from the documents named below; no machine with either was at hand when it was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from appliance.host.errors import HostError
from appliance.host.programs import said_by

_TDX_PARAMETER = Path("/sys/module/kvm_intel/parameters/tdx")
_SNP_PARAMETER = Path("/sys/module/kvm_amd/parameters/sev_snp")
_SEV_DEVICE = Path("/dev/sev")
_QEMU_OBJECT = {"tdx": "tdx-guest", "snp": "sev-snp-guest"}
_QEMU_SINCE = {"tdx": (10, 1), "snp": (9, 1)}
"""QEMU's docs/system/i386/tdx.rst and docs/system/i386/amd-memory-encryption.rst."""


def find_protection(root: Path = Path("/")) -> Literal["none", "tdx", "snp"]:
    """What this host's kernel says it can protect guests with (docs/virt/kvm/x86/intel-tdx and amd-memory-encryption).

    Args:
        root: Where the host's file system is.
    """
    if _enabled(root / _TDX_PARAMETER.relative_to("/")):
        return "tdx"
    if _enabled(root / _SNP_PARAMETER.relative_to("/")) and (root / _SEV_DEVICE.relative_to("/")).exists():
        return "snp"
    return "none"


def require_protection(wanted: Literal["tdx", "snp"], version: tuple[int, int], root: Path = Path("/")) -> None:
    """Refuse a protected launch on a host that cannot do it.

    Args:
        wanted: What was asked for.
        version: QEMU's version.
        root: Where the host's file system is.

    Raises:
        HostError: The kernel or QEMU cannot; what is missing is named.
    """
    found = find_protection(root)
    if found != wanted:
        raise HostError(
            f"this host's kernel offers {found}, {wanted} was asked for",
            hint="firmware setting, kernel version and KVM module options decide it; without: --protection none",
        )
    if version < _QEMU_SINCE[wanted] or _QEMU_OBJECT[wanted] not in said_by("qemu-system-x86_64", "-object", "help"):
        since = ".".join(map(str, _QEMU_SINCE[wanted]))
        raise HostError(
            f"QEMU {version[0]}.{version[1]} has no {_QEMU_OBJECT[wanted]}, QEMU {since} or newer does",
            hint="Debian's backports carry newer ones",
        )


def _enabled(parameter: Path) -> bool:
    try:
        return parameter.read_text(encoding="ascii").strip() in {"Y", "1"}
    except OSError:
        return False
