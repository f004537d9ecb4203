"""Fresh evidence for gateways that ask: many nonces answered with one quote, at a limited rate.

In: nonces. Out: bundles (``chrysalis.evidence``). Quotes are slow and serial, so what arrives while one is made shares
the next, and the number that may wait is bounded: an asker beyond it is told to come back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from appliance.errors import ErrorCode, RequestError
from attestation.evidence import build_bundles

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.claims import WorkloadStatement
    from attestation.evidence import Signer
    from attestation.platforms import Platform

BATCH = 64
"""Nonces to one quote: six Merkle steps in each bundle."""
WAITING = 256
"""Askers that may wait."""
PAUSE_S = 0.1
"""Between two quotes: a machine makes about 26 a second, and has other things to do."""


class EvidenceDesk:
    """Makes bundles, one quote at a time.

    Args:
        platform: Makes quotes.
        identity: The key that the links show; signs.
        statement: What this guest runs, as of now (the price may change).
        block_hash: Root hash of the newest proven block: the bundle was not made before it.
        collateral: JSON to staple, or None.
        pause: Seconds between two quotes.
    """

    def __init__(
        self,
        platform: Platform,
        identity: Signer,
        statement: Callable[[], WorkloadStatement],
        block_hash: Callable[[], bytes],
        *,
        collateral: Callable[[], bytes | None] = lambda: None,
        pause: float = PAUSE_S,
    ) -> None:
        self._platform = platform
        self._identity = identity
        self._statement = statement
        self._block_hash = block_hash
        self._collateral = collateral
        self._pause = pause
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._working: asyncio.Task[None] | None = None
        self.quotes = 0

    async def bundle(self, nonce: bytes) -> bytes:
        """A bundle for a 32-byte nonce.

        Raises:
            RequestError: Too many ask at once.
            AttestationError: This machine gives no quote.
        """
        if len(self._waiting) >= WAITING:
            raise RequestError("too many ask for evidence", code=ErrorCode.NOT_READY, retry_after=10.0)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="evidence")
        return await future

    async def _work(self) -> None:
        # What arrives within the pause shares the quote.
        while self._waiting:
            await asyncio.sleep(self._pause)
            # Who gave up waiting costs no quote.
            asked = [(nonce, future) for nonce, future in self._waiting if not future.done()]
            batch, self._waiting = asked[:BATCH], asked[BATCH:]
            if batch:
                await self._make(batch)

    async def _make(self, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        nonces = [nonce for nonce, _ in batch]
        self.quotes += 1
        try:
            bundles = await build_bundles(
                self._platform, self._identity, self._statement(), nonces, self._block_hash(), self._collateral()
            )
        except Exception as error:  # noqa: BLE001 - whatever fails here, the askers are told and the desk goes on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), bundle in zip(batch, bundles, strict=True):
            if not future.done():
                future.set_result(bundle)

    async def close(self) -> None:
        """Stop; whoever waits is told."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
