"""``chrysalis setup``: fetch and build everything that is cached, so that the rest runs without a network."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown
from appliance.config import home
from appliance.engine.models import RECIPES, prepare
from appliance.lab.tvm_tools import prepare_tools


def setup(
    model: Annotated[list[str] | None, typer.Option(help=f"Only this model ({', '.join(sorted(RECIPES))}).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the engine's environment and the models, fetch the TVM; a second run needs no network."""
    output = Output(as_json=as_json)
    found = {}
    with shown(output) as progress:
        prepare_tools(output.progress)
        for name in model or sorted(RECIPES):
            prepared = asyncio.run(prepare(name, progress))
            found[name] = {"name": prepared.name, "directory": str(prepared.directory)}
            output.say(f"{name}: {prepared.name}")
    output.say(f"everything is in {home()} (CHRYSALIS_HOME moves it)")
    output.result({"ok": True, "home": str(home()), "models": found})
