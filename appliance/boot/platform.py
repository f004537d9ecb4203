"""The platform stage: what this machine can prove itself with, and whether that can pass its own policy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from appliance.boot.stages import write_atomically
from appliance.errors import StageError
from attestation.platforms import detect, open_platform
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import parse_report
from attestation.tdx import parse_quote

if TYPE_CHECKING:
    from appliance.boot.system import System
    from appliance.config.models import TrustConfig

TSM: Final = "/sys/kernel/config/tsm/report"
TPM: Final = "/dev/tpmrm0"
DIRECTORY: Final = "/run/chrysalis/tpm"
"""Each service that makes evidence has a directory of its own in it."""
FILE: Final = "platform.json"
"""What the status port needs to make evidence, also where the configuration was refused."""

WITH_TPM: Final = frozenset({"tpm", "azure", "gcp"})
"""Platforms whose services keep a TPM's key each, in directories of their own."""

LAUNCH_FIELDS: Final = {"tdx": "MRCONFIGID", "snp": "HOST_DATA"}
"""Where a launch carries the digest of the measured configuration; Azure's paravisor keeps the field for itself."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the machine has.

    Attributes:
        name: ``tdx``, ``snp``, ``azure``, ``gcp``, ``tpm`` or ``none``.
        why: What was looked at, for people.
    """

    name: str
    why: str = ""

    def source(self, service: str) -> str | None:
        """Where a service's quotes are made, for the platforms that need to know."""
        if self.name in WITH_TPM:
            return f"{DIRECTORY}/{service}"
        return TSM if self.name in {"tdx", "snp"} else None


@dataclass(frozen=True, slots=True)
class Attestable:
    """What is written down for the status port.

    Attributes:
        platform: As :attr:`Found.name`.
        quote_source: Its own.
        attestation_ca: Who certifies a TPM's attestation key.
    """

    platform: str
    quote_source: str | None
    attestation_ca: str | None


def find(system: System) -> Found:
    """Look at the machine: hardware that the CPU vendor vouches for comes first."""
    detection = detect(system.root)
    return Found(detection.platform, "; ".join(str(finding) for finding in detection.findings))


def judge(found: Found, trust: TrustConfig) -> None:
    """Whether evidence of this platform can pass the measured policy at all.

    Raises:
        StageError: It cannot.
    """
    fits = {
        "tdx": {"tdx"},
        "hardware": {"tdx", "snp", "azure", "gcp"},
        "simulated": {
            name
            for name, roots in (("tpm", trust.tpm_roots), ("tdx", trust.simulated_roots), ("snp", trust.snp_roots))
            if roots
        },
    }.get(trust.policy)
    if fits is not None and found.name not in fits:
        raise StageError(
            f"this machine has platform {found.name}, expected {' or '.join(sorted(fits))} for policy {trust.policy!r}"
            f" ({found.why})",
            hint="launch it on a host with that platform; a TPM is enough for development roots only",
        )


async def launched_for(found: Found, digest: bytes) -> None:
    """See that this machine was launched for its configuration, where its processor lets a launch say for which.

    Its own evidence tells; the signature is not looked at, since only the host could lie, and only to stop the boot.

    Args:
        found: The machine.
        digest: Of the measured configuration, 32 bytes.

    Raises:
        StageError: It was launched for another configuration.
        AttestationError: It gives no evidence.
    """
    if found.name in LAUNCH_FIELDS and (asked := open_platform(found.name)) is not None:
        bound(found.name, await asked.collect(bytes(64)), digest)


def bound(name: str, evidence: bytes, digest: bytes) -> None:
    """What a launch carries is the digest of the measured configuration, or nothing.

    Args:
        name: The platform, of :data:`LAUNCH_FIELDS`.
        evidence: What it shows.
        digest: Of the measured configuration, 32 bytes.

    Raises:
        StageError: It carries something else.
        EvidenceError: The evidence cannot be read.
    """
    if name == "snp":
        carried = parse_report(SnpEvidence.parse(evidence).report).host_data
    else:
        carried = parse_quote(evidence).report.mr_config_id
    if any(carried) and carried != digest.ljust(len(carried), b"\0"):
        filled = " and zeros" if len(carried) > len(digest) else ""
        raise StageError(
            f"{LAUNCH_FIELDS[name]} is {carried.hex()}, expected zeros or {digest.hex()}{filled}",
            hint="launch the machine again with the configuration that it was given",
        )


def publish(system: System, attestable: Attestable) -> None:
    """Write down what the status port needs."""
    system.config.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(system.config / FILE, json.dumps(asdict(attestable)).encode(), 0o444)


def read(system: System) -> Attestable | None:
    """Read it back; None before it was written. It is our own: anything else is a fault.

    Raises:
        StageError: It cannot be read.
    """
    path = system.config / FILE
    if not path.exists():
        return None
    try:
        return Attestable(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise StageError(f"{path}: {type(error).__name__}") from None
