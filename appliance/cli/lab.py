"""``chrysalis lab``: a private chain on this machine, its faucet and its clock."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from appliance import logs
from appliance.chain.addresses import Address
from appliance.chain.wallet import tons
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.wallet import amount
from appliance.errors import ConfigError
from appliance.lab.chain.program import Settings, serve
from appliance.lab.errors import LabError

app = typer.Typer(help="A private TON network on loopback, with real contract execution.", no_args_is_help=True)
DirectoryOption = Annotated[Path, typer.Option("--directory", "-d", help="Where the chain lives.", file_okay=False)]
HERE = Path("lab")


@app.command()
def chain(
    directory: DirectoryOption = HERE,
    liteserver_port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 0,
    control_port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 0,
    block_time: Annotated[float, typer.Option(help="Seconds between blocks without work.", min=0.05)] = 2.0,
) -> None:
    """Run the chain until SIGTERM; it goes on where it stopped. Its addresses are in network.json."""
    logs.configure("info")
    asyncio.run(serve(Settings(directory, liteserver_port, control_port, block_time)))


@app.command()
def status(directory: DirectoryOption = HERE, as_json: JsonOption = False) -> None:
    """Show height, time and counts of the running chain."""
    output = Output(as_json=as_json)
    found = asyncio.run(_ask(directory, "/status"))
    output.table("chain", ("what", "value"), [(name, str(value)) for name, value in found.items()])
    output.result({"ok": True, **found})


@app.command()
def faucet(
    address: Annotated[str, typer.Argument(help="Who gets it.")],
    tons_amount: Annotated[str, typer.Argument(metavar="TON", help="How much.")],
    directory: DirectoryOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Give an account TON."""
    output = Output(as_json=as_json)
    given = amount(tons_amount)
    found = asyncio.run(_ask(directory, "/faucet", {"address": Address.parse(address).raw(), "amount": given}))
    output.say(f"{tons(given)} are on their way to {address}")
    output.result({"ok": True, **found})


@app.command()
def advance(
    seconds: Annotated[int, typer.Argument(help="How far.", min=1)],
    directory: DirectoryOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Move the chain's clock forward; it never goes back."""
    output = Output(as_json=as_json)
    found = asyncio.run(_ask(directory, "/time", {"advance_s": seconds}))
    output.say(f"the chain's clock is {seconds} s further")
    output.result({"ok": True, **found})


async def _ask(directory: Path, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the running chain's control port."""
    file = directory / "network.json"
    try:
        control = str(json.loads(file.read_text())["control"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{file}: no lab chain", hint="start one with: chrysalis lab chain") from None
    try:
        async with aiohttp.ClientSession() as http:
            method = "GET" if body is None else "POST"
            async with http.request(method, control + path, json=body) as answer:
                found: dict[str, Any] = await answer.json()
    except aiohttp.ClientError as error:
        raise LabError(f"the chain at {control} does not answer: {error}", hint="is it running?") from None
    if answer.status != 200:
        raise LabError(f"the chain refused: {found.get('error', answer.status)}")
    return found
