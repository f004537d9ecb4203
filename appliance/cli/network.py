"""Options that say which chain a command talks to, and the client made of them."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.assembly import open_chain
from appliance.config import ClientConfig, GatewayConfig, HostConfig, NetworkConfig, WorkerConfig, load
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from appliance.chain.client import ChainClient

NetworkOption = Annotated[
    Path,
    typer.Option(
        "--network",
        "-n",
        help="A program's TOML file (its network and liteservers are used), or a lab chain's network.json.",
        dir_okay=False,
    ),
]


def read_network(path: Path) -> tuple[NetworkConfig, HostConfig]:
    """The network and liteservers that a file names.

    Raises:
        ConfigError: It is neither a program's file nor a lab chain's.
    """
    if path.suffix == ".json":
        return _of_lab(path)
    reasons: list[ConfigError] = []
    models: tuple[type[WorkerConfig | GatewayConfig | ClientConfig], ...] = (WorkerConfig, GatewayConfig, ClientConfig)
    for model in models:
        try:
            config = load(path, model)
        except ConfigError as error:
            reasons.append(error)
        else:
            return config.measured.network, config.host
    raise min(reasons, key=lambda error: error.message.count("\n"))


@asynccontextmanager
async def open_network(path: Path) -> AsyncIterator[tuple[ChainClient, NetworkConfig]]:
    """A chain client of that network, closed at the end."""
    network, host = read_network(path)
    async with open_chain(network, host) as chain:
        yield chain, network


def _of_lab(path: Path) -> tuple[NetworkConfig, HostConfig]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        network = NetworkConfig(
            global_id=facts["global_id"],
            zerostate=facts["zerostate"],
            key_block=facts["key_block"],
            root_contract=facts.get("root_contract", f"0:{'0' * 64}"),
            is_test=True,
            testnet=True,
        )
        host = HostConfig.model_validate({"state_dir": path.parent, "liteservers": facts["liteservers"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a lab chain's network.json: {error}") from None
    return network, host
