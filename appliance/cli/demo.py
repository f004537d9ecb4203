"""``chrysalis demo``: the whole network on this machine, on real parts."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance import logs
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown
from appliance.config.home import home
from appliance.lab.demo import Demonstration
from appliance.lab.demo_result import PROMPTS, Result, Settings
from appliance.lab.demo_site import ProcessSite, WorkerSite
from appliance.lab.errors import LabError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.engine.progress import Progress


class Delist(StrEnum):
    """What to leave out of the root contract."""

    image = "image"
    model = "model"


class Tamper(StrEnum):
    """What to alter by one byte of what a guest boots."""

    root = "root"
    uki = "uki"
    command_line = "command-line"
    configuration = "configuration"
    model = "model"


class Accel(StrEnum):
    """How the guest's processor runs."""

    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


class Told:
    """Stages, lines and answers for a person; with ``--json`` they go to standard error."""

    def __init__(self, output: Output, progress: Callable[[Progress], None]) -> None:
        self._output = output
        self._console = output.console if output.as_json else output.plain
        self.progress = progress

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._console.print(f"\n[bold cyan]== {name}[/]")

    def line(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def text(self, piece: str) -> None:
        """A piece of an answer as it comes."""
        self._console.print(piece, end="", markup=False, soft_wrap=True)

    def shown(self, result: Result) -> None:
        """The result so far, for a program that goes on while the network stays up."""
        self._output.result(result.to_dict())


def demo(
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Ask this instead; may be repeated.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="smollm2 (a real chat model) or tiny (random weights, seconds; the default with --vm)."),
    ] = None,
    vm: Annotated[bool, typer.Option("--vm", help="Boot the appliance image and run the worker inside it.")] = False,
    image: Annotated[Path | None, typer.Option(help="With --vm: the built image's directory.")] = None,
    accel: Annotated[Accel, typer.Option(help="With --vm: KVM where it works, or emulation.")] = Accel.auto,
    tamper: Annotated[
        Tamper | None, typer.Option(help="With --vm: alter one byte after everything is listed: see the refusal.")
    ] = None,
    delist: Annotated[
        Delist | None, typer.Option(help="Leave the worker's image or model unlisted: see the refusal.")
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="When all is shown, leave the network running until Ctrl-C.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the directory with keys, files, ledgers and logs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole network on this machine: chain, engine, gateway, worker, client; three prompts; a payout."""
    logs.configure("warning")
    output = Output(as_json=as_json)
    if not vm and (image is not None or tamper is not None or accel is not Accel.auto):
        raise LabError("--image, --accel and --tamper are for the booted image", hint="add --vm")
    directory = Path(tempfile.mkdtemp(prefix="chrysalis-demo-"))
    settings = Settings(
        directory,
        model or ("tiny" if vm else "smollm2"),
        tuple(prompt or PROMPTS),
        delist.value if delist else None,
        tamper.value if tamper else None,
        stay=asyncio.Event() if stay else None,
    )
    failure = ""
    with ExitStack() as stack:
        told = Told(output, stack.enter_context(shown(output)))
        site: WorkerSite = ProcessSite(directory, told.line)
        if vm:
            from appliance.lab.demo_guest import GuestSettings, GuestSite  # noqa: PLC0415 -- needs what a host needs

            guest = GuestSettings((image or home() / "image" / "engine-cpu").resolve(), accel.value, settings.tamper)
            site = GuestSite(directory, guest, told.line)
        demonstration = Demonstration(settings, told, site)
        try:
            asyncio.run(_until_ended(demonstration, settings.stay))
        except ChrysalisError as error:
            failure = str(error)
    result = demonstration.result
    result.error = failure
    result.ok = result.ok and not failure
    _summary(output, result)
    if keep or (failure and not settings.refused):
        output.progress(f"kept: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    output.result(result.to_dict())
    raise typer.Exit(0 if result.ok else 1)


async def _until_ended(demonstration: Demonstration, stay: asyncio.Event | None) -> None:
    """Run. A signal ends it, and nothing is left running; once everything is shown, that is not a failure."""
    task = asyncio.ensure_future(demonstration.run())

    def end() -> None:
        if stay is not None and demonstration.staying:
            stay.set()
        else:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await task
    except asyncio.CancelledError:
        raise LabError("the demonstration was ended by a signal") from None


def _summary(output: Output, result: Result) -> None:
    output.table("stages", ("stage", "seconds"), [(item["name"], f"{item['seconds']:.1f}") for item in result.stages])
    output.table("checks", ("check", "holds"), [(name, "yes" if ok else "NO") for name, ok in result.checks.items()])
    if result.tokens:
        rows = [(source, *(counts.get(kind, "") for kind in ("prompt", "completion", "total")))
                for source, counts in result.tokens.items()]  # fmt: skip
        output.table("tokens (the ledger's are adjusted)", ("counted by", "prompt", "completion", "total"), rows)
    if result.ok:
        output.say(f"\nThe owner earned {result.owner_after - result.owner_before} nanotons. Everything agrees.")
    else:
        failed = [name for name, ok in result.checks.items() if not ok]
        output.failure(result.error or f"does not hold: {', '.join(failed)}") if not output.as_json else None
