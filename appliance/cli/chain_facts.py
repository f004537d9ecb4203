"""What a verifier asks the chain: which images are listed, and since when a digest is there. Everything is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.anchors import find_anchor
from appliance.chain.registry import Registry
from appliance.cli.network import open_network

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Listed:
    """The images that the root contract listed when it was asked."""

    images: frozenset[bytes]

    def image_listed(self, image_hash: bytes, /) -> bool:
        """Whether an image is listed."""
        return image_hash in self.images


async def registry_view(network: Path, *, gateways: bool = False) -> Listed:
    """The images of workers, or of gateways; raises ``ChainError``."""
    async with open_network(network) as (chain, config):
        registry = Registry(chain, Address.parse(config.root_contract), is_test=config.is_test)
        state = await registry.refresh()
    return Listed(frozenset(state.proxy_hashes if gateways else state.worker_hashes))


async def anchor_time(network: Path, address: str, digest: bytes) -> float | None:
    """Unix time of the oldest proven transaction that carries the digest, ``None`` if there is none.

    Raises:
        ChainError: The chain cannot be read, or the address is none.
    """
    async with open_network(network) as (chain, _):
        found = await find_anchor(chain, Address.parse(address), digest)
    return None if found is None else float(found.utime)
