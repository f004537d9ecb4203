"""The gateway's own fresh evidence, for clients that ask for it over the link.

In: a client's nonce. Out: a bundle that binds this gateway's TLS key, its image and its statement to that nonce.
Quotes are slow, so nonces that come while one is made share the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attestation.errors import AttestationError
from attestation.evidence import build_bundles

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.claims import WorkloadStatement
    from attestation.platforms import Platform
    from attestation.ratls import Identity

BATCH_LIMIT = 64


class OwnEvidence:
    """Makes bundles, one quote at a time.

    Args:
        platform: Makes quotes.
        identity: The key that the listeners show.
        statement: What this gateway is.
        block_hash: The newest proven block's root hash.
    """

    def __init__(
        self, platform: Platform, identity: Identity, statement: WorkloadStatement, block_hash: Callable[[], bytes]
    ) -> None:
        self._platform = platform
        self._identity = identity
        self._statement = statement
        self._block_hash = block_hash
        self._turn = asyncio.Lock()
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []

    async def bundle(self, nonce: bytes) -> bytes:
        """A bundle for ``nonce`` (32 bytes); raises ``CollectionError`` when the platform gives no quote."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, future))
        async with self._turn:
            if not future.done():
                await self._make()
        return await future

    async def _make(self) -> None:
        batch, self._waiting = self._waiting[:BATCH_LIMIT], self._waiting[BATCH_LIMIT:]
        try:
            bundles = await build_bundles(
                self._platform, self._identity, self._statement, [nonce for nonce, _ in batch], self._block_hash()
            )
        except (AttestationError, OSError) as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), bundle in zip(batch, bundles, strict=True):
            if not future.done():
                future.set_result(bundle)
