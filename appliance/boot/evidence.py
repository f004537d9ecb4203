"""Evidence of the status port: its own key under the same statement that the worker makes about this machine.

In: the configuration that the boot wrote down (none where it was refused) and the platform. Out: certificates with a
quote, and fresh bundles. Where the configuration was refused, the statement says so: no measured configuration, no
model, and the registers show the same.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import ValidationError

from appliance.boot import platform as machine_platform
from appliance.boot.configuration import MACHINE_FILE
from appliance.chain.addresses import Address
from appliance.config.models import WorkerConfig
from appliance.errors import StageError
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.errors import AttestationError
from attestation.material import stapling
from attestation.named import NamedBundle
from attestation.platforms import Tpm, open_platform
from attestation.ratls import Identity
from attestation.tpm import references

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from appliance.boot.system import System
    from attestation.evidence import DeviceCollector, Stapling
    from attestation.platforms import Platform

log = structlog.get_logger(__name__)

ROLE: Final = "status"
REFRESH_S: Final = 3600.0
RETRY_S: Final = 30.0
MIN_INTERVAL_S: Final = 0.5


REFUSED: Final = WorkloadStatement(image=bytes(32), measured_config=bytes(32), role=ROLE)
"""What a machine without an accepted configuration says: that there is none."""


class Prover:
    """Makes this port's evidence. Made by :meth:`open`."""

    def __init__(self, identity: Identity, maker: EvidenceMaker) -> None:
        self._identity = identity
        self._maker = maker
        self._named = NamedBundle(identity, maker)

    @property
    def named(self) -> bytes:
        """The bundle that the certificate names, empty before there is one."""
        return self._named.bundle

    @classmethod
    async def open(cls, system: System, key: Ed25519PrivateKey) -> Prover | None:
        """Make the first quote.

        Returns:
            None where this machine has nothing to make evidence with.

        Raises:
            AttestationError: The platform gives no quote.
            StageError: What the boot wrote down cannot be read.
        """
        config, attestable = read_machine(system), machine_platform.read(system)
        if attestable is None:
            return None
        platform = open_platform(attestable.platform, attestable.quote_source, attestation_ca=attestable.attestation_ca)
        if platform is None:
            return None
        identity = await Identity.create(platform, key=key)
        image = await _image(platform, identity, config)
        statement = REFUSED if config is None else describe(config, image)
        staple, devices = await _devices(config)
        maker = EvidenceMaker(
            platform,
            identity,
            statement=lambda: replace(statement, image=image),
            staple=staple,
            devices=devices,
            min_interval=MIN_INTERVAL_S,
        )
        return cls(identity, maker)

    async def bundle(self, nonce: bytes) -> bytes:
        """A fresh bundle; raises ``AttestationError``."""
        return await self._maker.bundle(nonce)

    async def keep(self, present: Callable[[bytes], None]) -> None:
        """Show the certificate, then one that names a bundle, and a new one every hour, until cancelled."""
        present(self._identity.certificate)
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            pause = REFRESH_S * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
            try:
                await self._renew()
            except AttestationError as error:
                log.warning("certificate not refreshed", error=type(error).__name__, reason=error.message)
                pause = RETRY_S
            else:
                present(self._identity.certificate)

    async def _renew(self) -> None:
        """A new certificate with its bundle; where there can be none now, a certificate that names the last."""
        try:
            await self._named.renew()
        except AttestationError as error:
            log.warning("no bundle for the certificate", error=type(error).__name__, reason=error.message)
            await self._identity.refresh()

    async def close(self) -> None:
        """Stop making evidence."""
        await self._maker.close()


async def _devices(config: WorkerConfig | None) -> tuple[Stapling | None, DeviceCollector | None]:
    """What finds collateral to staple, and what asks the GPUs; neither where no configuration says whom to ask."""
    if config is None:
        return None, None
    from appliance.assembly import (  # noqa: PLC0415 - loads the chain's libraries: seconds of a start
        collateral_sources,
        own_devices,
    )

    devices = await own_devices(config.measured, config.host)
    return stapling(collateral_sources(config.host, of_devices=devices is not None)), devices


async def _image(platform: Platform, identity: Identity, config: WorkerConfig | None) -> bytes:
    """This machine's identity as a verifier will compute it; zeros where that takes a policy and there is none."""
    if isinstance(platform, Tpm):
        return references.image_hash(await platform.registers())
    if config is None:
        return bytes(32)
    from appliance.assembly import open_verifier  # noqa: PLC0415 - loads the chain's libraries: seconds of a start

    verdict = await open_verifier(config.measured.trust, config.host).verify_certificate(identity.certificate)
    return verdict.image_hash


def read_machine(system: System) -> WorkerConfig | None:
    """The configuration that the boot wrote down; None where it refused one.

    Raises:
        StageError: It cannot be read.
    """
    path = system.config / MACHINE_FILE
    if not path.exists():
        return None
    try:
        return WorkerConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StageError(f"{path}: {type(error).__name__}") from None


def describe(config: WorkerConfig, image: bytes) -> WorkloadStatement:
    """What this machine says it runs, told by its status port."""
    measured, owner = config.measured, config.owner
    model = measured.model or ""
    return WorkloadStatement(
        image=image,
        measured_config=measured.digest(),
        model=model,
        model_hash=bytes.fromhex(model.rpartition(":")[2]),
        engine=measured.engine.model_dump(mode="json") if measured.engine else {},
        root_contract=Address.parse(measured.network.root_contract).raw(),
        owner=Address.parse(owner.address).raw(),
        coefficient=owner.coefficient,
        role=ROLE,
        chain=bytes.fromhex(measured.network.zerostate.root_hash),
    )
