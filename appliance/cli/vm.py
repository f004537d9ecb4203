"""``chrysalis vm``: the image as a virtual machine on this host; launched, watched, stopped."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.boot.configuration import Handed, check
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.config import home
from appliance.errors import ConfigError
from appliance.host.confidential import find_protection
from appliance.host.errors import NotReadyError
from appliance.host.follow import console_lines
from appliance.host.kvm import probe_kvm
from appliance.host.launch import start
from appliance.host.machine import STATUS_PORT, Configuration, Forward, Machine, Protection
from appliance.host.readiness import Stage, get_bytes, look, until_stages
from appliance.host.record import machine_directory, names
from appliance.host.running import RunningVm, delete, find
from appliance.image.sizes import parse_size
from appliance.keys import read_secret

if TYPE_CHECKING:
    from collections.abc import Awaitable

app = typer.Typer(help="The image as a virtual machine on this host.", no_args_is_help=True)

MAX_TEXT_BYTES = 256 * 1024
MIB = 1 << 20


class Accel(StrEnum):
    """What runs the guest's instructions."""

    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


class BootWay(StrEnum):
    """How the firmware comes to the UKI."""

    disk = "disk"
    direct = "direct"


class Protected(StrEnum):
    """What keeps the host out of the guest."""

    none = "none"
    auto = "auto"
    tdx = "tdx"
    snp = "snp"


GraceOption = Annotated[float, typer.Option(help="Seconds the guest gets after the power button.")]
NameArgument = Annotated[str, typer.Argument(help="The machine's name.")]


@app.command()
def launch(
    name: NameArgument,
    measured: Annotated[Path, typer.Option(help="The measured configuration (part of the machine's identity).")],
    owner: Annotated[Path, typer.Option(help="The owner's configuration (bound into evidence).")],
    host: Annotated[Path, typer.Option(help="The host's configuration (addresses).")],
    gas_key: Annotated[Path | None, typer.Option(help="The node wallet's key file; without it the relay pays.")] = None,
    image: Annotated[Path | None, typer.Option(help="Directory of a built image.")] = None,
    profile: Annotated[str, typer.Option(help="Take the image that was built for this profile.")] = "engine-cpu",
    model: Annotated[Path | None, typer.Option(help="The model volume (chrysalis model pack).")] = None,
    state: Annotated[str | None, typer.Option(help="Size of a volume that survives, for example 20G.")] = None,
    memory: Annotated[str, typer.Option(help="Memory, for example 8G.")] = "4G",
    cpus: Annotated[int, typer.Option(help="Virtual CPUs.")] = 2,
    accel: Annotated[Accel, typer.Option(help="auto starts a tiny guest to see whether KVM works.")] = Accel.auto,
    boot: Annotated[BootWay, typer.Option(help="disk as a machine boots; direct hands the UKI over.")] = BootWay.disk,
    protection: Annotated[Protected, typer.Option(help="TDX or SEV-SNP, where this host has it.")] = Protected.none,
    forward: Annotated[
        list[str] | None, typer.Option(help="GUEST or HOST:GUEST: a loopback port that leads into the guest.")
    ] = None,
    restrict: Annotated[bool, typer.Option("--restrict", help="The guest reaches nothing outside.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the boot; 0 returns at once.")] = 1800.0,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; Ctrl-C stops the machine.")] = False,
    grace: GraceOption = 90.0,
    as_json: JsonOption = False,
) -> None:
    """Start the image with QEMU; prints every command it runs. The machine outlives this command."""
    output = Output(as_json=as_json)
    configuration = Configuration(
        _text(measured), _text(owner), _text(host), read_secret(gas_key, "gas key") if gas_key else None
    )
    digest = check(Handed("volume", configuration.members())).measured.digest()
    forwards = [Forward.parse(text) for text in forward or ()]
    if STATUS_PORT not in [item.guest_port for item in forwards]:
        forwards.insert(0, Forward(STATUS_PORT))
    machine = Machine(
        name=name,
        directory=machine_directory(name),
        image=(image or home() / "image" / profile).absolute(),
        cpus=cpus,
        memory_mib=parse_size(memory) // MIB,
        accel=accel.value,
        boot=boot.value,
        configuration=configuration,
        model=model.absolute() if model else None,
        state_mib=parse_size(state) // MIB if state else None,
        forwards=tuple(forwards),
        restrict=restrict,
        protection=_protection(protection),
        config_digest=digest,
    )
    vm = asyncio.run(_launch(machine, output, wait, grace=grace if foreground else None))
    if vm.alive:
        output.say(f"{name} runs; status: https://127.0.0.1:{vm.forwards[STATUS_PORT]}; chrysalis vm status {name}")
    output.result({"ok": True, **_facts(vm)})


@app.command()
def logs(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the machine runs.")] = False,
) -> None:
    """Print what the guest wrote to its console."""

    async def show() -> None:
        async for line in console_lines(find(name), follow=follow):
            typer.echo(line)

    with suppress(KeyboardInterrupt):
        asyncio.run(show())


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="The machine's name; without one, all are listed.")] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Ask for fresh evidence and keep it in this file, for chrysalis verify.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a machine's boot, stage by stage, as its status port tells it. Exit 0 where it runs and no stage failed."""
    output = Output(as_json=as_json)
    if name is None:
        machines = [find(item) for item in names()]
        rows = [(vm.name, "runs" if vm.alive else "ended", vm.accel, vm.record.image) for vm in machines]
        output.table("machines", ("name", "state", "accel", "image"), rows)
        output.result({"ok": True, "machines": [_facts(vm) for vm in machines]})
        return
    vm = find(name)
    stages, source = look(vm)
    good = vm.alive and not any(stage.state == "failed" for stage in stages)
    output.say(f"{name}: {'runs' if vm.alive else 'ended'}; {vm.accel} ({vm.record.accel_reason}); stages by {source}")
    output.table("stages", ("stage", "state", "seconds", "reason"), [_row(stage) for stage in stages])
    result: dict[str, Any] = {"ok": good, **_facts(vm), "stages": [s.model_dump() for s in stages], "source": source}
    if evidence is not None:
        result["evidence"] = _keep_evidence(vm, evidence, output)
    output.result(result)
    raise typer.Exit(0 if good else 1)


@app.command()
def stop(
    name: NameArgument,
    grace: GraceOption = 90.0,
    remove: Annotated[bool, typer.Option("--delete", help="Remove its files too: logs, TPM, state.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop a machine: power button, then QEMU's own end, then by force."""
    output = Output(as_json=as_json)
    vm = find(name)
    how = asyncio.run(vm.stop(grace))
    if remove:
        asyncio.run(delete(vm))
    output.say(
        f"{name}: {'had ended' if how == 'ended' else f'stopped ({how})'}{'; its files are gone' if remove else ''}"
    )
    output.result({"ok": True, "name": name, "how": how, "deleted": remove})


@app.command()
def probe(
    image: Annotated[Path | None, typer.Option(help="Directory of a built image: its kernel is tried.")] = None,
    profile: Annotated[str, typer.Option(help="Take the image that was built for this profile.")] = "engine-cpu",
    as_json: JsonOption = False,
) -> None:
    """Say whether KVM runs a guest on this host, by running one; exit 0 where it does."""
    output = Output(as_json=as_json)
    kernel = (image or home() / "image" / profile) / "chrysalis.vmlinuz"
    found = probe_kvm(kernel)
    output.say(f"{'KVM works' if found.works else 'KVM does not work'}: {found.reason}")
    protection = find_protection()
    output.say(f"protection that the kernel offers: {protection}")
    output.result({"ok": found.works, "reason": found.reason, "seconds": found.seconds, "protection": protection})
    raise typer.Exit(0 if found.works else 1)


async def _launch(machine: Machine, output: Output, wait: float, *, grace: float | None) -> RunningVm:
    """Start and wait; with ``grace`` stay in the foreground and stop the machine at the end."""
    vm = await start(machine, tell=output.progress)
    began = time.monotonic()

    def report(stage: Stage) -> None:
        words = f" {stage.reason}" if stage.reason else ""
        output.progress(f"{time.monotonic() - began:7.1f} s  {stage.name}: {stage.state}{words}")

    if grace is None:
        if wait > 0:
            await until_stages(vm, seconds=wait, report=report)
        return vm
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    try:
        if wait > 0 and not await _before(ending, until_stages(vm, seconds=wait, report=report)):
            return vm
        output.progress(f"{vm.name} is ready; Ctrl-C stops it")
        await _before(ending, vm.wait())
    except NotReadyError as error:
        output.failure(error.message, error.hint)
        await _before(ending, vm.wait())  # it stays up and explains itself
    finally:
        await vm.stop(grace)
    return vm


async def _before(ending: asyncio.Event, work: Awaitable[object]) -> bool:
    """Whether the work was done before the end was asked for."""
    task, asked = asyncio.ensure_future(work), asyncio.ensure_future(ending.wait())
    await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return False
    await task
    return True


def _keep_evidence(vm: RunningVm, path: Path, output: Output) -> dict[str, str]:
    """Fresh evidence for a nonce made here; what it is worth is for ``chrysalis verify`` to say."""
    nonce = secrets.token_hex(32)
    path.write_bytes(get_bytes(vm.forwards[STATUS_PORT], f"/v1/attestation?nonce={nonce}", seconds=60.0))
    output.say(f"evidence in {path}; judge it: chrysalis verify {path} --nonce {nonce}")
    return {"file": str(path), "nonce": nonce}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise ConfigError(f"{path}: more than {MAX_TEXT_BYTES} bytes", hint="this is not a configuration file")
        return data.decode()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", hint="chrysalis config show worker lists every key of the three files"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="this is no text") from None


def _protection(asked: Protected) -> Protection:
    """What was asked for; ``auto`` takes what this host's kernel offers."""
    match asked:
        case Protected.auto:
            return find_protection()
        case Protected.tdx:
            return "tdx"
        case Protected.snp:
            return "snp"
        case Protected.none:
            return "none"


def _row(stage: Stage) -> tuple[str, str, str, str]:
    words = f"{stage.reason} ({stage.hint})" if stage.hint else stage.reason
    return stage.name, stage.state, f"{stage.seconds:.1f}" if stage.seconds else "", words


def _facts(vm: RunningVm) -> dict[str, Any]:
    return {
        "name": vm.name,
        "alive": vm.alive,
        "pid": vm.pid,
        "accel": vm.accel,
        "accel_reason": vm.record.accel_reason,
        "boot": vm.record.boot,
        "protection": vm.record.protection,
        "image": vm.record.image,
        "manifest": vm.record.manifest,
        "forwards": {str(guest): host for guest, host in vm.forwards.items()},
        "console": str(vm.console),
        "commands": list(vm.commands),
    }
