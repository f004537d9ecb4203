"""What a guest's three configuration texts say, and the worker's configuration that is made of them.

The host's text can name addresses and limits only: every path, the engine and the status page are the guest's own, so
that nothing unmeasured can point the worker at another model server, another key or another quote source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from appliance.config.models import (
    MAX_TIMEOUT_S,
    CollateralAccess,
    Hex32,
    HostPort,
    LiteserverConfig,
    MeasuredConfig,
    Model,
    OwnerConfig,
    WorkerConfig,
)

HttpUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[A-Za-z0-9_.\[\]:-]{1,253}(/[\x21-\x7e]*)?$", max_length=1024)
]

ENGINE_PORT = 30000
STATUS_PORT = 9480
ATTESTED_PORT = 9443
STATE_DIR = Path("/var/lib/chrysalis/worker")
GAS_KEY = Path("/run/chrysalis/config/gas.key")
ENGINE_KEY = Path("/run/chrysalis/config/engine.key")
"""The worker's own copy; the model server has another of the same key."""


class GuestHost(Model):
    """The host's text of a guest (``host.toml``).

    ``attestation_ca`` certifies a TPM's attestation key, ``time_authority`` makes time-stamps, ``collateral``,
    ``kds``, ``rim`` and ``ocsp`` serve what evidence is verified with; all are asked over HTTP, and none is trusted.
    ``owner_page_sha256`` is the SHA-256 of the bearer key (hex) that opens the worker's own page on the attested port;
    without it nobody reads that page.
    """

    liteservers: Annotated[tuple[LiteserverConfig, ...], Field(min_length=1, max_length=64)]
    gateways: Annotated[tuple[HostPort, ...], Field(max_length=64)] = ()
    gateway_connections: Annotated[int, Field(ge=1, le=64)] = 1
    attestation_ca: HttpUrl | None = None
    time_authority: HttpUrl | None = None
    collateral: HttpUrl | None = None
    kds: HttpUrl | None = None
    rim: HttpUrl | None = None
    ocsp: HttpUrl | None = None
    collateral_access: CollateralAccess = CollateralAccess()
    registry_poll_s: Annotated[float, Field(gt=0, le=3600)] = 45.0
    drain_s: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S)] = 30.0
    log_level: Literal["info", "warning", "error"] = "info"
    pow_max_difficulty: Annotated[int, Field(ge=0, le=40)] = 28
    owner_page_sha256: Hex32 | None = None


class GuestConfig(Model):
    """The three texts of a guest, checked together."""

    measured: MeasuredConfig
    owner: OwnerConfig
    host: GuestHost

    @model_validator(mode="after")
    def _complete(self) -> GuestConfig:
        if self.measured.model is None or self.measured.engine is None:
            msg = "a guest's measured.toml needs model and [engine]"
            raise ValueError(msg)
        if self.owner.gas_key_file is not None:
            msg = "owner.gas_key_file is not a guest's to read: the key itself comes as gas.key"
            raise ValueError(msg)
        if self.measured.engine.kind == "openai":
            msg = "engine.kind 'openai' is a server that somebody else runs; a guest runs its own"
            raise ValueError(msg)
        return self

    def worker(self, *, gas_key: bool, platform: str | None = None, quote_source: str | None = None) -> WorkerConfig:
        """The worker's configuration inside the guest.

        Args:
            gas_key: Whether the host handed over the node wallet's key.
            platform: What makes quotes here; the policy's own by default.
            quote_source: Where they are made, for platforms that need to know.
        """
        host = self.host.model_dump(mode="json", exclude={"time_authority", "owner_page_sha256"})
        owner = self.owner.model_dump(mode="json")
        if gas_key:
            owner["gas_key_file"] = str(GAS_KEY)
        return WorkerConfig.model_validate({
            "measured": self.measured.model_dump(mode="json"),
            "owner": owner,
            "host": {
                **host,
                "state_dir": str(STATE_DIR),
                "status": f"127.0.0.1:{STATUS_PORT}",
                "engine_url": f"http://127.0.0.1:{ENGINE_PORT}",
                "engine_key_file": str(ENGINE_KEY),
                "platform": platform,
                "quote_source": quote_source,
            },
        })  # fmt: skip
