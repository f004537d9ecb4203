"""The command ``chrysalis``: one thin file a command group, errors printed and never as tracebacks."""

from __future__ import annotations

import os
import sys

import typer

from appliance.cli import config, demo, lab, peers, registry, setup, verify, wallet
from appliance.cli.output import Output
from measurements.errors import ChrysalisError

app = typer.Typer(
    name="chrysalis",
    help="A confidential worker appliance: attested inference that earns TON by the token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.demo)
app.command("setup")(setup.setup)
app.command("verify")(verify.verify)
app.add_typer(config.app, name="config")
app.add_typer(lab.app, name="lab")
app.add_typer(peers.worker, name="worker")
app.add_typer(peers.gateway, name="gateway")
app.add_typer(peers.client, name="client")
app.add_typer(wallet.app, name="wallet")
app.add_typer(registry.app, name="registry")


def run() -> None:
    """Run the command line; exits 0, 1 for a stated error, 2 for wrong usage, 130 when interrupted."""
    output = Output(as_json="--json" in sys.argv)
    try:
        app(prog_name="chrysalis")  # ends with SystemExit: 0, 2 for wrong usage, 130 when interrupted
    except ChrysalisError as error:
        output.failure(error.message, error.hint)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("CHRYSALIS_TRACE"):
            raise
        output.failure(
            f"internal error: {type(error).__name__}: {error}", "repeat with CHRYSALIS_TRACE=1 and report it"
        )
        sys.exit(1)
