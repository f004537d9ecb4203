"""The platform stage: what this machine can prove itself with, and access to it for the services that do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.errors import StageError

if TYPE_CHECKING:
    from appliance.boot.system import System
    from appliance.config.models import TrustConfig

TSM: Final = "/sys/kernel/config/tsm/report"
TPM: Final = "/dev/tpmrm0"
DIRECTORY: Final = "/run/chrysalis/tpm"
"""Each service that makes evidence has a directory of its own in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the machine has.

    Attributes:
        name: ``tdx``, ``tpm`` or ``none``.
        quote_source: Where quotes are made, for the platforms that need to know.
    """

    name: str
    quote_source: str | None = None


def detect(system: System) -> Found:
    """Look at the machine: hardware that the CPU vendor vouches for comes first."""
    if system.path("/dev/tdx_guest").exists() and system.path(TSM).is_dir():
        return Found("tdx", TSM)
    if system.path(TPM).exists():
        return Found("tpm", f"{DIRECTORY}/worker")
    return Found("none")


def judge(found: Found, trust: TrustConfig) -> None:
    """Whether evidence of this platform can pass the measured policy at all.

    Raises:
        StageError: It cannot.
    """
    fits = {"tdx": {"tdx"}, "simulated": {"tdx", "tpm"}}.get(trust.policy)
    if fits is not None and found.name not in fits:
        raise StageError(
            f"this machine has platform {found.name}, expected {' or '.join(sorted(fits))} for policy {trust.policy!r}",
            hint="launch it on a host with that platform; a TPM is enough for development roots only",
        )
