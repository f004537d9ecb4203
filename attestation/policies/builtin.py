"""The built-in policies, as documents of the policy language.

``release`` is what this project's own programs demand of a machine that serves strangers: the makers' own roots, an
up-to-date platform, an image that the root contract lists *and* that a release key signed, as many GPUs as the machine
says it computes on, each in confidential mode, evidence made within minutes. The root contract's view and the signed
manifest come from whoever verifies; without them the policy refuses, it never demands less. The platforms' policies
demand a healthy machine and leave the image open, and their verdicts say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGE_OPEN: Final = "this policy judges the machine alone: compare the image hash with a published manifest"
_LOG_OPEN: Final = "that the log leads to the registers is checked; which events it holds is left to the measurements"
_MACHINES_OPEN: Final = "any machine of the maker's: an allow-list is what helps against physical attacks on the memory"
_GPU_OPEN: Final = "this policy judges the machine alone: shown devices are listed, none is demanded"
_AGE_OPEN: Final = "this policy judges at the stated time; whether that is long ago is for the reader"


def _platform(name: str, about: str) -> Mapping[str, Any]:
    return {
        "name": name,
        "about": about,
        "platforms": [name],
        "not_needed": {
            "measurements": _IMAGE_OPEN,
            "machines": _MACHINES_OPEN,
            "gpu": _GPU_OPEN,
            "event_log": _LOG_OPEN,
            "freshness": _AGE_OPEN,
        },
    }


BUILTIN: Final[Mapping[str, Mapping[str, Any]]] = {
    "tdx": _platform("tdx", "A healthy Intel TDX machine under Intel's root."),
    "snp": _platform("snp", "A healthy AMD SEV-SNP machine under AMD's root; Milan is refused."),
    "azure": _platform("azure", "A confidential VM of Azure: SEV-SNP under AMD's root, with the vTPM it vouches for."),
    "gcp": _platform("gcp", "A confidential VM of Google Cloud: TDX under Intel's root, with firmware's log."),
    "release": {
        "name": "release",
        "about": "Everything that a release demands of a machine that serves strangers.",
        "platforms": ["tdx", "snp", "azure", "gcp"],
        "measurements": {"require": "registry and signature"},
        "event_log": {"required": True},
        "gpu": {"count": {"min": 0}},
        "freshness": {"max_age_s": 600.0},
        "not_needed": {"machines": _MACHINES_OPEN},
    },
}
"""By name. ``release`` names two sources of measurements that only whoever verifies can give."""
