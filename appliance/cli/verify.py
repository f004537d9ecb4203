"""``chrysalis verify``: judge a running peer, a certificate or an evidence bundle, check by check."""

from __future__ import annotations

import asyncio
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.config.ports import host_port
from appliance.errors import ConfigError
from attestation.collateral import open_source
from attestation.errors import AttestationError, RefusedError
from attestation.evidence import parse_bundle
from attestation.policy import for_name
from attestation.ratls import Identity, RatlsDialer, open_pool
from attestation.tpm.references import TpmReference
from attestation.verifier import Verifier
from measurements import tpm

if TYPE_CHECKING:
    from attestation.verdict import Verdict

MAX_FILE_BYTES = 4 << 20
MAX_IMAGE_BYTES = 1 << 30
_PEER = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class Policy(StrEnum):
    """What to demand."""

    tdx = "tdx"
    simulated = "simulated"
    fake_tdx = "fake_tdx"


class Boot(StrEnum):
    """How an image is started."""

    disk = "disk"
    direct = "direct"


def verify(
    target: Annotated[str, typer.Argument(help="host:port of a peer, or a file: certificate or bundle.")],
    policy: Annotated[Policy, typer.Option(help="simulated: a root you name; no assurance.")] = Policy.tdx,
    root: Annotated[list[Path] | None, typer.Option(help="A simulated world's root certificate.")] = None,
    tpm_root: Annotated[list[Path] | None, typer.Option(help="A TPM world's root certificate.")] = None,
    uki: Annotated[list[Path] | None, typer.Option(help="An image that a TPM machine may have booted.")] = None,
    boot: Annotated[Boot, typer.Option(help="How it was started.")] = Boot.disk,
    collateral: Annotated[str | None, typer.Option(help="A file, a directory or a service's address.")] = None,
    nonce: Annotated[str | None, typer.Option(help="The nonce a bundle must answer (64 hex digits).")] = None,
    image: Annotated[str | None, typer.Option(help="The image hash to expect (64 hex digits).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge evidence; exit 0 only when every check passes (and the image is the expected one)."""
    output = Output(as_json=as_json)
    demanded = for_name(
        policy.value,
        simulated_roots=tuple(_read(path) for path in root or ()),
        tpm_roots=tuple(_read(path) for path in tpm_root or ()),
        tpm_references=tuple(_reference(path, boot) for path in uki or ()),
    )
    verifier = Verifier(demanded, open_source(collateral))
    verdict = asyncio.run(_judge(target, verifier, nonce))
    for line in verdict.explain():
        output.say(line)
    expected = image is None or verdict.image_hash.hex() == image.lower()
    if not expected:
        output.say(f"image: seen {verdict.image_hash.hex()}, expected {image}")
    output.result({**json.loads(verdict.to_json()), "ok": verdict.accepted and expected})
    raise typer.Exit(0 if verdict.accepted and expected else 1)


async def _judge(target: str, verifier: Verifier, nonce: str | None) -> Verdict:
    path = Path(target)
    if not path.exists() and _PEER.fullmatch(target):
        return await _peer(target, verifier)
    data = _read(path)
    if data.startswith(_CERTIFICATE):
        der = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        return await verifier.verify_certificate(der, role="server")
    try:
        bundle = parse_bundle(data)
    except AttestationError:
        return await verifier.verify_certificate(data, role="server")
    wanted = bytes.fromhex(nonce) if nonce else bundle.nonce
    return await verifier.verify_bundle(data, nonce=wanted, public_key=bundle.keys["tls"])


async def _peer(target: str, verifier: Verifier) -> Verdict:
    """Connect as a client does; the handshake's own verdict is what is shown, a refusing one too."""
    with open_pool() as pool:
        dialer = RatlsDialer(await Identity.create(None), verifier, pool=pool)
        try:
            transport, _ = await dialer.connect(asyncio.Protocol, *host_port(target))
        except RefusedError as error:
            return error.verdict
        verdict: Verdict | None = transport.get_extra_info("peer").verdict
        transport.abort()
    if verdict is None:
        raise AttestationError(f"{target} showed no evidence")
    return verdict


def _reference(path: Path, boot: Boot) -> TpmReference:
    """What a machine measures that boots the image in a file; its configuration is left open."""
    image = _read(path, limit=MAX_IMAGE_BYTES)
    return TpmReference(path.name, tpm.predict(image, boot=boot.value).registers)


def _read(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name host:port, a certificate or a bundle") from None
    if len(data) > limit:
        raise ConfigError(f"{path} is over {limit} bytes", hint="this is no evidence")
    return data
