"""The stage ``gpu``: from a driver in the kernel to GPUs that the model server may use.

In: what :mod:`appliance.boot.gpu_modules` left, the PCI bus, what NVML says, the measured configuration. Out: GPUs held
initialised by the persistence daemon and set ready, or an error that names what is missing.

A confidential GPU takes no work until software in the guest sets it ready, and that word rests on its evidence: under
a policy of a release the guest asks every GPU over a new nonce and judges the answers with the judge that verifiers
use, under NVIDIA's pinned roots. A failed judgement leaves the GPUs not ready and the stage failed, with the reason.
Under a development policy, whose verdicts say "no assurance", they are set ready without.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from appliance.boot.errors import GpuError
from appliance.boot.gpu_modules import MODULES, REPORT, GpuModules, pci_devices
from appliance.boot.system import run_tool
from appliance.engine.gpus import require_gpus
from appliance.errors import ApplianceError
from attestation.collateral.opening import open_sources
from attestation.collateral.settings import CollateralSettings
from attestation.errors import AttestationError
from attestation.gpu import nvml
from attestation.gpu.own import judge_own
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.boot.system import System
    from appliance.config.guest import GuestConfig, GuestHost
    from appliance.config.models import MeasuredConfig
    from attestation.collateral.sources import Sources
    from attestation.devices import DeviceFinding
    from attestation.evidence import DeviceCollector
    from attestation.gpu.nvml import Inventory
    from attestation.gpu.roots import GpuRoots

log = structlog.get_logger(__name__)

PERSISTENCE_UNIT: Final = "nvidia-persistenced.service"
FLAGS_UNIT: Final = "chrysalis-engine-flags.service"
FLAGS_REPORT: Final = "/run/chrysalis-engine-flags/report"
_START_S: Final = 300.0
_FLAGS_S: Final = 900.0
"""Under emulation the import alone takes minutes."""
_REPORT_BYTES: Final = 400
_MAX_REASONS: Final = 3


def own_sources(host: GuestHost) -> Sources:
    """Where manifests and revocation status come from: what the host names, or NVIDIA's own addresses.

    None of them is trusted: whatever they answer is signed and dated. Nothing is kept on disk: each boot asks once, and
    the worker's own cache lies on a volume that is mounted later.
    """
    asked = CollateralSettings(tdx=None, kds=None, proxy=host.collateral_access.proxy)
    return open_sources(replace(asked, rim=host.rim or asked.rim, ocsp=host.ocsp or asked.ocsp))


@dataclass(frozen=True, slots=True)
class Driver:
    """What the stage asks of the machine; tests give their own.

    Attributes:
        run: Runs a program of the image.
        inventory: What NVML says.
        set_ready: Lets clients use the GPUs.
        collector: Asks the GPUs for evidence.
        sources: Where what the evidence is compared with comes from.
        roots: Under which devices and manifests are certified.
    """

    run: Callable[..., Awaitable[bytes]] = run_tool
    inventory: Callable[[], Inventory] = nvml.inventory
    set_ready: Callable[[], None] = nvml.set_ready
    collector: DeviceCollector = field(default_factory=nvml.NvmlCollector)
    sources: Callable[[GuestHost], Sources] = own_sources
    roots: GpuRoots = NVIDIA_ROOTS


async def bring_up(system: System, config: GuestConfig | None, driver: Driver | None = None) -> None:
    """Bring the GPUs up.

    Args:
        system: The machine.
        config: The checked configuration; without one there is nothing to serve and this fails.
        driver: What is asked of the machine.

    Raises:
        GpuError: No GPU, no driver, too few GPUs, confidential computing off or in debugging mode, or GPUs whose
            evidence does not hold.
    """
    driver = driver or Driver()
    addresses = pci_devices(system)
    modules = read_report(system)
    if not addresses:
        engine = await engine_flags(system, driver)
        raise GpuError(
            f"no NVIDIA GPU: no PCI device of vendor 10de; {modules_in_words(modules)}; {engine}",
            hint="pass a GPU into the guest, or use the image engine-cpu",
        )
    require_modules(modules, addresses)
    await driver.run("/usr/bin/systemctl", "start", PERSISTENCE_UNIT, limit_s=_START_S)
    if config is None:
        raise GpuError("no configuration says what the GPUs are for", hint="see the stage configuration")
    found = await _ask(driver)
    if not found.gpus:
        raise GpuError(f"the driver {found.driver} took {', '.join(addresses)} and sees no GPU", hint=nvml.CRYPTO_HINT)
    judge(found, config.measured)
    if found.confidential:
        await attest(driver, config, found)
    if found.confidential and not found.ready:
        await _set_ready(driver)
        found = await _ask(driver)
    settings = config.measured.engine
    needed = settings.tensor_parallel * settings.data_parallel if settings is not None else 1
    try:
        require_gpus(found, needed)
    except ApplianceError as error:
        raise GpuError(error.message, hint=error.hint) from None
    log.info("gpus up", count=len(found.gpus), kind=found.gpus[0].name)


def read_report(system: System) -> GpuModules:
    """What happened to the driver's modules."""
    try:
        return GpuModules.from_json(system.read(REPORT))
    except OSError:
        return GpuModules()


def modules_in_words(modules: GpuModules) -> str:
    """What happened to the driver's modules, for a person."""
    if not modules.loaded and not modules.refused:
        return "no module of the driver was tried"
    parts = [f"{name} is loaded" for name in modules.loaded]
    parts += [f"{name} was tried: {words}" for name, words in modules.refused]
    return "; ".join(parts)


def require_modules(modules: GpuModules, addresses: tuple[str, ...]) -> None:
    """Refuse a machine that has GPUs and a driver that did not take them.

    Raises:
        GpuError: A module is not in the kernel.
    """
    if set(MODULES) - set(modules.loaded):
        raise GpuError(
            f"the driver did not take {', '.join(addresses)}: {modules_in_words(modules)}",
            hint="the console shows the driver's own words (NVRM)",
        )


def judge(found: Inventory, measured: MeasuredConfig) -> None:
    """Refuse GPUs whose mode lets the host look inside, except where the policy gives no assurance anyhow.

    Raises:
        GpuError: Confidential computing is off or in debugging mode, or the GPUs would not stay initialised.
    """
    if measured.trust.development:
        return
    if not found.confidential:
        raise GpuError(
            "the GPUs' confidential-computing mode is off" if found.confidential is False
            else f"the driver {found.driver} knows no confidential computing on these GPUs",
            hint="set the CC mode to 'on' on the host and reset the GPU; H100 and later have it",
        )  # fmt: skip
    if found.devtools:
        raise GpuError(
            "the GPUs are in confidential-computing devtools mode, which lets the host look inside",
            hint="set the GPUs' CC mode to 'on' on the host and reset them",
        )
    try:
        nvml.require_persistence(found)
    except AttestationError as error:
        raise GpuError(error.message, hint=error.hint) from None


async def attest(driver: Driver, config: GuestConfig, found: Inventory) -> None:
    """Judge the evidence of this machine's GPUs, except under a policy that gives no assurance anyhow.

    Raises:
        GpuError: A GPU gives no evidence, or it does not hold; the first check that failed is named.
    """
    if config.measured.trust.development:
        log.warning("gpus not judged: no assurance", policy=config.measured.trust.policy)
        return
    try:
        finding = await judge_own(driver.collector, driver.sources(config.host), driver.roots, expected=len(found.gpus))
    except AttestationError as error:
        raise GpuError(f"the GPUs are not set ready: {error.message}", hint=error.hint) from None
    require_accepted(finding)
    for claims in finding.claims or ():
        log.info("gpu evidence holds", index=claims.index, driver=claims.driver, vbios=claims.vbios)


def require_accepted(finding: DeviceFinding) -> None:
    """Refuse GPUs of which a check failed.

    Raises:
        GpuError: Names the first check that failed, why, and what else was missing.
    """
    failed = [check for check in finding.checks if not check.passed]
    if finding.claims is not None and not failed:
        return
    first = failed[0] if failed else Check("gpu evidence", False, "none", "verified evidence of every GPU")
    where = f"{first.group}: " if first.group else ""
    reasons = [f"{check.name}: {check.seen}" for check in failed[1:] if check.group == "collateral"]
    more = f"; {'; '.join(reasons[:_MAX_REASONS])}" if reasons else ""
    raise GpuError(
        f"the GPUs are not set ready: {where}{first.name}: {first.seen}, expected {first.expected}{more}",
        hint=first.hint,
    )


async def _set_ready(driver: Driver) -> None:
    try:
        await asyncio.to_thread(driver.set_ready)
    except AttestationError as error:
        raise GpuError(error.message, hint=error.hint) from None


async def engine_flags(system: System, driver: Driver) -> str:
    """Whether the engine is whole as far as that shows without a GPU: it is imported and reads its options."""
    try:
        await driver.run("/usr/bin/systemctl", "start", FLAGS_UNIT, limit_s=_FLAGS_S)
        report = system.read(FLAGS_REPORT, _REPORT_BYTES).decode("utf-8", "replace").strip()
    except (ApplianceError, OSError) as error:
        return f"the engine's options were not read: {getattr(error, 'message', None) or type(error).__name__}"
    return report or "the engine said nothing about its options"


async def _ask(driver: Driver) -> Inventory:
    try:
        return await asyncio.to_thread(driver.inventory)
    except AttestationError as error:
        raise GpuError(error.message, hint=error.hint) from None
