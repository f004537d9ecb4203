"""Evidence of the status port: its own key under the same statement that the worker makes about this machine.

In: the configuration that the boot wrote down (none where it was refused) and the platform. Out: certificates with a
quote, and fresh bundles. Where the configuration was refused, the statement says so: no measured configuration, no
model, and the registers show the same.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import ValidationError

from appliance.assembly import collateral_source, open_verifier
from appliance.boot.configuration import MACHINE_FILE
from appliance.chain.addresses import Address
from appliance.config.models import WorkerConfig
from appliance.errors import StageError
from appliance.worker.evidence import staple
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.errors import AttestationError
from attestation.platforms import open_platform
from attestation.ratls import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from appliance.boot.system import System

log = structlog.get_logger(__name__)

ROLE: Final = "status"
REFRESH_S: Final = 3600.0
RETRY_S: Final = 30.0
MIN_INTERVAL_S: Final = 0.5


class Prover:
    """Makes this port's evidence. Made by :meth:`open`."""

    def __init__(self, identity: Identity, maker: EvidenceMaker) -> None:
        self._identity = identity
        self._maker = maker

    @classmethod
    async def open(cls, system: System, key: Ed25519PrivateKey) -> Prover | None:
        """Make the first quote.

        Returns:
            None where this machine's policy asks for no evidence, or it has nothing to make it with.

        Raises:
            AttestationError: The platform gives no quote.
            StageError: What the boot wrote down cannot be read.
        """
        config = read_machine(system)
        if config is None:
            return None
        platform = open_platform(config.measured.trust.policy, config.host.quote_source)
        if platform is None:
            return None
        identity = await Identity.create(platform, key=key)
        verdict = await open_verifier(config.measured.trust, config.host).verify_certificate(identity.certificate)
        statement = describe(config, verdict.image_hash)
        maker = EvidenceMaker(
            platform,
            identity,
            statement=lambda: statement,
            collateral=staple(lambda: identity.certificate, collateral_source(config.host)),
            min_interval=MIN_INTERVAL_S,
        )
        return cls(identity, maker)

    async def bundle(self, nonce: bytes) -> bytes:
        """A fresh bundle; raises ``AttestationError``."""
        return await self._maker.bundle(nonce)

    async def keep(self, present: Callable[[bytes], None]) -> None:
        """Show the certificate, and a new one every hour, until cancelled."""
        present(self._identity.certificate)
        while True:
            await asyncio.sleep(REFRESH_S * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load, guards nothing
            try:
                await self._identity.refresh()
            except AttestationError as error:
                log.warning("certificate not refreshed", error=type(error).__name__, reason=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                present(self._identity.certificate)

    async def close(self) -> None:
        """Stop making evidence."""
        await self._maker.close()


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
