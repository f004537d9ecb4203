"""From configuration to parts: what worker, gateway and client put together in the same way.

Cores take plain values; this is where values of the configuration become a chain client, a verifier, an identity, a
dialer. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.client import ChainClient, TrustPoint
from appliance.chain.registry import Registry
from appliance.chain.transport import LiteserverAddress
from appliance.chain.types import BlockId
from appliance.config.ports import host_port
from attestation.collateral.opening import open_sources
from attestation.collateral.settings import CollateralSettings
from attestation.collateral.vendors import NVIDIA_OCSP, NVIDIA_RIM
from attestation.gpu.nvml import NvmlCollector, inventory
from attestation.gpu.roots import GpuRoots
from attestation.platforms import detect, open_platform
from attestation.platforms.simulated_gpus import SimulatedGpus, devices_path
from attestation.policy import for_name
from attestation.ratls import RatlsDialer, RouterDialer
from attestation.tpm.references import TpmReference
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor

    from appliance.config import BlockRef, HostConfig, MeasuredConfig, NetworkConfig, TrustConfig
    from appliance.config.models import TpmReference as ConfiguredReference
    from appliance.wire.transport import Dialer
    from attestation.collateral.sources import Sources
    from attestation.evidence import DeviceCollector
    from attestation.platforms import Platform
    from attestation.ratls import Identity
    from attestation.rules import Rule

POLL_SPREAD = 1 / 3


def block_id(ref: BlockRef) -> BlockId:
    """A configured block as the chain's value."""
    return BlockId(ref.workchain, ref.shard, ref.seqno, bytes.fromhex(ref.root_hash), bytes.fromhex(ref.file_hash))


def open_chain(network: NetworkConfig, host: HostConfig) -> ChainClient:
    """A client of the configured chain; the caller closes it."""
    servers = [
        LiteserverAddress(*host_port(server.address), base64.b64decode(server.key)) for server in host.liteservers
    ]
    return ChainClient(TrustPoint(block_id(network.zerostate), block_id(network.key_block)), servers)


def open_registry(network: NetworkConfig, host: HostConfig, chain: ChainClient) -> Registry:
    """The root contract's view; the caller starts and closes it."""
    spread = host.registry_poll_s * POLL_SPREAD
    return Registry(
        chain,
        Address.parse(network.root_contract),
        network.root_max_age_s,
        refresh_interval=(host.registry_poll_s - spread, host.registry_poll_s + spread),
        is_test=network.is_test,
    )


def collateral_sources(host: HostConfig, *, of_devices: bool = False) -> Sources:
    """Where collateral comes from: of each kind a service's address, or nothing, which means stapled only.

    Args:
        host: Names the services.
        of_devices: Whether NVIDIA's own are asked where none is named: for a machine that has GPUs to vouch for.
    """
    access = host.collateral_access
    settings = CollateralSettings(
        tdx=host.collateral,
        kds=host.kds,
        rim=host.rim or (NVIDIA_RIM if of_devices else None),
        ocsp=host.ocsp or (NVIDIA_OCSP if of_devices else None),
        root_crl=access.root_crl,
        proxy=access.proxy,
        cache=access.cache_dir or host.state_dir / "collateral",
        offline=access.offline,
    )
    return open_sources(settings)


def open_verifier(trust: TrustConfig, host: HostConfig, *more: Rule) -> Verifier:
    """The verifier with the configured policy, and with more rules if there are any."""
    policy = for_name(
        trust.policy,
        simulated_roots=_decoded(trust.simulated_roots),
        tpm_roots=_decoded(trust.tpm_roots),
        snp_roots=_decoded(trust.snp_roots),
        gpu_roots=GpuRoots(_decoded(trust.gpu_roots), _decoded(trust.rim_roots)) if trust.gpu_roots else None,
        tpm_references=tuple(tpm_reference(reference) for reference in trust.tpm_references),
        tcb_grace_days=trust.tcb_grace_days,
        zero_padding=trust.quote_zero_padding,
    )
    return Verifier(policy.demanding(*more) if more else policy, collateral_sources(host))


def _decoded(roots: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(base64.b64decode(root) for root in roots)


def tpm_reference(configured: ConfiguredReference) -> TpmReference:
    """A configured image's registers as the verifier's value."""
    values = {4: configured.pcr4, 9: configured.pcr9, 11: configured.pcr11, 12: configured.pcr12, 14: configured.pcr14}
    return TpmReference(configured.name, {register: bytes.fromhex(text) for register, text in values.items() if text})


def own_platform(trust: TrustConfig, host: HostConfig) -> Platform | None:
    """What makes this machine's evidence: what the host's settings name, else what the policy's name says."""
    named = host.platform or (detect().platform if trust.policy == "hardware" else trust.policy)
    return open_platform(
        named,
        host.quote_source,
        directory=host.state_dir / "tpm",
        attestation_ca=host.attestation_ca,
    )


async def own_devices(measured: MeasuredConfig, host: HostConfig) -> DeviceCollector | None:
    """What asks this machine's GPUs for evidence; ``None`` for a machine that computes on none.

    Under a release's policy GPUs that can give none are an error when evidence is made; a development policy, whose
    verdicts give no assurance, takes GPUs whose confidential computing is off.

    Raises:
        CollectionError: There is no driver to ask.
    """
    if host.platform == "simulated" or (host.platform is None and measured.trust.policy == "simulated"):
        devices = devices_path(Path(host.quote_source)) if host.quote_source else None
        return SimulatedGpus(devices) if devices is not None and devices.exists() else None
    if measured.engine is None or measured.engine.device != "cuda":
        return None
    if measured.trust.development and not (await asyncio.to_thread(inventory)).confidential:
        return None
    return NvmlCollector()


def open_dialer(
    host: HostConfig, identity: Identity, verifier: Verifier, *, max_difficulty: int, pool: Executor | None
) -> Dialer:
    """Straight to the peer, or through the router that stands beside this program."""
    if host.router is not None:
        return RouterDialer(*host_port(host.router))
    return RatlsDialer(identity, verifier, max_difficulty, pool)
