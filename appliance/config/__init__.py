"""Configuration: three types by what they may decide, loaded from one TOML file a program."""

from appliance.config.guest import GuestConfig, GuestHost
from appliance.config.home import home
from appliance.config.load import load, locate, parse
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
    ModelVolume,
    NetworkConfig,
    OwnerConfig,
    ReleaseTrust,
    TimeConfig,
    TpmReference,
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
    "GuestConfig",
    "GuestHost",
    "HostConfig",
    "LiteserverConfig",
    "MeasuredConfig",
    "ModelVolume",
    "NetworkConfig",
    "OwnerConfig",
    "ReleaseTrust",
    "TimeConfig",
    "TpmReference",
    "TrustConfig",
    "WorkerConfig",
    "WorkerHost",
    "home",
    "load",
    "locate",
    "parse",
]
