"""``chrysalis verify``, the short form of ``chrysalis attest verify``: judge evidence, check by check."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.judging import Wanted, judge
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.errors import ConfigError
from attestation.policies.model import SignedManifest
from attestation.report import text_lines, to_value, visible
from attestation.report_html import render
from measurements import explain_text
from measurements.errors import ChrysalisError
from measurements.signature import parse_public_key

if TYPE_CHECKING:
    from appliance.cli.explaining import Expected
    from measurements.explanation import Explanation


class Boot(StrEnum):
    """How an image is started."""

    disk = "disk"
    direct = "direct"


def verify(
    target: Annotated[str, typer.Argument(help="A bundle's or certificate's file, host:port, or https://host:port.")],
    policy: Annotated[str, typer.Option(help="release, tdx, snp, azure, gcp, simulated, or a policy's file.")] = "tdx",
    root: Annotated[list[Path] | None, typer.Option(help="A simulated world's root certificate.")] = None,
    tpm_root: Annotated[list[Path] | None, typer.Option(help="A TPM world's root certificate.")] = None,
    snp_root: Annotated[list[Path] | None, typer.Option(help="An SEV-SNP world's root certificate.")] = None,
    gcp_root: Annotated[list[Path] | None, typer.Option(help="A Google world's root certificate.")] = None,
    gpu_root: Annotated[list[Path] | None, typer.Option(help="A GPU world's device root certificate.")] = None,
    rim_root: Annotated[list[Path] | None, typer.Option(help="A GPU world's manifest root certificate.")] = None,
    uki: Annotated[list[Path] | None, typer.Option(help="An image that a TPM machine may have booted.")] = None,
    boot: Annotated[Boot, typer.Option(help="How it was started.")] = Boot.disk,
    collateral: Annotated[str | None, typer.Option(help="online, an exported file, a directory or an address.")] = None,
    nonce: Annotated[str | None, typer.Option(help="The nonce a bundle must answer (64 hex digits).")] = None,
    image: Annotated[str | None, typer.Option(help="The image hash to expect (64 hex digits).")] = None,
    at: Annotated[
        str | None, typer.Option(help="Judge for a time: 'made', Unix seconds, 2026-11-22T12:00:00Z.")
    ] = None,
    manifest: Annotated[list[Path] | None, typer.Option(help="A release's manifest.json, signed beside it.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A public key that has to have signed it.")] = None,
    remember: Annotated[
        Path | None, typer.Option(help="Remember the highest release here; refuse older manifests.", dir_okay=False)
    ] = None,
    network: Annotated[Path | None, typer.Option("--network", "-n", help="The chain: for registry and anchor.")] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="The registry's list of gateways' images.")] = False,
    anchor: Annotated[str | None, typer.Option(help="The account that anchored the bundle.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the verdict as one HTML page.", dir_okay=False)] = None,
    shape: Annotated[
        str | None, typer.Option(help="Compare the registers with what a machine of this shape measures, and explain.")
    ] = None,
    release: Annotated[Path | None, typer.Option(help="The release's directory that such a machine boots.")] = None,
    reasons: Annotated[bool, typer.Option("--reasons", help="Tell of every check why it matters.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge evidence; exit 0 only when every check passes."""
    output = Output(as_json=as_json)
    expected = _expected(shape, release)
    wanted = Wanted(
        target=target,
        policy=policy,
        roots=tuple(root or ()),
        tpm_roots=tuple(tpm_root or ()),
        snp_roots=tuple(snp_root or ()),
        gcp_roots=tuple(gcp_root or ()),
        gpu_roots=tuple(gpu_root or ()),
        rim_roots=tuple(rim_root or ()),
        images=tuple(uki or ()),
        boot=boot.value,
        collateral=collateral,
        nonce=nonce,
        image=image,
        at=at,
        manifests=_manifests(manifest or [], key or []),
        remember=remember,
        network=network,
        gateway=gateway,
        anchor=anchor,
    )
    judged = asyncio.run(judge(wanted))
    verdict, facts = judged.verdict, judged.facts
    explanation, unexplained = _explanation(expected, judged.data, output)
    if html is not None:
        _write(html, render(verdict, facts, explanation))
        output.progress(f"wrote {html}")
    for line in text_lines(verdict, facts, reasons=reasons):
        output.say(line)
    for line in () if explanation is None else explain_text.lines(explanation):
        output.say(line)
    told: dict[str, Any] = {} if explanation is None else {"explanation": explain_text.to_value(explanation)}
    if unexplained is not None:
        output.say(f"not explained: {visible(str(unexplained))}")
        told = {"not_explained": {"error": unexplained.message, "hint": unexplained.hint}}
    output.result({**to_value(verdict, facts), **told, "ok": verdict.accepted})
    raise typer.Exit(0 if verdict.accepted else 1)


def _expected(shape: str | None, release: Path | None) -> Expected | None:
    """What the machine was to be, where it was said; read before anything is judged, so that no verdict is lost."""
    if (shape is None) != (release is None):
        raise ConfigError("--shape and --release belong together", hint="what the machine is, and what it boots")
    if shape is None or release is None:
        return None
    from appliance.cli.explaining import Expected  # noqa: PLC0415 - who only verifies loads no predictor
    from appliance.cli.measuring import Given  # noqa: PLC0415 - as above

    return Expected.of(Given(image=release), shape)


def _explanation(
    expected: Expected | None, data: bytes | None, output: Output
) -> tuple[Explanation | None, ChrysalisError | None]:
    """Why the registers that were judged differ from a prediction, where one was asked for; or why that is not known.

    The verdict stands whatever becomes of its explanation: an error is told beside it, not raised.
    """
    if expected is None:
        return None, None
    if data is None:
        return None, ConfigError(
            "the peer shows a certificate alone, which has no event log",
            hint="collect a bundle: chrysalis attest collect HOST:PORT -o evidence.cbor",
        )
    try:
        return expected.explain(data, output), None
    except ChrysalisError as error:
        return None, error


def _manifests(files: list[Path], keys: list[str]) -> tuple[SignedManifest, ...]:
    if bool(files) != bool(keys):
        raise ConfigError("--manifest and --key belong together", hint="--key is the release's public key")
    trusted = tuple(parse_public_key(text) for text in keys)
    return tuple(SignedManifest(file=file, keys=trusted) for file in files)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a file that can be written") from None
