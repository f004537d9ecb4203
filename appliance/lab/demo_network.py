"""The demonstration's network: contracts, listings, funds, machines and the three programs' files.

In: a world on a running chain, a model and the worker's site. Out: what the programs need to start, and what they must
prove.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance.chain import admin
from appliance.keys import new_key
from appliance.lab.tee_service import collateral_path
from appliance.lab.world import TON, Economy, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config import MeasuredConfig
    from appliance.lab.demo_site import Served, WorkerSite

PRICES = Economy(price_per_token=1_200_000, worker_fee_per_token=1_000_000)
COEFFICIENT = 1000
POW_DIFFICULTY = 16
COMMIT_S = 3.0
OWNER_FUNDS = 10 * TON
WALLET_FUNDS = 10 * TON
CLIENT_FUNDS = 100 * TON
STAKE = 20 * TON
_PORTS = ("workers", "clients", "client", "worker", "gateway")


@dataclass(frozen=True, slots=True)
class Founded:
    """Image hashes that the programs have to prove (32 bytes each), and where the programs answer."""

    worker_image: bytes
    gateway_image: bytes
    urls: dict[str, str]


async def found_network(
    world: World,
    served: Served,
    site: WorkerSite,
    say: Callable[[str], None],
    *,
    delist: Literal["image", "model"] | None = None,
) -> Founded:
    """Deploy, list, fund and write the files.

    Args:
        world: On a running chain.
        served: What the worker will serve.
        site: Where it will run.
        say: Told what was done.
        delist: What to leave out of the root contract.

    Raises:
        ChainError: Something could not be put on chain.
    """
    root = await world.deploy_root()
    say(f"root contract {root.friendly(bounceable=True, testnet=True)}")
    ports = {name: world.ports.take() for name in _PORTS}
    wallets = {name: world.wallet_of(f"{name}-wallet.key") for name in ("worker", "gateway", "client")}
    worker = await site.found(world, served, _owner(world), ports)
    gateway_measured = world.measured(trust=worker.trust)
    gateway = await world.machine("gateway", gateway_measured)
    orders = [
        admin.register_proxy(root, f"127.0.0.1:{ports['workers']} 127.0.0.1:{ports['clients']}"),
        admin.add_proxy_image(root, gateway.image),
    ]
    if delist != "image":
        orders.append(admin.add_image(root, worker.image))
    if delist != "model":
        orders.append(admin.add_model(root, served.name))
    await world.order(*orders)
    say(f"listed worker image {worker.image.hex()[:16]}…, gateway image {gateway.image.hex()[:16]}…")
    await world.faucet(world.owner.address, OWNER_FUNDS)
    world.secret("api.key")
    world.secret("client.secret")
    for name, address in wallets.items():
        await world.faucet(address, CLIENT_FUNDS if name == "client" else WALLET_FUNDS)
    _write_files(world, ports, gateway_measured)
    world.ports.release()
    urls = {name: f"http://127.0.0.1:{ports[name]}" for name in ("gateway", "client")}
    return Founded(worker.image, gateway.image, urls)


def _owner(world: World) -> dict[str, object]:
    """Who is paid for the worker's tokens, and how."""
    return {
        "address": world.owner.address.friendly(testnet=True),
        "payout_min_nanotons": TON // 100,
        "payout_max_fee_share": 0.5,
        "coefficient": COEFFICIENT,
        "gas_key_file": str(world.directory / "worker-wallet.key"),
    }


def _write_files(world: World, ports: dict[str, int], gateway: MeasuredConfig) -> None:
    directory = world.directory
    owner = {"address": world.owner.address.friendly(testnet=True)}
    new_key(directory / "gateway.key")
    world.write_config(
        "gateway",
        gateway,
        owner,
        {
            "status": f"127.0.0.1:{ports['gateway']}",
            "listen_workers": f"127.0.0.1:{ports['workers']}",
            "listen_clients": f"127.0.0.1:{ports['clients']}",
            "quote_source": str(world.quotes("gateway")),
            "collateral": str(collateral_path(world.quotes("gateway"))),
            "key_file": str(directory / "gateway.key"),
            "wallet_key_file": str(directory / "gateway-wallet.key"),
            "pow_difficulty": POW_DIFFICULTY,
            "commit_interval_s": COMMIT_S,
        },
    )
    world.write_config(
        "client",
        gateway,
        owner,
        {
            "listen": f"127.0.0.1:{ports['client']}",
            "collateral": str(collateral_path(world.quotes("gateway"))),
            "api_key_file": str(directory / "api.key"),
            "wallet_key_file": str(directory / "client-wallet.key"),
            "secret_file": str(directory / "client.secret"),
            "top_up_nanotons": STAKE,
            "max_coefficient": COEFFICIENT,
            "budget_nanotons": 2 * STAKE,
        },
    )
