"""What ``verify`` does: find the evidence that a target names, judge it under a policy, say what was judged.

In: a target and the options as they were typed. Out: a verdict and the facts of a report. A file is a bundle or a
certificate; an ``https`` address is an attested port; ``host:port`` is one too, or a port of the network, which asks
for proof of work before it speaks TLS.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.config.home import home
from appliance.config.ports import host_port
from appliance.errors import ConfigError
from attestation import remote
from attestation.collateral.opening import open_collateral, open_sources
from attestation.collateral.settings import CollateralSettings
from attestation.errors import AttestationError, EvidenceError, RefusedError
from attestation.evidence import bundle_digest, parse_bundle
from attestation.gpu.roots import GpuRoots
from attestation.policies.files import open_signed, read_root, reference_sets
from attestation.policies.references import RegistersAre
from attestation.policies.release_memory import ReleaseMemory
from attestation.policies.releases import started
from attestation.policies.rules import ImageStated
from attestation.policy import for_name
from attestation.policy_file import is_builtin, load_policy, read_policy
from attestation.ratls import Identity, RatlsDialer, open_pool
from attestation.report import Facts
from attestation.tpm.references import TpmReference
from attestation.verdict import Check
from attestation.verifier import Verifier
from measurements import tpm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.collateral.sources import Sources
    from attestation.policies.model import SignedManifest
    from attestation.policy import Policy
    from attestation.rules import RegistryView
    from attestation.verdict import Verdict
    from measurements.manifest import Manifest
    from measurements.tpm import Boot

MAX_FILE_BYTES: Final = 4 << 20
MAX_IMAGE_BYTES: Final = 1 << 30
EVIDENCE_HINT: Final = "name host:port, a certificate or a bundle"
ONLINE: Final = "online"
"""The word of ``--collateral`` that asks the makers' own services, and keeps what they say."""

DEVELOPMENT: Final = ("simulated", "fake_tdx")
"""Policies without assurance; their roots are options, not files of a policy."""

_PEER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for, as it was typed.

    Attributes:
        target: A file, ``host:port`` or an ``https`` address.
        policy: A name or a file.
        roots: Roots of a simulated TDX world, files.
        tpm_roots: Roots of a simulated TPM world, files.
        snp_roots: Roots of a simulated SEV-SNP world, files; Azure's rests on them too.
        gcp_roots: Roots of a simulated Google, files.
        gpu_roots: Roots of simulated GPUs, files.
        rim_roots: Roots of their reference manifests, files.
        images: UKIs that a TPM machine may have booted, files.
        boot: How those were started.
        collateral: ``online``, an exported bundle, a file, a directory or a service's address.
        nonce: 64 hex digits that a bundle has to answer.
        image: The image hash to expect, 64 hex digits.
        at: The time to judge for: ``made``, Unix seconds, or a date and time.
        manifests: Signed manifests besides the policy's own.
        remember: The file that remembers the highest release of each family, against older manifests.
        network: A file that names a chain, for the registry and for anchors.
        gateway: Whether the peer is a gateway, whose images are listed apart.
        anchor: The account that anchored the bundle.
    """

    target: str
    policy: str
    roots: tuple[Path, ...] = ()
    tpm_roots: tuple[Path, ...] = ()
    snp_roots: tuple[Path, ...] = ()
    gcp_roots: tuple[Path, ...] = ()
    gpu_roots: tuple[Path, ...] = ()
    rim_roots: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    boot: Boot = "disk"
    collateral: str | None = None
    nonce: str | None = None
    image: str | None = None
    at: str | None = None
    manifests: tuple[SignedManifest, ...] = ()
    remember: Path | None = None
    network: Path | None = None
    gateway: bool = False
    anchor: str | None = None

    @property
    def simulated(self) -> tuple[Path, ...]:
        """All roots that were named."""
        return (*self.roots, *self.tpm_roots, *self.snp_roots, *self.gcp_roots, *self.gpu_roots, *self.rim_roots)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a target turned out to be.

    Attributes:
        data: A bundle or a certificate.
        nonce: What was asked for, ``None`` where nobody asked.
        public_key: The key at the other end of the link, ``None`` without one.
    """

    data: bytes = field(repr=False)
    nonce: bytes | None = None
    public_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a target.

    Attributes:
        verdict: The verdict.
        facts: Of its report.
        data: The bytes that were judged, so that whatever else is said of them is said of these; ``None`` where a
            certificate was judged in a handshake.
    """

    verdict: Verdict
    facts: Facts
    data: bytes | None = field(repr=False)


async def judge(wanted: Wanted) -> Judged:
    """Find the evidence and judge it.

    Raises:
        ChrysalisError: The target, an option or a file cannot be used; nothing is raised for bad evidence.
    """
    nonce = _hex(wanted.nonce, "--nonce")
    evidence = await asyncio.to_thread(_find, wanted.target, nonce)
    if evidence is None:
        evidence = await _over_link(wanted.target, nonce or secrets.token_bytes(32))
    registry, anchored = await _of_chain(wanted, evidence)
    verifier = Verifier(_policy(wanted, registry), _collateral(wanted.collateral))
    if evidence is None:
        if wanted.at is not None or wanted.anchor is not None or nonce is not None:
            raise ConfigError(
                f"{wanted.target} shows a certificate alone: --at, --anchor and --nonce are for bundles",
                hint="ask its attested port, or name a bundle's file",
            )
        return Judged(await _handshake(wanted.target, verifier), Facts(source=wanted.target), None)
    try:
        bundle = parse_bundle(evidence.data)
    except EvidenceError:
        if _is_certificate(evidence.data):
            verdict = await verifier.verify_certificate(_der(evidence.data), role="server")
            return Judged(verdict, Facts(source=wanted.target), evidence.data)
        made_at = None
    else:
        made_at = float(bundle.made_at)
    verdict = await verifier.verify_bundle(
        evidence.data,
        nonce=evidence.nonce,
        public_key=evidence.public_key,
        at=_time(wanted.at, made_at),
        anchored_at=anchored,
    )
    if wanted.anchor is not None and anchored is None:
        verdict = _refusing(verdict, wanted.anchor)
    digest = bundle_digest(evidence.data)
    facts = Facts(source=wanted.target, digest=digest, nonce_ours=evidence.nonce is not None)
    return Judged(verdict, facts, evidence.data)


def read_file(
    path: Path,
    *,
    limit: int = MAX_FILE_BYTES,
    hint: str = "name a file that can be read, of the kind that is expected here",
    too_long: str | None = None,
) -> bytes:
    """A file's bytes.

    Args:
        path: The file.
        limit: How many bytes it may have.
        hint: What is to be named instead.
        too_long: What is to be said of one that has more; as ``hint`` by default.

    Raises:
        ConfigError: It cannot be read, or is too long.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=hint) from None
    if len(data) > limit:
        raise ConfigError(f"{path} is over {limit} bytes", hint=hint if too_long is None else too_long)
    return data


def read_evidence(path: Path) -> bytes:
    """The bytes of a bundle or a certificate.

    Raises:
        ConfigError: As :func:`read_file`.
    """
    return read_file(path, hint=EVIDENCE_HINT, too_long="this is no evidence")


def _find(target: str, nonce: bytes | None) -> Evidence | None:
    """The evidence; ``None`` for a port of the network, which shows its certificate in a handshake."""
    if target.startswith(("https://", "http://")):
        return _asked(target, nonce)
    path = Path(target)
    if not path.exists() and _PEER.fullmatch(target):
        try:
            return _asked(target, nonce)
        except remote.NotTlsError:
            return None
    return Evidence(read_evidence(path), nonce)


def _asked(target: str, nonce: bytes | None) -> Evidence:
    found = remote.fetch(remote.parse_endpoint(target), nonce or secrets.token_bytes(32))
    return Evidence(found.bundle, found.nonce, found.public_key)


async def _over_link(target: str, nonce: bytes) -> Evidence | None:
    """Fresh evidence of a port of the network, ``None`` of a peer that gives none."""
    try:
        from appliance.cli.link_evidence import ask  # noqa: PLC0415 - a verifier of files needs no network packages
    except ModuleNotFoundError:
        return None
    found = await ask(target, nonce)
    return None if found is None else Evidence(found[0], nonce, found[1])


async def _handshake(target: str, verifier: Verifier) -> Verdict:
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


def _policy(wanted: Wanted, registry: RegistryView | None) -> Policy:
    if wanted.policy in DEVELOPMENT:
        policy = for_name(
            wanted.policy,
            simulated_roots=tuple(read_root(path) for path in wanted.roots),
            tpm_roots=tuple(read_root(path) for path in wanted.tpm_roots),
            snp_roots=tuple(read_root(path) for path in wanted.snp_roots),
            gcp_roots=tuple(read_root(path) for path in wanted.gcp_roots),
            gpu_roots=_gpu_roots(wanted),
            tpm_references=tuple(_reference(path, wanted.boot) for path in wanted.images),
        )
        if wanted.manifests:
            opened = [(open_signed(stated, Path()), stated.boot) for stated in wanted.manifests]
            _remembered(wanted.remember, [manifest for (manifest, _), _ in opened])
            signed = tuple(
                found for (manifest, by), boot in opened for found in reference_sets(manifest, by, boots=boot)
            )
            hint = "another image runs, or the manifest is of another release"
            policy = policy.demanding(RegistersAre("image in a signed manifest", signed, hint))
    else:
        if wanted.simulated or wanted.images:
            raise ConfigError(
                f"--root, --tpm-root, … and --uki with policy {wanted.policy!r}",
                hint="they belong to --policy simulated; a policy's file names its own ([simulated], [measurements])",
            )
        policy = load_policy(
            _source(wanted),
            registry=registry,
            manifests=wanted.manifests,
            admit=lambda manifests: _remembered(wanted.remember, manifests),
        )
    image = _hex(wanted.image, "--image")
    return policy if image is None else policy.demanding(ImageStated(frozenset({image})))


def _remembered(path: Path | None, manifests: Sequence[Manifest]) -> None:
    """Refuse manifests older than those that were seen; remember newer ones. Evidence of any time, seen now."""
    if path is not None:
        ReleaseMemory(path).remember(started(manifests, time.time()))


def _collateral(text: str | None) -> Sources:
    """Where collateral comes from besides what is stapled: nowhere, the makers' services, a file, a service."""
    if text == ONLINE:
        return open_sources(CollateralSettings(cache=home() / "collateral"))
    return open_collateral(text)


def _gpu_roots(wanted: Wanted) -> GpuRoots | None:
    if not wanted.gpu_roots and not wanted.rim_roots:
        return None
    devices, manifests = (tuple(map(read_root, paths)) for paths in (wanted.gpu_roots, wanted.rim_roots))
    return GpuRoots(devices, manifests)


def _source(wanted: Wanted) -> str | Path:
    return wanted.policy if is_builtin(wanted.policy) else Path(wanted.policy)


async def _of_chain(wanted: Wanted, evidence: Evidence | None) -> tuple[RegistryView | None, float | None]:
    """The registry's view, and the time of the anchor, where they were asked for."""
    if wanted.network is None:
        if wanted.anchor is not None:
            raise ConfigError("--anchor without --network", hint="name the chain: --network FILE")
        return None, None
    from appliance.cli.chain_facts import anchor_time, registry_view  # noqa: PLC0415 - only this needs a chain library

    asks = wanted.policy not in DEVELOPMENT and read_policy(_source(wanted)).asks_registry
    view = await registry_view(wanted.network, gateways=wanted.gateway) if asks else None
    if wanted.anchor is None or evidence is None:
        return view, None
    return view, await anchor_time(wanted.network, wanted.anchor, bundle_digest(evidence.data))


def _refusing(verdict: Verdict, address: str) -> Verdict:
    """The verdict with a failed check: an anchor was named, and it is not there."""
    check = Check(
        "anchor",
        False,
        f"no transaction of {address} carries this digest",
        "the bundle's digest on chain",
        "another file was anchored, by another account, or the transaction is not there yet",
        why="whoever breaks this kind of machine later can make evidence and date it back to before",
        group="bundle",
    )
    return replace(verdict, accepted=False, assurance="none", checks=(*verdict.checks, check))


def _time(text: str | None, made_at: float | None) -> float | None:
    if text is None:
        return None
    if text == "made":
        return made_at
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--at {text!r} is no time", hint="made, Unix seconds, or a date such as 2026-11-22T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _hex(text: str | None, option: str) -> bytes | None:
    if text is None:
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise ConfigError(f"{option} is not 64 hex digits")
    return value


def _is_certificate(data: bytes) -> bool:
    """Whether it has to be judged as a certificate: PEM, or the DER of a sequence."""
    return data.startswith((_CERTIFICATE, b"\x30"))


def _der(data: bytes) -> bytes:
    if not data.startswith(_CERTIFICATE):
        return data
    try:
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    except ValueError:
        return data


def _reference(path: Path, boot: Boot) -> TpmReference:
    """What a machine measures that boots the image in a file; its configuration is left open."""
    image = read_file(path, limit=MAX_IMAGE_BYTES, hint="--uki names one image's file (UKI)")
    return TpmReference(path.name, tpm.predict(image, boot=boot).registers)
