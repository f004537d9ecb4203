"""The command ``chrysalis``: one thin file a command group, errors printed and never as tracebacks.

Only the group that is asked for is imported: a verifier needs no chain library, a worker's start does not load the lab.
Where a group's packages are not installed, it says which extra brings them.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import typer

from appliance import logs
from appliance.cli.output import Output
from measurements.errors import ChrysalisError


@dataclass(frozen=True, slots=True)
class Group:
    """A command or a group of them: where it is, and the extra whose packages it needs.

    ``failed`` is the exit status of an error: another than 1 where that is one of the command's answers.
    """

    name: str
    module: str
    attribute: str
    extra: str
    about: str
    failed: int = 1


GROUPS = (
    Group("demo", "demo", "demo", "lab", "Run the whole network on this machine."),
    Group("setup", "setup", "setup", "lab", "Fetch and build everything that is cached."),
    Group("verify", "verify", "verify", "", "Judge evidence."),
    Group("attest", "attest", "app", "", "Evidence: collect, show, verify, anchor; policies."),
    Group("collateral", "collateral", "app", "", "What evidence is judged by."),
    Group("config", "config", "app", "", "Check and explain configuration files."),
    Group("worker", "peers", "worker", "worker", "The worker."),
    Group("gateway", "peers", "gateway", "gateway", "The gateway."),
    Group("client", "peers", "client", "client", "The client."),
    Group("wallet", "wallet", "app", "client", "The owner's wallet."),
    Group("registry", "registry", "app", "client", "The root contract."),
    Group("model", "model", "app", "", "Model volumes."),
    Group("image", "image", "app", "", "The image as files."),
    Group("measure", "measure", "app", "", "Measurements: predict, read logs, explain differences."),
    Group("audit", "audit", "audit", "client", "Check a release: rebuild it and compare.", failed=2),
    Group("vm", "vm", "app", "", "The image as a virtual machine."),
    Group("lab", "lab", "app", "lab", "A private chain on this machine."),
)


def build(asked: str | None = None) -> typer.Typer:
    """The application.

    Args:
        asked: The one group that is needed; None for all of them (for ``--help``).
    """
    app = typer.Typer(
        name="chrysalis",
        help="A confidential worker appliance: attested inference that earns TON by the token.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_root)
    names = {group.name for group in GROUPS}
    for group in GROUPS:
        if asked is None or asked not in names or group.name == asked:
            _add(app, group)
    return app


def _root() -> None:
    """A confidential worker appliance: attested inference that earns TON by the token."""


def _add(app: typer.Typer, group: Group) -> None:
    try:
        found = getattr(import_module(f"appliance.cli.{group.module}"), group.attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("appliance", "attestation", "measurements"):
            raise
        found = _absent(group, error.name or "a package")
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=group.name)
    else:
        loose = {"allow_extra_args": True, "ignore_unknown_options": True} if found.__name__ == "absent" else None
        app.command(group.name, context_settings=loose)(found)


def _absent(group: Group, package: str) -> Callable[[], NoReturn]:
    def absent() -> NoReturn:
        raise ChrysalisError(
            f"{group.name} needs {package}, which is not installed",
            hint=f"pip install 'chrysalis-appliance[{group.extra}]'",
        )

    absent.__doc__ = f"{group.about} (not installed: extra {group.extra})"
    return absent


def run() -> None:
    """Run the command line; exits 0, the group's ``failed`` for an error, 2 for wrong usage, 130 when interrupted."""
    logs.configure("warning")  # to standard error, whatever a command does: standard output is for its result
    output = Output(as_json="--json" in sys.argv)
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    failed = next((group.failed for group in GROUPS if group.name == asked), 1)
    try:
        build(asked)(prog_name="chrysalis")  # ends with SystemExit
    except ChrysalisError as error:
        output.failure(error.message, error.hint)
        sys.exit(failed)
    except Exception as error:  # noqa: BLE001 - whatever it is, the status is the command's
        traced = bool(os.environ.get("CHRYSALIS_TRACE"))
        if traced:  # printed, not raised again: the interpreter's own status is 1
            traceback.print_exc()
        output.failure(
            f"internal error: {type(error).__name__}: {error}",
            "report it with the lines above" if traced else "repeat with CHRYSALIS_TRACE=1 and report it",
        )
        sys.exit(failed)
