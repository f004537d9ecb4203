"""The three types of configuration (design, section 2): measured, owner, host; and one file model a program.

``MeasuredConfig`` decides what a release is and is part of its identity (:meth:`MeasuredConfig.digest`);
``OwnerConfig`` is bound into fresh evidence; ``HostConfig`` can cost availability only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import cbor2
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AddressText = Annotated[str, StringConstraints(pattern=r"^(-?\d{1,3}:[0-9a-fA-F]{64}|[A-Za-z0-9_+/-]{48})$")]
HostPort = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.-]+):\d{1,5}$")]
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=65536)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,200}@[A-Za-z0-9._-]{1,64}:[0-9a-f]{64}$")]
ServiceUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]{1,500}$")]
MAX_TIMEOUT_S = 3600.0
KEY_BYTES = 32


class Model(BaseModel):
    """Base of all configuration models: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BlockRef(Model):
    """A block's identity. Hashes are lower-case hex."""

    workchain: int = -1
    shard: int = -(2**63)
    seqno: Annotated[int, Field(ge=0, lt=2**32)]
    root_hash: Hex32
    file_hash: Hex32


class NetworkConfig(Model):
    """Which chain and which root contract: the trust point of everything that is read from the chain."""

    global_id: int
    zerostate: BlockRef
    key_block: BlockRef
    root_contract: AddressText
    is_test: bool = False
    testnet: bool = False
    root_max_age_s: Annotated[float, Field(gt=0)] = 7200.0


class TpmReference(Model):
    """What one image measures into a TPM (SHA-256 bank, lower-case hex), so that a refusal can say what differs.

    ``pcr14`` holds the measured configuration. It may be left out, and has to be in the configuration that it would be
    the digest of; evidence that states a configuration has to match it all the same.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    pcr4: Hex32
    pcr9: Hex32
    pcr11: Hex32
    pcr12: Hex32 = "0" * 64
    pcr14: Hex32 | None = None


class TrustConfig(Model):
    """What peers have to prove.

    ``tdx`` rests on Intel's root, ``hardware`` on that of any maker of processors; the others are for development only:
    ``development`` must be set, and a release refuses it. ``simulated_roots`` (of TDX quotes), ``tpm_roots`` (of TPM
    attestation keys), ``snp_roots`` (of SEV-SNP reports), ``gpu_roots`` and ``rim_roots`` (of GPUs and their reference
    manifests) are DER certificates in base64, made for a run; a verdict that rests on one gives no assurance.
    ``tpm_references`` limits TPM machines to these images. ``quote_zero_padding`` takes quotes that are followed by
    zeros, as some machines of other networks send them.
    """

    policy: Literal["tdx", "hardware", "simulated", "fake_tdx", "any"]
    development: bool = False
    simulated_roots: tuple[Base64, ...] = ()
    tpm_roots: tuple[Base64, ...] = ()
    snp_roots: tuple[Base64, ...] = ()
    gpu_roots: tuple[Base64, ...] = ()
    rim_roots: tuple[Base64, ...] = ()
    tpm_references: tuple[TpmReference, ...] = ()
    check_images: bool = True
    check_models: bool = True
    tcb_grace_days: Annotated[int, Field(ge=0, le=90)] = 0
    quote_zero_padding: bool = False

    @model_validator(mode="after")
    def _development_only(self) -> TrustConfig:
        if self.policy not in {"tdx", "hardware"} and not self.development:
            msg = f"policy {self.policy!r} proves nothing to a stranger and needs development = true"
            raise ValueError(msg)
        if (self.policy == "simulated") != bool(self.simulated_roots or self.tpm_roots or self.snp_roots):
            msg = "simulated_roots, tpm_roots and snp_roots belong to policy 'simulated', which needs at least one"
            raise ValueError(msg)
        if bool(self.gpu_roots) != bool(self.rim_roots) or (self.gpu_roots and self.policy != "simulated"):
            msg = "gpu_roots and rim_roots belong together, and to policy 'simulated'"
            raise ValueError(msg)
        if self.tpm_references and not self.tpm_roots:
            msg = "tpm_references say what TPM machines measure, and no TPM machine is trusted without tpm_roots"
            raise ValueError(msg)
        return self


class EngineConfig(Model):
    """The engine and what it may do. Token and request numbers are per engine; times are seconds.

    ``transformers`` is the light engine of machines on which SGLang cannot run (``docs/engine.md``).
    """

    kind: Literal["sglang", "transformers", "openai"] = "sglang"
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    context_length: Annotated[int, Field(ge=64)] = 2048
    max_total_tokens: Annotated[int, Field(ge=64)] = 16384
    max_active_requests: Annotated[int, Field(ge=1, le=10_000)] = 60
    tensor_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    data_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    self_check_prompt: str = "What is the capital of France? Answer in one sentence."
    self_check_pattern: str = r"."


class ModelVolume(Model):
    """The layout of a guest's model volume: with the root hash in the model's name, the whole verity table.

    ``data_blocks`` are blocks of 4096 bytes; the hash area begins behind them. Salt and block sizes are constants of
    the format.
    """

    format: Literal["erofs", "cocoon-tar"] = "erofs"
    data_blocks: Annotated[int, Field(ge=1, lt=2**36)]


class TimeConfig(Model):
    """Time that a guest asks for: RFC 3161 time-stamps over its own nonce, by an authority under one of these roots.

    ``roots`` are DER certificates in base64. A clock that is off by more than ``max_offset_s`` is set; which server
    is asked is the host's choice (it can refuse, not lie).
    """

    roots: Annotated[tuple[Base64, ...], Field(min_length=1, max_length=8)]
    max_offset_s: Annotated[float, Field(ge=1, le=3600)] = 30.0


class ReleaseTrust(Model):
    """Whose releases a gateway or client takes, besides what the root contract lists.

    A peer's registers have to be those of a manifest that ``threshold`` of the ``keys`` signed (Ed25519, base64) and
    that counts at that time. Where a newer release of the same profile counts, an older one is taken for
    ``grace_days`` more, from the newer one's ``not_before``.
    """

    keys: Annotated[tuple[Base64, ...], Field(min_length=1, max_length=16)]
    threshold: Annotated[int, Field(ge=1, le=16)] = 1
    grace_days: Annotated[float, Field(ge=0, le=90)] = 14.0

    @model_validator(mode="after")
    def _usable(self) -> ReleaseTrust:
        if any(len(_decoded(key)) != KEY_BYTES for key in self.keys):
            msg = "keys are Ed25519 public keys: 32 bytes in base64"
            raise ValueError(msg)
        if self.threshold > len(set(self.keys)):
            msg = f"threshold {self.threshold} with {len(set(self.keys))} keys"
            raise ValueError(msg)
        return self


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


class MeasuredConfig(Model):
    """What makes one release for one network and model the same everywhere.

    Model and engine are a worker's only; the model's volume and ``time`` are for the appliance image; ``releases`` is
    for gateways and clients.
    """

    network: NetworkConfig
    trust: TrustConfig
    model: ModelName | None = None
    engine: EngineConfig | None = None
    model_volume: ModelVolume | None = None
    time: TimeConfig | None = None
    releases: ReleaseTrust | None = None

    def digest(self) -> bytes:
        """SHA-256 of the canonical CBOR (RFC 8949, section 4.2) of all values, defaults included: 32 bytes.

        ``releases`` came later than the rest; where it is absent it is left out, so that a worker's digest is the same
        for images of before and after.
        """
        absent = {"releases"} if self.releases is None else None
        return hashlib.sha256(cbor2.dumps(self.model_dump(mode="json", exclude=absent), canonical=True)).digest()

    @property
    def base_model(self) -> str:
        """The model's name before ``@``, which requests carry."""
        return (self.model or "").partition("@")[0]


class OwnerConfig(Model):
    """Who is paid, and at what price. ``coefficient`` in thousandths; amounts in nanotons.

    ``gas_key_file`` holds a 32-byte seed in base64 (mode 0600) of the node wallet; without it payouts go to the relay.
    """

    address: AddressText
    coefficient: Annotated[int, Field(ge=0, lt=10**9)] = 1000
    gas_key_file: Path | None = None
    payout_min_nanotons: Annotated[int, Field(ge=0)] = 1_000_000_000
    payout_max_fee_share: Annotated[float, Field(gt=0, le=1)] = 0.05


class LiteserverConfig(Model):
    """One liteserver: address and its Ed25519 key (base64). Several give fail-over; none is trusted."""

    address: HostPort
    key: Base64


class CollateralAccess(Model):
    """How services of collateral are reached: nothing that they answer is trusted, so this costs availability alone.

    ``proxy``: ``environment`` takes ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, ``off`` none, an address that
    one. ``root_crl`` has the revocation list of Intel's root; without it the service that ``collateral`` names has it.
    """

    proxy: Annotated[str, StringConstraints(pattern=r"^(environment|off|http://[^\s]{1,500})$")] = "environment"
    root_crl: ServiceUrl | None = None


class HostCollateralAccess(CollateralAccess):
    """What a host has besides: places of its own.

    ``cache_dir`` keeps answers, by default in ``state_dir``; ``offline`` is a file that ``chrysalis collateral export``
    made, looked into before a service is asked.
    """

    cache_dir: Path | None = None
    offline: Path | None = None


class HostConfig(Model):
    """What every program's host decides: places and addresses.

    ``status`` (loopback only) serves health, metrics and the stages; ``drain_s`` is what running requests get after
    SIGTERM. ``platform`` is what makes this machine's evidence; without it, what the policy's name says.
    ``quote_source`` belongs to it: a quoting service's socket (``simulated``), another configfs directory (``tdx``),
    another directory for key and certificates (``tpm``). ``attestation_ca`` certifies a TPM's attestation key (URL).
    ``collateral`` (a URL, file or directory), ``kds``, ``rim`` and ``ocsp`` (URLs) have what evidence of TDX machines,
    of SEV-SNP machines and of GPUs is judged by; without them only what comes with evidence is used.
    ``collateral_access`` says how those services are reached, and where their answers are kept.
    """

    state_dir: Path
    liteservers: Annotated[tuple[LiteserverConfig, ...], Field(min_length=1)]
    status: HostPort | None = None
    router: HostPort | None = None
    platform: Literal["tdx", "snp", "azure", "gcp", "simulated", "fake_tdx", "tpm", "none"] | None = None
    quote_source: str | None = None
    attestation_ca: ServiceUrl | None = None
    collateral: str | None = None
    kds: ServiceUrl | None = None
    rim: ServiceUrl | None = None
    ocsp: ServiceUrl | None = None
    collateral_access: HostCollateralAccess = HostCollateralAccess()
    registry_poll_s: Annotated[float, Field(gt=0, le=3600)] = 45.0
    drain_s: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S)] = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class WorkerHost(HostConfig):
    """A worker's host settings. ``gateways`` replaces the registry's list; ``engine_url`` an own engine.

    ``attested`` serves fresh evidence to whoever asks, over TLS that ends at the attested key (``/v1/attestation``).
    """

    gateways: tuple[HostPort, ...] = ()
    gateway_connections: Annotated[int, Field(ge=1, le=64)] = 1
    model_dir: Path | None = None
    attested: HostPort | None = None
    engine_url: str | None = None
    engine_key_file: Path | None = None
    relay: Path | None = None
    pow_max_difficulty: Annotated[int, Field(ge=0, le=40)] = 28


class GatewayHost(HostConfig):
    """A gateway's host settings. Behind a router the two listeners are plain and expect its attestation frame.

    ``reference_workers`` takes workers that know nothing of fresh evidence: their certificate alone speaks for them.
    ``manifests`` is a directory of signed manifests (``*.json`` with ``.sig`` beside), for ``measured.releases``.
    """

    manifests: Path | None = None
    listen_workers: HostPort
    listen_clients: HostPort
    key_file: Path
    wallet_key_file: Path
    pow_difficulty: Annotated[int, Field(ge=0, le=40)] = 20
    behind_router: bool = False
    reference_workers: bool = False
    max_stake_nanotons: Annotated[int, Field(ge=0)] = 100_000_000_000
    queue_limit: Annotated[int, Field(ge=0)] = 256
    client_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    request_timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] = 120.0
    commit_interval_s: Annotated[float, Field(gt=0)] = 45.0
    payout_min_nanotons: Annotated[int, Field(ge=0)] = 10_000_000_000


class ClientHost(HostConfig):
    """A client's host settings. ``listen`` serves the OpenAI-style API; ``api_key_file`` holds its bearer key.

    ``manifests`` is a directory of signed manifests (``*.json`` with ``.sig`` beside), for ``measured.releases``.
    """

    manifests: Path | None = None

    listen: HostPort = "127.0.0.1:10000"
    api_key_file: Path
    wallet_key_file: Path
    gateways: tuple[HostPort, ...] = ()
    gateway_connections: Annotated[int, Field(ge=1, le=64)] = 1
    secret_file: Path
    max_coefficient: Annotated[int, Field(ge=0, lt=10**9)] = 4000
    budget_nanotons: Annotated[int, Field(ge=0)] | None = None
    top_up_nanotons: Annotated[int, Field(ge=0)] = 1_000_000_000
    default_max_tokens: Annotated[int, Field(ge=1)] = 1000
    request_timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] = 120.0
    pow_max_difficulty: Annotated[int, Field(ge=0, le=40)] = 28
    allowed_origins: tuple[str, ...] = ()


class WorkerConfig(Model):
    """A worker's file."""

    measured: MeasuredConfig
    owner: OwnerConfig
    host: WorkerHost

    @model_validator(mode="after")
    def _complete(self) -> WorkerConfig:
        if self.measured.model is None or self.measured.engine is None:
            msg = "a worker's [measured] needs model and [measured.engine]"
            raise ValueError(msg)
        if self.measured.releases is not None:
            msg = "[measured.releases] is for gateways and clients: a worker's gateways are those of the root contract"
            raise ValueError(msg)
        return self


class GatewayConfig(Model):
    """A gateway's file."""

    measured: MeasuredConfig
    owner: OwnerConfig
    host: GatewayHost

    @model_validator(mode="after")
    def _together(self) -> GatewayConfig:
        _with_manifests(self.measured, self.host.manifests)
        return self


class ClientConfig(Model):
    """A client's file."""

    measured: MeasuredConfig
    owner: OwnerConfig
    host: ClientHost

    @model_validator(mode="after")
    def _together(self) -> ClientConfig:
        _with_manifests(self.measured, self.host.manifests)
        return self


def _with_manifests(measured: MeasuredConfig, manifests: Path | None) -> None:
    if (measured.releases is None) != (manifests is None):
        msg = "[measured.releases] (who signs) and host.manifests (where the manifests are) belong together"
        raise ValueError(msg)
