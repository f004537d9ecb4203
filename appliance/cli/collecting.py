"""What ``attest collect`` does: evidence of this machine, or of one that answers at an address.

In: an address or none. Out: a bundle and the facts that a reader of it needs. In a guest of ours the statement is the
one that its attested port makes; on any other machine it says what the platform measures and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import ConfigError
from attestation import remote
from attestation.claims import WorkloadStatement
from attestation.evidence import build_bundle
from attestation.own_image import own_image
from attestation.platforms import detect, open_platform
from attestation.ratls import Identity

if TYPE_CHECKING:
    from attestation.evidence import DeviceCollector
    from attestation.platforms import Platform

ROLE: Final = "collected"
_BOOT_RECORD: Final = Path("/run/chrysalis/config")


@dataclass(frozen=True, slots=True)
class Collected:
    """Evidence, and how it came here.

    Attributes:
        bundle: The bytes.
        nonce: What it answers.
        about: What was found on the way, for a person.
        public_key: The key at the other end of the connection, ``None`` for this machine.
    """

    bundle: bytes = field(repr=False)
    nonce: bytes
    about: tuple[str, ...]
    public_key: bytes | None = None


async def collect(
    target: str | None,
    nonce: bytes | None,
    *,
    platform: str | None = None,
    quote_source: str | None = None,
    gpus: bool = False,
) -> Collected:
    """Ask a machine, or this one.

    Args:
        target: ``host:port`` or an ``https`` address of an attested port; ``None`` for this machine.
        nonce: 32 bytes; fresh ones when ``None``.
        platform: Use this platform instead of the one that is found.
        quote_source: As :func:`attestation.platforms.open_platform`.
        gpus: Ask this machine's GPUs too; in a guest of ours its attested port decides that.

    Raises:
        ChrysalisError: No evidence can be had; the message says why.
    """
    chosen = nonce if nonce is not None else secrets.token_bytes(32)
    if target is not None:
        try:
            found = await asyncio.to_thread(remote.fetch, remote.parse_endpoint(target), chosen)
        except remote.NotTlsError:
            return await _over_link(target, chosen)
        told = (f"from {found.endpoint.name}, whose key is {found.public_key.hex()}",)
        return Collected(found.bundle, chosen, told, found.public_key)
    if platform is None and _BOOT_RECORD.is_dir():
        return Collected(await _as_guest(chosen), chosen, ("as this guest's attested port makes it",))
    about, opened = _this_machine(platform, quote_source)
    return Collected(await _bare(opened, chosen, gpus=gpus), chosen, about)


async def _over_link(target: str, nonce: bytes) -> Collected:
    from appliance.cli.link_evidence import ask  # noqa: PLC0415 - needs the network packages

    found = await ask(target, nonce)
    if found is None:
        raise ConfigError(
            f"{target} gives no fresh evidence, only a certificate",
            hint="a reference peer knows no evidence query; chrysalis attest verify judges the certificate",
        )
    bundle, key = found
    return Collected(bundle, nonce, (f"over a link with {target}, whose key is {key.hex()}",), key)


def _this_machine(name: str | None, quote_source: str | None) -> tuple[tuple[str, ...], Platform]:
    if name is not None:
        return (f"platform {name}, as it was named",), _opened(name, quote_source, "")
    detection = detect()
    seen = tuple(detection.explain())
    return seen, _opened(detection.platform, quote_source, f": {'; '.join(seen)}")


def _opened(name: str, quote_source: str | None, why: str) -> Platform:
    opened = open_platform(name, quote_source)
    if opened is None:
        raise ConfigError(
            f"this machine can prove nothing{why}",
            hint="run this in a confidential guest, or name a running machine: chrysalis attest collect HOST:PORT",
        )
    return opened


async def _as_guest(nonce: bytes) -> bytes:
    from appliance.boot.evidence import Prover  # noqa: PLC0415 - a guest alone has what this loads
    from appliance.boot.system import System  # noqa: PLC0415 - as above

    prover = await Prover.open(System(), Ed25519PrivateKey.generate())
    if prover is None:
        raise ConfigError("this guest has nothing to make evidence with", hint="see the stage 'platform' of its boot")
    try:
        return await prover.bundle(nonce)
    finally:
        await prover.close()


async def _bare(platform: Platform, nonce: bytes, *, gpus: bool) -> bytes:
    """A bundle of a machine that runs nothing of ours: its statement names the measured image and no configuration."""
    identity = await Identity.create(platform)
    image = own_image(await platform.collect(secrets.token_bytes(64)))
    statement = WorkloadStatement(image=image, measured_config=bytes(32), role=ROLE)
    return await build_bundle(platform, identity, statement, nonce, b"", devices=_devices() if gpus else None)


def _devices() -> DeviceCollector:
    from attestation.gpu.nvml import NvmlCollector  # noqa: PLC0415 - needs the driver's library

    return NvmlCollector()
