"""``chrysalis wallet``: an owner's wallet (v4r2): make it, look at it, send, take back a node wallet's money."""

from __future__ import annotations

import asyncio
import secrets
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.chain import contracts, rewards
from appliance.chain.addresses import Address
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.messages import WalletReplaceKey
from appliance.chain.owner_wallet import OwnerWallet, owner_wallet_state
from appliance.chain.relay import FileRelay, relay_once, run_relay
from appliance.chain.stateinit import wallet_address
from appliance.chain.wallet import NANOTONS, tons
from appliance.cli.network import NetworkOption, open_network
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from appliance.keys import new_key, read_key

if TYPE_CHECKING:
    from appliance.chain.types import Transaction

app = typer.Typer(help="The owner's wallet, and the node wallets it owns.", no_args_is_help=True)
GAS_NANOTONS = 100_000_000
KeyOption = Annotated[Path, typer.Option("--key", "-k", help="The wallet's key file (mode 0600).", dir_okay=False)]
AddressArgument = Annotated[str, typer.Argument(help="An address, friendly or workchain:hex.")]


def amount(text: str) -> int:
    """An amount in TON, such as ``1.5``, as nanotons; raises ``ConfigError``."""
    try:
        value = Decimal(text) * NANOTONS
    except InvalidOperation:
        raise ConfigError(f"{text!r} is not an amount of TON", hint="for example 1.5") from None
    if value != value.to_integral_value() or value <= 0:
        raise ConfigError(f"{text} TON is not a positive number of nanotons", hint="at most nine decimals")
    return int(value)


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="Where to write the key.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its wallet's address; the wallet deploys itself with its first transfer."""
    output = Output(as_json=as_json)
    address = owner_wallet_state(new_key(file).public_key().public_bytes_raw()).address()
    output.say(f"wrote {file}; address {address.friendly()}")
    output.result({"ok": True, "file": str(file), "address": address.friendly(), "raw": address.raw()})


@app.command()
def show(address: AddressArgument, network: NetworkOption, as_json: JsonOption = False) -> None:
    """Show an account's proven balance and what its last transactions did."""
    output = Output(as_json=as_json)
    asyncio.run(_show(Address.parse(address), network, output))


@app.command()
def send(
    destination: AddressArgument,
    tons_amount: Annotated[str, typer.Argument(metavar="TON", help="How much, for example 1.5.")],
    key: KeyOption,
    network: NetworkOption,
    as_json: JsonOption = False,
) -> None:
    """Send TON and wait for the proven transaction."""
    message = OutgoingMessage(Address.parse(destination), amount(tons_amount), bounce=False)
    asyncio.run(_transfer(message, key, network, Output(as_json=as_json)))


@app.command()
def node(
    key: Annotated[Path, typer.Argument(help="The node's key file.")],
    owner: Annotated[str, typer.Option(help="The owner's address.")],
    as_json: JsonOption = False,
) -> None:
    """Show the address of a node wallet."""
    output = Output(as_json=as_json)
    public_key = read_key(key).public_key().public_bytes_raw()
    address = wallet_address(contracts.load().wallet, Address.parse(owner), public_key)
    output.say(address.friendly())
    output.result({"ok": True, "address": address.friendly(), "raw": address.raw()})


@app.command()
def withdraw(node_wallet: AddressArgument, key: KeyOption, network: NetworkOption, as_json: JsonOption = False) -> None:
    """Take back everything from a node wallet; --key is its owner's."""
    from appliance.chain.cells import Writer  # noqa: PLC0415 - one message

    body = Writer("text order").uint(0, 32).uint(ord("w"), 8).end()
    message = OutgoingMessage(Address.parse(node_wallet), GAS_NANOTONS, body)
    asyncio.run(_transfer(message, key, network, Output(as_json=as_json)))


@app.command()
def replace_key(
    node_wallet: AddressArgument,
    new_node_key: Annotated[Path, typer.Argument(help="The node's new key file.")],
    key: KeyOption,
    network: NetworkOption,
    as_json: JsonOption = False,
) -> None:
    """Give a node wallet another key, so that a leaked one is worth nothing; --key is its owner's."""
    public_key = read_key(new_node_key).public_key().public_bytes_raw()
    body = WalletReplaceKey(secrets.randbits(64), public_key).to_cell()
    message = OutgoingMessage(Address.parse(node_wallet), GAS_NANOTONS, body)
    asyncio.run(_transfer(message, key, network, Output(as_json=as_json)))


@app.command()
def relay(
    folder: Annotated[Path, typer.Argument(help="The worker's host.relay: its orders.", file_okay=False)],
    key: KeyOption,
    network: NetworkOption,
    once: Annotated[bool, typer.Option("--once", help="Look once instead of until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a worker's payout orders from the owner's wallet: a worker that holds no key is paid all the same."""
    output = Output(as_json=as_json)
    sent = asyncio.run(_relay(folder, key, network, once=once))
    output.say(f"sent {sent} payouts")
    output.result({"ok": True, "sent": sent})


async def _relay(folder: Path, key: Path, network: Path, *, once: bool) -> int:
    async with open_network(network) as (chain, _):
        wallet = OwnerWallet(chain, read_key(key))
        if once:
            return await relay_once(chain, wallet, FileRelay(folder))
        await run_relay(chain, wallet, folder)
    return 0


async def _show(address: Address, network: Path, output: Output) -> None:
    async with open_network(network) as (chain, _):
        state = await chain.account(address)
        statement = await rewards.explain(chain, address)
    output.say(f"{address.friendly()}  {state.status}  {tons(state.balance)}  (block {state.head.block.seqno})")
    for line in statement.lines():
        output.say(f"  {line}")
    output.result(
        {
            "ok": True,
            "address": address.friendly(),
            "status": state.status,
            "balance": state.balance,
            "block": state.head.block.seqno,
            "explained": statement.explained,
        }
    )


async def _transfer(message: OutgoingMessage, key: Path, network: Path, output: Output) -> None:
    async with open_network(network) as (chain, _):
        wallet = OwnerWallet(chain, read_key(key))
        done: Transaction = await wallet.transfer([message])
    output.say(f"sent {tons(message.value)} to {message.destination.friendly()}, transaction {done.hash.hex()}")
    output.result({"ok": True, "transaction": done.hash.hex(), "lt": done.lt, "fees": done.total_fees})
