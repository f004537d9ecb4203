"""``chrysalis measure``: what a machine will measure, what its log says, and why it reports something else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli import measuring
from appliance.cli.explaining import Search
from appliance.cli.judging import read_file
from appliance.cli.measuring import Given
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from measurements import acpi_file, explain_text, prediction_file
from measurements.acpi import tables_of
from measurements.candidates import Others
from measurements.explain import Candidate, explain
from measurements.explain_content import said
from measurements.picture import render
from measurements.prediction import SIZES
from measurements.predictors import predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measurements.eventlog import EventLog
    from measurements.explanation import Explanation

app = typer.Typer(help="Measurements: predict them, read logs, explain differences.", no_args_is_help=True)

ShapeOption = Annotated[str, typer.Option("--shape", "-s", help="A shape of the library, or a shape's file.")]
ImageOption = Annotated[Path | None, typer.Option("--image", help="A release's directory, or one image (UKI).")]
FirmwareOption = Annotated[Path | None, typer.Option(help="The firmware: one file, or its code.", dir_okay=False)]
VariablesOption = Annotated[Path | None, typer.Option(help="The firmware's variables, a file.", dir_okay=False)]
KernelOption = Annotated[Path | None, typer.Option(help="A plain kernel instead of an image.", dir_okay=False)]
InitrdOption = Annotated[Path | None, typer.Option(help="The plain kernel's initrd.", dir_okay=False)]
CommandLineOption = Annotated[str | None, typer.Option(help="The plain kernel's command line.")]
DiskOption = Annotated[Path | None, typer.Option(help="The disk that it boots from.")]
AcpiOption = Annotated[Path | None, typer.Option(help="A capture of the machine's ACPI tables.", dir_okay=False)]
ConfigurationOption = Annotated[
    str | None, typer.Option(help="The measured configuration (measured.toml), or its digest, 64 hex digits.")
]
PictureOption = Annotated[Path | None, typer.Option(help="Write the explanation as a picture (SVG).", dir_okay=False)]


@app.command("predict")
def predict_command(
    shape: ShapeOption,
    image: ImageOption = None,
    firmware: FirmwareOption = None,
    variables: VariablesOption = None,
    kernel: KernelOption = None,
    initrd: InitrdOption = None,
    command_line: CommandLineOption = None,
    disk: DiskOption = None,
    acpi: AcpiOption = None,
    configuration: ConfigurationOption = None,
    events: Annotated[bool, typer.Option("--events", help="Tell of every register what makes it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a machine of a shape will measure when it boots these files."""
    output = Output(as_json=as_json)
    given = Given(
        image=image, firmware=firmware, variables=variables, kernel=kernel, initrd=initrd, command_line=command_line,
        disk=disk, acpi=acpi, configuration=configuration,
    )  # fmt: skip
    machine = measuring.shape_of(shape)
    found = predict(measuring.artefacts_of(given, machine), machine)
    output.say(f"{found.platform}, {found.boot} boot, shape {found.shape}")
    for name, register in found.registers.items():
        output.say(f"{name:<12} {register.value.hex()}")
        for position, event in enumerate(register.events if events else ()):
            output.say(f"  {position:>3} {event.digest.hex()[:24]}… {event.name}: {event.source}")
            if event.inputs:
                output.say(f"      moved by: {', '.join(event.inputs)}")
    for name, why in found.unpredicted.items():
        output.say(f"{name:<12} not predicted: {why}")
    output.result({"ok": True, **prediction_file.to_value(found)})


@app.command("acpi")
def acpi_command(
    shape: ShapeOption,
    image: Annotated[Path, typer.Option("--image", help="Directory with the firmware.", file_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The capture's file, for --acpi.", dir_okay=False)],
    qemu: Annotated[Path | None, typer.Option(help="The QEMU of the shape's version.", dir_okay=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Capture the ACPI tables of a shape's machine: start its QEMU, emulated, and read what it hands to firmware."""
    output = Output(as_json=as_json)
    machine = measuring.shape_of(shape)
    output.progress(f"starting the QEMU of shape {machine.name}")
    found = measuring.captured(machine, image, qemu)
    _write(out, acpi_file.encode(found.tables, found.facts))
    tables = [table.signature for table in tables_of(found.tables.tables)]
    output.say(f"{out}: tables of QEMU {found.qemu}, {found.machine}: {', '.join(tables)}")
    output.result({"ok": True, "file": str(out), "qemu": found.qemu, "machine": found.machine, "tables": tables})


@app.command("log")
def log_command(
    file: Annotated[Path, typer.Argument(help="A TCG2 or CCEL log, or a bundle that has one.", dir_okay=False)],
    bank: Annotated[str | None, typer.Option(help="Another bank than the first, for example sha384.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show an event log and what it leads to; exit 1 where a bundle's registers say otherwise."""
    output = Output(as_json=as_json)
    log, shown = measuring.log_of(file)
    chosen = bank or ("sha256" if "sha256" in log.banks else log.banks[0])
    replayed = log.replay(chosen)
    names = measuring.names_of(log)
    output.say(f"{len(log.events)} events, banks {', '.join(log.banks)}; nothing but digests is confirmed by registers")
    rows = [_logged(log, number, chosen, names) for number in range(len(log.events))]
    for row in rows:
        mark = " " if row["covered"] else "?"
        output.say(f"{row['number']:>4} {row['register']:<7} {row['digest'][:16]}… {mark} {row['said']}")
    values = {names.get(index, f"register {index}"): value for index, value in sorted(replayed.items())}
    differs = []
    for name, value in values.items():
        reported = shown.values.get(name) if shown else None
        if reported is not None and reported != value:
            differs.append(name)
        state = "" if reported is None else " = reported" if reported == value else f" ≠ reported {reported.hex()}"
        output.say(f"{name:<7} {value.hex()}{state}")
    output.result({
        "ok": not differs,
        "banks": list(log.banks),
        "bank": chosen,
        "events": rows,
        "registers": {name: value.hex() for name, value in values.items()},
        "not_confirmed": differs,
    })  # fmt: skip
    raise typer.Exit(1 if differs else 0)


@app.command("explain")
def explain_command(
    shape: ShapeOption,
    bundle: Annotated[Path | None, typer.Argument(help="The machine's bundle.", dir_okay=False)] = None,
    registers: Annotated[Path | None, typer.Option(help="Its register values, without a bundle.")] = None,
    log: Annotated[Path | None, typer.Option(help="Its event log, without a bundle or another one.")] = None,
    image: ImageOption = None,
    firmware: FirmwareOption = None,
    variables: VariablesOption = None,
    kernel: KernelOption = None,
    initrd: InitrdOption = None,
    command_line: CommandLineOption = None,
    disk: DiskOption = None,
    acpi: AcpiOption = None,
    configuration: ConfigurationOption = None,
    try_image: Annotated[list[Path] | None, typer.Option(help="Another image that it may have booted.")] = None,
    try_firmware: Annotated[list[Path] | None, typer.Option(help="Another firmware that it may have.")] = None,
    try_variables: Annotated[list[Path] | None, typer.Option(help="Other firmware variables.")] = None,
    try_initrd: Annotated[list[Path] | None, typer.Option(help="Another initrd of a plain kernel.")] = None,
    try_command_line: Annotated[list[str] | None, typer.Option(help="Another command line of it.")] = None,
    try_configuration: Annotated[list[str] | None, typer.Option(help="Another measured configuration.")] = None,
    try_model: Annotated[list[str] | None, typer.Option(help="Another model, in full: name@commit:hash.")] = None,
    try_device: Annotated[list[str] | None, typer.Option(help="A device more, as QEMU's -device takes it.")] = None,
    try_manifest: Annotated[list[Path] | None, typer.Option(help="Another release's manifest.json.")] = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="Start QEMU for the ACPI tables of other machines; takes minutes.")
    ] = False,
    qemu: Annotated[Path | None, typer.Option(help="The QEMU that --capture starts.", dir_okay=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Try every change, also unlikely ones.")] = False,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a machine reports something else; exit 0 if it does not, 1 if it does."""
    output = Output(as_json=as_json)
    given = Given(
        image=image, firmware=firmware, variables=variables, kernel=kernel, initrd=initrd, command_line=command_line,
        disk=disk, acpi=acpi, configuration=configuration,
    )  # fmt: skip
    others = Others(
        firmware=_contents(try_firmware, "--try-firmware names a firmware's file"),
        variables=_contents(try_variables, "--try-variables names a file of firmware variables"),
        images=_contents(try_image, "--try-image names one image's file (UKI)"),
        initrds=_contents(try_initrd, "--try-initrd names an initrd's file"),
        command_lines=tuple(try_command_line or ()),
        configurations={text: measuring.configuration_digest(text) for text in try_configuration or ()},
        models={text: measuring.model_digest(configuration or "", text) for text in try_model or ()},
        devices=tuple(try_device or ()),
    )
    search = Search.of(
        given, shape, bundle=bundle, registers=registers, log=log, others=others, manifests=tuple(try_manifest or ()),
        every=every, firmware=image if capture else None, qemu=qemu,
    )  # fmt: skip
    _tell(output, search.run(output), picture)


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="A prediction (predict --json), a bundle, a log or registers.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lay two of them side by side, register by register and event by event; exit 0 if they are equal, 1 if not."""
    left, _ = measuring.comparable(first)
    right, log = measuring.comparable(second)
    other = Candidate(f"what {second.name} has", (), right)
    _tell(Output(as_json=as_json), explain(left, right.values, log, (other,)), picture)


def _tell(output: Output, explanation: Explanation, picture: Path | None) -> None:
    if picture is not None:
        _write(picture, render(explanation).encode())
        output.progress(f"wrote {picture}")
    for line in explain_text.lines(explanation):
        output.say(line)
    output.result({"ok": explanation.equal, **explain_text.to_value(explanation)})
    raise typer.Exit(0 if explanation.equal else 1)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a file that can be written") from None


def _logged(log: EventLog, number: int, bank: str, names: dict[int, str]) -> dict[str, Any]:
    event = log.events[number]
    known = bank in SIZES
    text = said(event, bank) if known else None  # type: ignore[arg-type]  # a bank of our own, as was just asked
    return {
        "number": number,
        "register": names.get(event.register, str(event.register)) if event.extended else "-",
        "type": event.type_name,
        "digest": event.digests[bank].hex(),
        "said": text.text if text else event.type_name,
        "covered": bool(text and text.covered),
    }


def _contents(paths: Sequence[Path] | None, hint: str) -> dict[str, bytes]:
    return {path.name: read_file(path, limit=measuring.MAX_ARTEFACT_BYTES, hint=hint) for path in paths or ()}
