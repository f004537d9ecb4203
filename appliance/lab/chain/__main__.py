"""``python -m appliance.lab.chain``: the lab's chain as a process."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it from the signature
from typing import Annotated

import typer
import uvloop

from appliance.errors import ApplianceError
from appliance.lab.chain.devnet import DEFAULT_BLOCK_LIMIT, DEFAULT_GLOBAL_ID
from appliance.lab.chain.program import Settings, serve


def main(  # noqa: PLR0917 - each is an option of the command line
    directory: Annotated[Path, typer.Option(help="Where the chain lives; an empty one gets a new chain.")],
    liteserver_port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 0,
    control_port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 0,
    block_time: Annotated[float, typer.Option(help="Seconds between blocks without work.")] = 2.0,
    block_delay: Annotated[float, typer.Option(help="Seconds from work to its block.")] = 0.05,
    global_id: Annotated[int, typer.Option(help="Network id of a new chain.")] = DEFAULT_GLOBAL_ID,
    block_limit: Annotated[int, typer.Option(help="Most transactions of a block.", min=1)] = DEFAULT_BLOCK_LIMIT,
    watch_parent: Annotated[bool, typer.Option("--watch-parent", help="End when the parent process does.")] = False,
) -> None:
    """Run a private TON network on loopback until SIGTERM or SIGINT."""
    settings = Settings(
        directory, liteserver_port, control_port, block_time, block_delay, global_id, block_limit, watch_parent
    )
    try:
        uvloop.run(serve(settings))
    except ApplianceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
