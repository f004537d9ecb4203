"""``chrysalis audit``: whether a source builds a release, and whether registry and machines are what it says."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.audit import report_html, report_markdown
from appliance.audit.errors import AuditError
from appliance.audit.plan import run_audit
from appliance.audit.report import to_value, write_report
from appliance.audit.request import AuditRequest, MachineEvidence, RegistryFacts
from appliance.audit.stated import read_bounded, read_known, read_stated
from appliance.audit.work import WorkDirectory
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.progress import shown
from appliance.config.home import home
from appliance.errors import ConfigError
from appliance.image.archive import from_machine, snapshot
from appliance.image.release import read_keys
from appliance.image.source import SOURCE
from attestation.evidence import MAX_BUNDLE
from attestation.policies.reference_images import Configuration
from attestation.report import visible
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from appliance.audit.outcome import Step
    from appliance.audit.plan import Audit
    from measurements.manifest import Manifest

MAX_FINDINGS = 4
"""Findings of a step that are said on the terminal; the report has all."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_A_BUNDLE = "name evidence of a machine: chrysalis attest collect HOST:PORT -o evidence.cbor"
_MARKS: Final = {"same": "ok", "differs": "DIFF", "unchecked": "?"}


def audit(
    source: Annotated[str, typer.Argument(help="A checkout's path, or an address that git can clone.")] = ".",
    manifest: Annotated[
        Path | None, typer.Option("--manifest", "-m", help="The release's manifest.json.", dir_okay=False)
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(help="Its signatures; beside it by default (manifest.json.sig).", dir_okay=False)
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A public key that has to have signed it, or a file with one a line; repeat it."),
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option("--network", "-n", help="Compare with this network's root contract.", dir_okay=False),
    ] = None,
    root: Annotated[str | None, typer.Option(help="Root contract, if not the network file's own.")] = None,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            help="With --network: a configuration that machines run: measured.toml, a program's file, or its digest.",
        ),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="Another release's manifest, which explains listed images; repeat it.", dir_okay=False),
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A live machine's evidence bundle; repeat it.", dir_okay=False)
    ] = None,
    host: Annotated[list[str] | None, typer.Option(help="Ask this machine (host:port) for one; repeat it.")] = None,
    artefacts: Annotated[
        Path | None,
        typer.Option(help="The release's published files: compared, and named inside.", file_okay=False),
    ] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Only registers of this machine shape; repeat it.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="What is kept from run to run; one a manifest by default.", file_okay=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; below the work directory by default.", file_okay=False)
    ] = None,
    source_as_it_is: Annotated[
        bool, typer.Option("--source-as-it-is", help="Build the tree as it lies there, not the manifest's commit.")
    ] = False,
    built: Annotated[
        Path | None, typer.Option(help="Take this build of yours instead of building.", file_okay=False)
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing: the cache has every input.")] = False,
    archive: Annotated[str | None, typer.Option(help="Address of the package archive; apt's by default.")] = None,
    snapshot_archive: Annotated[
        str | None, typer.Option("--snapshot", help="Address of an archive that keeps old versions.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a release and compare: exit 0 reproduced, 1 something differs, 2 it could not be checked.

    The commit that the manifest names is built, in a clone of its own; building needs root. A killed audit goes on
    where it was.
    """
    output = Output(as_json=as_json)
    try:
        if manifest is None:
            raise ConfigError("which release is to be audited?", hint="name its manifest: --manifest FILE")
        if offline and (archive or snapshot_archive):
            raise ConfigError("--offline with --archive or --snapshot", hint="leave one of them out")
        request = AuditRequest(
            source=source,
            manifest=manifest,
            signature=signature,
            keys=read_keys(key) if key else (),
            as_it_is=source_as_it_is,
            built=built,
            published=artefacts,
            shapes=tuple(shape or ()),
            known=_known(known or ()),
            configurations=_configurations(measured),
            registry=None if network is None else asyncio.run(_registry(network, root)),
            machines=(*map(_bundle, bundle or ()), *map(_asked, host or ())),
            archives=None if offline else lambda: from_machine(archive),
            fallback=snapshot(snapshot_archive) if snapshot_archive else None,
        )
        raise typer.Exit(_run(request, work, report, output).verdict.exit_status)
    except (OSError, EOFError) as error:  # errors that the command line's library ends with status 1 itself
        raise AuditError(_reason(error), hint="the audit can go on when that is mended") from None


def _run(request: AuditRequest, work: Path | None, report: Path | None, output: Output) -> Audit:
    directory = WorkDirectory((work or _default_work(request)).resolve())
    with directory.held():
        with shown(output) as progress:
            done = run_audit(
                request, directory, announce=lambda command: output.progress(f"+ {command}"), progress=progress
            )
        forms = {"markdown": report_markdown.render, "html": report_html.render}
        files = write_report(done, report or directory.path / "report", forms)
    _say(done, output)
    output.say(f"report: {files['html']} (also {files['markdown'].name}, {files['json'].name})")
    output.result({
        "ok": done.verdict.kind == "reproduced",
        **to_value(done),
        "report": {name: str(path) for name, path in files.items()},
    })  # fmt: skip
    return done


def _reason(error: OSError | EOFError) -> str:
    """What the system refused, with the file where one was named: of a socket or a process there is none."""
    if not isinstance(error, OSError):
        return f"something ended early: {type(error).__name__}"
    words = error.strerror or type(error).__name__
    return words if error.filename is None else f"{error.filename}: {words}"


def _say(done: Audit, output: Output) -> None:
    """The verdict line, then each step with what is not as stated."""
    output.say(visible(done.verdict.line))
    for step in done.steps:
        if step.status != "left out":
            output.say(f"  {_MARKS[step.status]:<4} {step.title}: {visible(step.summary)}")
            for line in _lines(step):
                output.say(f"       {line}")


def _lines(step: Step) -> Iterable[str]:
    for finding in step.findings[:MAX_FINDINGS]:
        yield f"{visible(finding.subject)}: {visible(finding.text)}"
    if len(step.findings) > MAX_FINDINGS:
        yield f"and {len(step.findings) - MAX_FINDINGS} more findings: see the report"
    if step.status != "same":
        yield from (visible(note) for note in step.notes)


def _default_work(request: AuditRequest) -> Path:
    """A directory for each manifest, so that an audit of it goes on and none meets another's."""
    suffix = "-as-it-is" if request.as_it_is else ""
    return home() / "audit" / f"{read_stated(request).digest[:16]}{suffix}"


def _known(named: Iterable[Path]) -> Mapping[str, Manifest]:
    """The manifests that were named, and those that this program's own checkout publishes."""
    found = {str(path): read_known(path) for path in named}
    for path in sorted((SOURCE / "measurements" / "reference").rglob("*.json")):
        try:
            found.setdefault(str(path.relative_to(SOURCE)), read_known(path))
        except ChrysalisError:
            continue  # another kind of file, or of a form that is not read any more
    return found


def _configurations(named: list[str] | None) -> tuple[Configuration, ...]:
    """Measured configurations, from digests and from files."""
    digests = [text for text in named or () if _DIGEST.fullmatch(text)]
    files = [Path(text) for text in named or () if text not in digests]
    found = [Configuration(f"configuration {text[:16]}…", bytes.fromhex(text)) for text in digests]
    if files:
        from appliance.cli.releases import measured_configurations  # noqa: PLC0415 - needs the network packages

        found += [item.configuration for item in measured_configurations(files, unbound=False)]
    return tuple(found)


def _bundle(path: Path) -> MachineEvidence:
    return MachineEvidence(path.name, read_bounded(path, MAX_BUNDLE, hint=_A_BUNDLE))


def _asked(target: str) -> MachineEvidence:
    from appliance.cli.collecting import collect  # noqa: PLC0415 - only this needs the network packages

    nonce = secrets.token_bytes(32)
    try:
        found = asyncio.run(collect(target, nonce))
    except ChrysalisError as error:
        return MachineEvidence(target, None, error.message)
    return MachineEvidence(target, found.bundle, nonce=nonce, public_key=found.public_key or b"")


async def _registry(network: Path, root: str | None) -> RegistryFacts | str:
    """What the root contract lists; words where it cannot be read."""
    from appliance.chain.addresses import Address  # noqa: PLC0415 - only this needs a chain library
    from appliance.chain.registry import Registry  # noqa: PLC0415 - as above
    from appliance.cli.network import open_network, read_network  # noqa: PLC0415 - as above

    read_network(network)  # a file that is none is the caller's mistake, not the network's
    try:
        async with open_network(network) as (chain, config):
            registry = Registry(chain, Address.parse(root or config.root_contract), is_test=config.is_test)
            state = await registry.refresh()
    except ChrysalisError as error:
        return error.message
    return RegistryFacts(
        root=registry.root_address.raw(),
        version=state.version,
        block=registry.head.block.seqno,
        worker_images=frozenset(state.worker_hashes),
        gateway_images=frozenset(state.proxy_hashes),
    )
