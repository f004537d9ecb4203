"""``chrysalis registry``: what the root contract lists; add and remove as its owner, or print the message to send."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.chain import admin, contracts
from appliance.chain.addresses import Address
from appliance.chain.deploy import root_deploy_message
from appliance.chain.layouts import Params, RootState
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.registry import Registry
from appliance.cli.network import NetworkOption, open_network
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.registry_publish import publish, withdraw
from appliance.cli.wallet import amount
from appliance.errors import ConfigError
from appliance.keys import read_key

if TYPE_CHECKING:
    from appliance.chain.admin import OwnerOrder

app = typer.Typer(help="The root contract: images, models and gateways of a network.", no_args_is_help=True)
app.command()(publish)
app.command()(withdraw)
HASH_BYTES = 32
DEPLOY_S = 120.0


class Kind(StrEnum):
    """What is listed."""

    image = "image"
    gateway_image = "gateway-image"
    model = "model"
    gateway = "gateway"


KindArgument = Annotated[Kind, typer.Argument(help="What to change.")]
ValueArgument = Annotated[
    str,
    typer.Argument(help="image: 64 hex digits; model: name@commit:hash; gateway: ip:port [ip:port], or its number."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", "-k", help="The root owner's key file; without it the message to send is printed."),
]
RootOption = Annotated[str | None, typer.Option("--root", help="Root contract, if not the file's own.")]


@app.command()
def show(network: NetworkOption, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Show the root contract's proven state."""
    asyncio.run(_show(network, root, Output(as_json=as_json)))


@app.command()
def create(
    key: Annotated[Path, typer.Option("--key", "-k", help="The owner's key file; its wallet pays and owns.")],
    network: NetworkOption,
    price: Annotated[int, typer.Option(help="Nanotons an adjusted token costs a client.", min=0)],
    worker_fee: Annotated[int, typer.Option(help="Nanotons of it that a worker's owner gets.", min=0)],
    prompt: Annotated[int, typer.Option(help="Multiplier of prompt tokens, ten-thousandths.", min=0)] = 10_000,
    cached: Annotated[int, typer.Option(help="Multiplier of cached tokens, ten-thousandths.", min=0)] = 10_000,
    completion: Annotated[int, typer.Option(help="Multiplier of completion tokens, ten-thousandths.", min=0)] = 10_000,
    reasoning: Annotated[int, typer.Option(help="Multiplier of reasoning tokens, ten-thousandths.", min=0)] = 10_000,
    client_stake: Annotated[str, typer.Option(help="Smallest stake of a client, TON.")] = "1",
    delay: Annotated[int, typer.Option(help="Seconds between asking for a close and having it.", min=1)] = 86_400,
    as_json: JsonOption = False,
) -> None:
    """Deploy a new root contract that lists nothing yet: the beginning of a network of your own."""
    if worker_fee > price:
        raise ConfigError(
            f"the worker's fee {worker_fee} is above the price {price}", hint="the gateway keeps the difference"
        )
    codes = contracts.load()
    params = Params(
        params_version=1,
        unique_id=secrets.randbits(32),
        is_test=True,
        price_per_token=price,
        worker_fee_per_token=worker_fee,
        proxy_delay_before_close=delay,
        client_delay_before_close=max(1, delay // 2),
        prompt_tokens_price_multiplier=prompt,
        cached_tokens_price_multiplier=cached,
        completion_tokens_price_multiplier=completion,
        reasoning_tokens_price_multiplier=reasoning,
        min_client_stake=amount(client_stake),
        proxy_code=codes.proxy,
        worker_code=codes.worker,
        client_code=codes.client,
    )
    asyncio.run(_create(params, key, network, Output(as_json=as_json)))


@app.command()
def add(
    kind: KindArgument,
    value: ValueArgument,
    network: NetworkOption,
    key: KeyOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an image or a model, or register a gateway."""
    asyncio.run(_order(kind, value, network, key, root, Output(as_json=as_json), remove=False))


@app.command()
def remove(
    kind: KindArgument,
    value: ValueArgument,
    network: NetworkOption,
    key: KeyOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delist an image or a model, or unregister a gateway by its number."""
    asyncio.run(_order(kind, value, network, key, root, Output(as_json=as_json), remove=True))


async def _show(path: Path, root: str | None, output: Output) -> None:
    async with open_network(path) as (chain, network):
        registry = Registry(chain, Address.parse(root or network.root_contract))
        state = await registry.refresh()
    params = state.params
    output.say(f"root contract {registry.root_address.friendly(bounceable=True)}, version {state.version}")
    output.say(f"owner {state.owner.friendly()}, seen in block {registry.head.block.seqno}")
    rows = [("worker image", image.hex()) for image in sorted(state.worker_hashes)]
    rows += [("gateway image", image.hex()) for image in sorted(state.proxy_hashes)]
    rows += [("model (hash of its name)", model.hex()) for model in sorted(state.model_hashes)]
    rows += [(f"gateway {proxy.seqno}", proxy.text) for proxy in state.registered_proxies]
    rows += [("price a token", f"{params.price_per_token} nanotons, worker {params.worker_fee_per_token}")]
    output.table("listed", ("what", "value"), rows)
    output.result(
        {
            "ok": True,
            "root": registry.root_address.raw(),
            "version": state.version,
            "owner": state.owner.raw(),
            "worker_images": [image.hex() for image in sorted(state.worker_hashes)],
            "gateway_images": [image.hex() for image in sorted(state.proxy_hashes)],
            "model_hashes": [model.hex() for model in sorted(state.model_hashes)],
            "gateways": [{"seqno": proxy.seqno, "text": proxy.text} for proxy in state.registered_proxies],
            "price_per_token": params.price_per_token,
            "worker_fee_per_token": params.worker_fee_per_token,
        }
    )


async def _create(params: Params, key: Path, path: Path, output: Output) -> None:
    async with open_network(path) as (chain, network):
        wallet = OwnerWallet(chain, read_key(key))
        # Programs refuse a root whose is_test differs from their own configuration: the file decides.
        params = replace(params, is_test=network.is_test)
        nothing: frozenset[bytes] = frozenset()
        state = RootState(wallet.address, 1, nothing, (), 0, nothing, nothing, params)
        message = root_deploy_message(contracts.load().root, state)
        await wallet.transfer([message])
        root = message.destination
        head = await chain.head()
        while (await chain.account(root)).status != "active":
            head = await chain.wait_head(head.block.seqno, timeout=DEPLOY_S)
    output.say(
        f'root contract {root.friendly(bounceable=True)}; write it as measured.network.root_contract = "{root.raw()}"'
    )
    output.result({"ok": True, "root": root.raw(), "owner": wallet.address.raw()})


async def _order(
    kind: Kind, value: str, path: Path, key: Path | None, root: str | None, output: Output, *, remove: bool
) -> None:
    async with open_network(path) as (chain, network):
        order = _build(kind, value, Address.parse(root or network.root_contract), remove=remove)
        if key is None:
            output.say(order.explain())
            output.result({"ok": True, "sent": False, "to": order.root.raw(), "body": order.body_base64()})
            return
        done = await OwnerWallet(chain, read_key(key)).transfer([order.message()])
    output.say(f"{order.summary}: sent, transaction {done.hash.hex()}")
    output.result({"ok": True, "sent": True, "transaction": done.hash.hex()})


def _build(kind: Kind, value: str, root: Address, *, remove: bool) -> OwnerOrder:
    match kind:
        case Kind.image:
            return (admin.remove_image if remove else admin.add_image)(root, _hash(value))
        case Kind.gateway_image:
            return (admin.remove_proxy_image if remove else admin.add_proxy_image)(root, _hash(value))
        case Kind.model:
            return (admin.remove_model if remove else admin.add_model)(root, value)
        case Kind.gateway:
            return admin.unregister_proxy(root, _number(value)) if remove else admin.register_proxy(root, value)


def _hash(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != HASH_BYTES:
        raise ConfigError(f"{text!r} is not an image hash", hint="64 hex digits")
    return found


def _number(text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"{text!r} is not a gateway's number", hint="chrysalis registry show lists them")
    return int(text)
