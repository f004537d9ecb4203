"""A whole private network on one machine, ready for its programs: contracts on the lab chain, keys, machines, files.

In: a directory, a running lab chain, a model's name. Out: a root contract that lists the images and the model, funded
wallets, quoting services of two simulated machines, and one TOML file a program. Everything that a network's owner
would do by hand is done here with the same builders and wallets that the command line uses.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import tomli_w

from appliance.assembly import open_chain
from appliance.chain import contracts
from appliance.chain.deploy import root_deploy_message
from appliance.chain.layouts import Params, RootState
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.stateinit import wallet_address
from appliance.config import HostConfig, LiteserverConfig, MeasuredConfig, NetworkConfig, TrustConfig
from appliance.keys import new_key, write_secret
from appliance.lab import gpu_world_service, tee_service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.errors import LabError
from appliance.lab.tee import SyntheticTdx
from attestation.claims import image_hash
from attestation.platforms.simulated_gpus import devices_path
from attestation.tdx import parse_quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.chain.addresses import Address
    from appliance.chain.admin import OwnerOrder
    from appliance.chain.client import ChainClient
    from appliance.lab.gpu_world import SyntheticGpus

TON = 10**9
UNIQUE_ID = 20_251
REGISTER_BYTES = 48
QUICK_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Economy:
    """Prices of the private network: nanotons an adjusted token, multipliers in ten-thousandths."""

    price_per_token: int = 20_000
    worker_fee_per_token: int = 17_000
    prompt_multiplier: int = 10_000
    cached_multiplier: int = 1_000
    completion_multiplier: int = 80_000
    reasoning_multiplier: int = 80_000
    min_client_stake: int = 20 * TON

    def params(self) -> Params:
        """The root contract's parameters with the codes of our own contracts."""
        codes = contracts.load()
        return Params(
            params_version=1,
            unique_id=UNIQUE_ID,
            is_test=True,
            price_per_token=self.price_per_token,
            worker_fee_per_token=self.worker_fee_per_token,
            proxy_delay_before_close=600,
            client_delay_before_close=300,
            prompt_tokens_price_multiplier=self.prompt_multiplier,
            cached_tokens_price_multiplier=self.cached_multiplier,
            completion_tokens_price_multiplier=self.completion_multiplier,
            reasoning_tokens_price_multiplier=self.reasoning_multiplier,
            min_client_stake=self.min_client_stake,
            proxy_code=codes.proxy,
            worker_code=codes.worker,
            client_code=codes.client,
        )


@dataclass(slots=True)
class Ports:
    """Free loopback ports, held until the programs take them."""

    taken: list[socket.socket] = field(default_factory=list)

    def take(self) -> int:
        """A port that is free now and was not given out before."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self.taken.append(held)
        return int(held.getsockname()[1])

    def release(self) -> None:
        """Let the programs have them."""
        for held in self.taken:
            held.close()
        self.taken.clear()


class Machine:
    """A simulated confidential VM: quotes whose MRCONFIGID carries the digest of its measured configuration.

    Args:
        world: Its processor and vendor.
        measured: Its measured configuration.
        registers: Registers that another image would have, over the world's own; the event log does not know of them.
    """

    def __init__(
        self, world: SyntheticTdx, measured: MeasuredConfig, registers: Mapping[str, bytes] | None = None
    ) -> None:
        self._world = world
        self._registers = {**(registers or {}), "mr_config_id": measured.digest().ljust(REGISTER_BYTES, b"\0")}

    @property
    def root_der(self) -> bytes:
        """The world's root certificate."""
        return self._world.root_der

    def quote(self, report_data: bytes) -> bytes:
        """A quote of this machine."""
        return self._world.quote(report_data, body=None, **self._registers)

    def collateral_json(self) -> bytes:
        """The world's collateral."""
        return self._world.collateral_json()

    def event_log(self) -> bytes:
        """What this machine measured while it booted."""
        return self._world.event_log()

    @property
    def image(self) -> bytes:
        """The image hash that a verifier will see, 32 bytes."""
        return image_hash(parse_quote(self.quote(bytes(64))).report.measurements)


class World:
    """The network. Use as a context manager; the chain must be running.

    Args:
        directory: For keys, sockets and files.
        network_file: ``network.json`` as the lab chain wrote it.
        control: Address of the lab chain's control interface.
        economy: Prices.
    """

    def __init__(self, directory: Path, network_file: Path, control: str, economy: Economy | None = None) -> None:
        self.directory = directory
        self.economy = economy or Economy()
        self.ports = Ports()
        self._facts: dict[str, Any] = json.loads(network_file.read_text())
        self._control = control
        self._stack = AsyncExitStack()
        self.tee = SyntheticTdx()
        self.root_owner_key = new_key(directory / "root-owner.key")
        self.owner_key = new_key(directory / "owner.key")
        self.liteservers = tuple(LiteserverConfig.model_validate(server) for server in self._facts["liteservers"])
        self.chain: ChainClient
        self.network: NetworkConfig
        self.root_owner: OwnerWallet
        self.owner: OwnerWallet

    async def __aenter__(self) -> Self:
        """Connect to the chain; nothing is deployed yet."""
        self.network = NetworkConfig(
            global_id=self._facts["global_id"],
            zerostate=self._facts["zerostate"],
            key_block=self._facts["key_block"],
            root_contract=f"0:{'0' * 64}",
            is_test=True,
            testnet=True,
        )
        host = HostConfig(state_dir=self.directory, liteservers=self.liteservers)
        self.chain = await self._stack.enter_async_context(open_chain(self.network, host))
        self.root_owner = OwnerWallet(self.chain, self.root_owner_key)
        self.owner = OwnerWallet(self.chain, self.owner_key)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop the quoting services and let go of the chain."""
        self.ports.release()
        await self._stack.aclose()

    async def faucet(self, address: Address, amount: int) -> None:
        """Give an account nanotons of the lab's faucet, and wait until a proof shows them."""
        before = (await self.chain.account(address)).balance
        await self._post("/faucet", {"address": address.raw(), "amount": amount})
        head = await self.chain.head()
        while (await self.chain.account(address)).balance <= before:
            head = await self.chain.wait_head(head.block.seqno, timeout=60.0)

    async def deploy_root(self) -> Address:
        """Fund the root's owner and deploy an empty root contract; measured configurations name it from then on."""
        await self.faucet(self.root_owner.address, 1000 * TON)
        empty: frozenset[bytes] = frozenset()
        state = RootState(self.root_owner.address, 1, empty, (), 0, empty, empty, self.economy.params())
        message = root_deploy_message(contracts.load().root, state)
        await self.root_owner.transfer([message])
        await self._appear(message.destination)
        self.network = self.network.model_copy(update={"root_contract": message.destination.raw()})
        return message.destination

    async def order(self, *orders: OwnerOrder) -> None:
        """Send the root's owner's messages, four at a time."""
        for start in range(0, len(orders), 4):
            await self.root_owner.transfer([order.message() for order in orders[start : start + 4]])

    def measured(
        self,
        model: str | None = None,
        engine: Mapping[str, Any] | None = None,
        *,
        trust: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> MeasuredConfig:
        """The measured configuration of a program of this network.

        Args:
            model: A worker's model.
            engine: A worker's engine settings.
            trust: Added to what everybody here trusts.
            more: Other parts of the measured configuration.
        """
        roots = (base64.b64encode(self.tee.root_der).decode(),)
        common = {"policy": "simulated", "development": True, "simulated_roots": roots}
        return MeasuredConfig.model_validate(
            {
                "network": self.network,
                "trust": TrustConfig.model_validate(common | dict(trust or {})),
                "model": model,
                "engine": dict(engine) if engine else None,
                **more,
            }
        )

    async def machine(
        self,
        name: str,
        measured: MeasuredConfig,
        gpus: SyntheticGpus | None = None,
        *,
        registers: Mapping[str, bytes] | None = None,
    ) -> Machine:
        """Start the quoting service of a simulated machine; its socket is ``<name>.quotes`` in the directory.

        Args:
            name: Of the machine.
            measured: Its measured configuration.
            gpus: Its GPUs; their device service is then beside the quoting service's socket
                (:func:`attestation.platforms.simulated_gpus.devices_path`).
            registers: See :class:`Machine`.
        """
        machine = Machine(self.tee, measured, registers)
        server = await tee_service.start(self.quotes(name), machine)
        self._stack.callback(server.close)
        if gpus is not None:
            devices = await gpu_world_service.start(devices_path(self.quotes(name)), gpus)
            self._stack.callback(devices.close)
        return machine

    async def services(self, gpus: SyntheticGpus | None = None) -> CollateralServer:
        """Start the vendors' services of this world, on a loopback port of their own.

        Args:
            gpus: Whose vendor answers for manifests and revocation, if there are any.
        """
        return await self._stack.enter_async_context(CollateralServer(tdx=self.tee, gpus=gpus))

    def quotes(self, name: str) -> Path:
        """The socket of a machine's quoting service."""
        return self.directory / f"{name}.quotes"

    def wallet_of(self, key_file: str) -> Address:
        """Make a node wallet's key; the address that has to be funded."""
        key = new_key(self.directory / key_file)
        return wallet_address(contracts.load().wallet, self.owner.address, key.public_key().public_bytes_raw())

    def secret(self, name: str) -> str:
        """Make a random text in a file of mode 0600."""
        text = secrets.token_urlsafe(32)
        write_secret(self.directory / name, text.encode())
        return text

    def write_config(
        self, name: str, measured: MeasuredConfig, owner: Mapping[str, Any], host: Mapping[str, Any]
    ) -> Path:
        """Write a program's TOML file."""
        common = {
            "state_dir": str(self.directory / f"{name}-state"),
            "liteservers": [server.model_dump() for server in self.liteservers],
            "registry_poll_s": QUICK_POLL_S,
        }
        content = {
            "measured": measured.model_dump(mode="json", exclude_none=True),
            "owner": dict(owner),
            "host": common | dict(host),
        }
        path = self.directory / f"{name}.toml"
        path.write_text(tomli_w.dumps(content))
        return path

    async def _appear(self, address: Address) -> None:
        head = await self.chain.head()
        while (await self.chain.account(address)).status != "active":
            head = await self.chain.wait_head(head.block.seqno, timeout=60.0)

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with aiohttp.ClientSession() as http, http.post(self._control + path, json=body) as answer:
            found: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise LabError(f"the lab chain refused {path}: {found.get('error', answer.status)}")
            return found
