"""``chrysalis registry``: what the root contract lists; add and remove as its owner, or print the message to send."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.chain import admin
from appliance.chain.addresses import Address
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.registry import Registry
from appliance.cli.network import NetworkOption, open_network
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from appliance.keys import read_key

if TYPE_CHECKING:
    from appliance.chain.admin import OwnerOrder

app = typer.Typer(help="The root contract: images, models and gateways of a network.", no_args_is_help=True)
HASH_BYTES = 32


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
