"""``chrysalis config``: check a file, show every key."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.config import ClientConfig, GatewayConfig, WorkerConfig, load

if TYPE_CHECKING:
    from pydantic import BaseModel


app = typer.Typer(help="Check and explain configuration files.", no_args_is_help=True)


class Program(StrEnum):
    """Which program a file configures."""

    worker = "worker"
    gateway = "gateway"
    client = "client"


def _model(program: Program) -> type[WorkerConfig | GatewayConfig | ClientConfig]:
    models: dict[Program, type[WorkerConfig | GatewayConfig | ClientConfig]] = {
        Program.worker: WorkerConfig,
        Program.gateway: GatewayConfig,
        Program.client: ClientConfig,
    }
    return models[program]


@app.command()
def check(
    program: Annotated[Program, typer.Argument(help="Which program the file is for.")],
    file: Annotated[Path, typer.Argument(help="The TOML file.")],
    as_json: JsonOption = False,
) -> None:
    """Check a file; every fault is named by line and key. Prints the measured configuration's digest."""
    output = Output(as_json=as_json)
    loaded = load(file, _model(program))
    digest = loaded.measured.digest().hex()
    output.say(f"{file}: good; measured configuration {digest}")
    output.result({"ok": True, "program": program.value, "measured_config": digest})


@app.command()
def show(
    program: Annotated[Program, typer.Argument(help="Which program to explain.")],
    as_json: JsonOption = False,
) -> None:
    """List every key of a program's file with its type and default."""
    output = Output(as_json=as_json)
    rows = list(_rows(_model(program), ()))
    output.table(f"{program.value}.toml", ("key", "type", "default"), rows)
    output.result({"ok": True, "keys": [dict(zip(("key", "type", "default"), row, strict=True)) for row in rows]})


def _rows(model: type[BaseModel], prefix: tuple[str, ...]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        inner = _nested(field.annotation)
        if inner is not None:
            rows += _rows(inner, path)
            continue
        default = "required" if field.is_required() else json.dumps(field.default, default=str)
        rows.append((".".join(path), _type(schema["properties"][name]), default))
    return rows


def _nested(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and hasattr(candidate, "model_fields") and "tuple" not in str(annotation):
            return candidate
    return None


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(item) for item in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    return str(schema.get("type", "any"))
