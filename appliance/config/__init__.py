"""Configuration: three types by what they may decide, loaded from one TOML file a program."""

from appliance.config.home import home
from appliance.config.load import load, locate
from appliance.config.models import (
    BlockRef,
    ClientConfig,
    ClientHost,
    EngineConfig,
    GatewayConfig,
    GatewayHost,
    HostConfig,
    LiteserverConfig,
    MeasuredConfig,
    NetworkConfig,
    OwnerConfig,
    TrustConfig,
    WorkerConfig,
    WorkerHost,
)

__all__ = [
    "BlockRef",
    "ClientConfig",
    "ClientHost",
    "EngineConfig",
    "GatewayConfig",
    "GatewayHost",
    "HostConfig",
    "LiteserverConfig",
    "MeasuredConfig",
    "NetworkConfig",
    "OwnerConfig",
    "TrustConfig",
    "WorkerConfig",
    "WorkerHost",
    "home",
    "load",
    "locate",
]
