"""What can go wrong with a vendor's service: with the exchange, and with what is said in it.

Faults of the exchange need no world. Faults of the content are made by the world itself, so that a stale or wrong
answer is signed as a real one would be: :func:`twin` is the same world with that one thing wrong.
"""

from __future__ import annotations

import copy
import enum
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from appliance.lab.errors import LabError
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import EVERY, GpuAttack, OcspFault, RimFault
from appliance.lab.snp_world import SnpAttack, SyntheticSnp
from appliance.lab.tee import Faults, SyntheticTdx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

World: TypeAlias = SyntheticTdx | SyntheticSnp | SyntheticGpus
_Change = TypeVar("_Change")
_HOUR_S = 3600.0


class Service(enum.Enum):
    """One thing that can be asked for."""

    PCK_CRL = "pck-crl"
    ROOT_CRL = "root-crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    VEK = "vek"
    AMD_CHAIN = "amd-chain"
    AMD_CRL = "amd-crl"
    RIM = "rim"
    RIM_IDS = "rim-ids"
    OCSP = "ocsp"


class Fault(enum.Enum):
    """What is wrong with an answer."""

    SLOW = enum.auto()
    """It comes, but long after the question."""
    DRIPPING = enum.auto()
    """It comes byte by byte, for ever."""
    DOWN = enum.auto()
    """The connection is reset."""
    NOT_FOUND = enum.auto()
    """Status 404."""
    TOO_MANY = enum.auto()
    """Status 429: asked too often."""
    BROKEN = enum.auto()
    """Status 500."""
    UNAVAILABLE = enum.auto()
    """Status 503."""
    REDIRECTED = enum.auto()
    """Status 302 to somewhere else."""
    GARBAGE = enum.auto()
    """Status 200 and bytes that mean nothing."""
    EMPTY = enum.auto()
    """Status 200 and nothing."""
    PORTAL = enum.auto()
    """Status 200 and the page of something in between."""
    TRUNCATED = enum.auto()
    """The connection ends in the middle of the body."""
    OVERSIZED = enum.auto()
    """The body is announced as 64 MiB, and comes."""
    ENDLESS = enum.auto()
    """The body has no announced length and never ends."""
    SKEWED = enum.auto()
    """The service's clock is a day behind."""
    STALE = enum.auto()
    """Signed, but its time has passed."""
    WRONG = enum.auto()
    """Signed, but of another platform, version or certificate."""
    REVOKED = enum.auto()
    """It says that the platform is revoked."""


CONTENT = frozenset({Fault.STALE, Fault.WRONG, Fault.REVOKED})
"""Faults of what is said; the others are of the exchange."""


def twin(world: World, service: Service, fault: Fault) -> World:
    """The same world, keys and all, with one of its answers wrong.

    Raises:
        LabError: This service cannot have that fault: a manifest is never revoked, its signer is.
    """
    if isinstance(world, SyntheticTdx):
        return _tdx(world, service, fault)
    if isinstance(world, SyntheticSnp):
        machine = copy.copy(world)
        machine.attack = _known(_SNP, service, fault)(world.attack)
        return machine
    gpus = copy.copy(world)
    gpus.attack = _known(_GPUS, service, fault)(world.attack)
    return gpus


def _tdx(world: SyntheticTdx, service: Service, fault: Fault) -> SyntheticTdx:
    if fault is Fault.WRONG and service is not Service.TCB_INFO:
        return SyntheticTdx()
    other = copy.copy(world)
    if fault is Fault.STALE:
        age = world.faults.collateral_lifetime_s + 2 * _HOUR_S
        other.faults = replace(world.faults, collateral_age_s=age)
    elif fault is Fault.WRONG:
        other.faults = replace(world.faults, collateral_fmspc=bytes(byte ^ 0xFF for byte in world.fmspc))
    else:
        other.faults = _known(_TDX_REVOKED, service, fault)(world.faults)
    return other


def _known(table: Mapping[tuple[Service, Fault], _Change], service: Service, fault: Fault) -> _Change:
    try:
        return table[service, fault]
    except KeyError:
        raise LabError(f"service {service.value} has no answer that is {fault.name.lower()}") from None


_TDX_REVOKED: Mapping[tuple[Service, Fault], Callable[[Faults], Faults]] = {
    (Service.PCK_CRL, Fault.REVOKED): lambda faults: replace(faults, revoke_pck=True),
    (Service.ROOT_CRL, Fault.REVOKED): lambda faults: replace(faults, revoke_platform_ca=True),
    (Service.TCB_INFO, Fault.REVOKED): lambda faults: replace(faults, tcb_status="Revoked"),
    (Service.QE_IDENTITY, Fault.REVOKED): lambda faults: replace(faults, qe_status="Revoked"),
}
_SNP: Mapping[tuple[Service, Fault], Callable[[SnpAttack], SnpAttack]] = {
    (Service.VEK, Fault.STALE): lambda attack: replace(attack, expired_certificate=True),
    (Service.VEK, Fault.WRONG): lambda attack: replace(attack, other_chip_certificate=True),
    (Service.AMD_CHAIN, Fault.WRONG): lambda attack: replace(attack, foreign_chain=True),
    (Service.AMD_CRL, Fault.STALE): lambda attack: replace(attack, stale_crl=True),
    (Service.AMD_CRL, Fault.WRONG): lambda attack: replace(attack, forged_crl=True),
    (Service.AMD_CRL, Fault.REVOKED): lambda attack: replace(attack, revoked_issuer=True),
}
_GPUS: Mapping[tuple[Service, Fault], Callable[[GpuAttack], GpuAttack]] = {
    (Service.RIM, Fault.STALE): lambda attack: replace(attack, rim=RimFault.EXPIRED, rim_of=EVERY),
    (Service.RIM, Fault.WRONG): lambda attack: replace(attack, rim=RimFault.OTHER_VERSION, rim_of=EVERY),
    (Service.OCSP, Fault.STALE): lambda attack: replace(attack, ocsp=OcspFault.EXPIRED, ocsp_of=EVERY),
    (Service.OCSP, Fault.WRONG): lambda attack: replace(attack, ocsp=OcspFault.OTHER_CERTIFICATE, ocsp_of=EVERY),
    (Service.OCSP, Fault.REVOKED): lambda attack: replace(attack, ocsp=OcspFault.REVOKED, ocsp_of=EVERY),
}
