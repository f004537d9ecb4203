"""``chrysalis worker``, ``gateway`` and ``client``: run the programs, make their keys."""

from __future__ import annotations

import gc
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop

from appliance import logs
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.stateinit import wallet_address
from appliance.cli.options import ConfigOption, JsonOption
from appliance.cli.output import Output
from appliance.config import ClientConfig, GatewayConfig, WorkerConfig, load
from appliance.keys import new_key, write_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


worker = typer.Typer(help="The worker: serves a model, proves what it is, earns.", no_args_is_help=True)
gateway = typer.Typer(help="The gateway: admits workers and clients, routes, pays.", no_args_is_help=True)
client = typer.Typer(help="The client: a verified OpenAI-style endpoint on this machine.", no_args_is_help=True)

DEFAULT = {name: Path(f"{name}.toml") for name in ("worker", "gateway", "client")}
KeyFile = Annotated[Path, typer.Argument(help="Where to write the key (mode 0600; never overwritten).")]
GC_THRESHOLDS = (20_000, 20, 50)
OwnerOption = Annotated[str | None, typer.Option(help="The owner's address: shows the node wallet's address to fund.")]


def _serve(program: Callable[[Any], Coroutine[Any, Any, None]], config: Any) -> None:
    logs.configure(config.host.log_level)
    # What is loaded now lives as long as the process: the collector need not look at it again and again, and what a
    # request leaves behind is mostly freed by its last reference.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    uvloop.run(program(config))


@worker.command("run")
def run_worker(config: ConfigOption = DEFAULT["worker"]) -> None:
    """Run the worker until SIGTERM; it drains first."""
    from appliance.worker.program import run  # noqa: PLC0415 - one program's imports are not another's start-up time

    _serve(run, load(config, WorkerConfig))


@gateway.command("run")
def run_gateway(config: ConfigOption = DEFAULT["gateway"]) -> None:
    """Run the gateway until SIGTERM; it drains first."""
    from appliance.gateway.program import run  # noqa: PLC0415 - as above

    _serve(run, load(config, GatewayConfig))


@client.command("run")
def run_client(config: ConfigOption = DEFAULT["client"]) -> None:
    """Serve the endpoint until SIGTERM."""
    from appliance.client.program import run  # noqa: PLC0415 - as above

    _serve(run, load(config, ClientConfig))


@client.command("status")
def client_status(config: ConfigOption = DEFAULT["client"], as_json: JsonOption = False) -> None:
    """Ask the running client about its gateways, its money and its accounts."""
    from appliance.client.inspect import ask  # noqa: PLC0415 - as above

    output = Output(as_json=as_json)
    found = uvloop.run(ask(load(config, ClientConfig).host, "/status"))
    output.say("ready" if found["ready"] else "not ready: no gateway takes requests")
    output.table(
        "Gateways",
        ("address", "stage", "reason"),
        [(known["address"], known["stage"], known["reason"]) for known in found["gateways"]],
    )
    output.table(
        "Accounts",
        ("gateway contract", "spent tokens", "signed", "deposited nanotons", "closed"),
        [
            (
                known["gateway"],
                known["spent_tokens"],
                known["signed_tokens"],
                known["topped_up_nanotons"],
                known["closed"],
            )
            for known in found["accounts"]
        ],
    )
    output.result({"ok": True, **found})


@client.command("refund")
def client_refund(
    config: ConfigOption = DEFAULT["client"],
    gateway_contract: Annotated[
        str | None, typer.Option("--gateway", help="The gateway's contract; every account of the ledger without it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take stakes back to the wallet. Stop the client first; run this again after the time that it tells."""
    from appliance.client.program import refund  # noqa: PLC0415 - as above

    output = Output(as_json=as_json)
    chosen = None if gateway_contract is None else Address.parse(gateway_contract)
    reports = uvloop.run(refund(load(config, ClientConfig), chosen))
    output.table(
        "Refunds",
        ("gateway contract", "was to", "asked now", "holds nanotons", "next not before (Unix time)"),
        [(report.gateway, report.stage, report.sent, report.balance, report.unlock_at or "-") for report in reports],
    )
    output.result({"ok": True, "refunds": [report.to_dict() for report in reports]})


@worker.command("keygen")
def worker_keygen(file: KeyFile, owner: OwnerOption = None, as_json: JsonOption = False) -> None:
    """Make the node wallet's key (it can lose gas money only: the owner can always withdraw and replace it)."""
    _keygen(file, owner, Output(as_json=as_json))


@gateway.command("keygen")
def gateway_keygen(file: KeyFile, owner: OwnerOption = None, as_json: JsonOption = False) -> None:
    """Make a gateway's signing key or its wallet's key. The signing key can charge clients: guard it."""
    _keygen(file, owner, Output(as_json=as_json))


@client.command("keygen")
def client_keygen(
    file: KeyFile,
    owner: OwnerOption = None,
    text: Annotated[bool, typer.Option("--text", help="A random text: for api_key_file or secret_file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the wallet's key, or with --text the endpoint's bearer key or the client's secret."""
    output = Output(as_json=as_json)
    if not text:
        _keygen(file, owner, output)
        return
    write_secret(file, secrets.token_urlsafe(32).encode())
    output.say(f"wrote {file}")
    output.result({"ok": True, "file": str(file)})


def _keygen(file: Path, owner: str | None, output: Output) -> None:
    key = new_key(file).public_key().public_bytes_raw()
    found = {"ok": True, "file": str(file), "public_key": key.hex()}
    output.say(f"wrote {file}; public key {key.hex()}")
    if owner is not None:
        address = wallet_address(contracts.load().wallet, Address.parse(owner), key)
        found["wallet"] = address.friendly()
        output.say(f"node wallet {address.friendly()}: send it gas money")
    output.result(found)
