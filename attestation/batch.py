"""Evidence for many askers: nonces that come while a quote is made share the next one, at a limited rate.

A quote takes tens of milliseconds and the platform makes one at a time, so one quote a request would let any asker stop
the others. Nonces are gathered under a Merkle root (:mod:`attestation.merkle`) and each asker gets the path to its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from attestation.errors import AttestationError, CollectionError, EvidenceError
from attestation.evidence import build_bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from attestation.claims import WorkloadStatement
    from attestation.evidence import DeviceCollector, Signer, Stapling
    from attestation.platforms import Platform

MAX_BATCH = 256
MAX_WAITING = 2048


class EvidenceMaker:
    """Makes bundles on request.

    Args:
        platform: Makes the quotes.
        identity: Signs the bundles.
        statement: What this guest runs now.
        block_hash: Root hash of the newest proven block, or empty.
        staple: Finds collateral to staple, or ``None``.
        devices: Asks the machine's devices, ``None`` where it has none.
        keys: More public keys by purpose.
        min_interval: Seconds between the starts of two quotes.
        max_batch: Nonces that share a quote.
        max_waiting: Requests that wait; more are refused.

    Attributes:
        quotes: Number of quotes that were asked for.
    """

    def __init__(
        self,
        platform: Platform,
        identity: Signer,
        *,
        statement: Callable[[], WorkloadStatement],
        block_hash: Callable[[], bytes] = bytes,
        staple: Stapling | None = None,
        devices: DeviceCollector | None = None,
        keys: Mapping[str, bytes] | None = None,
        min_interval: float = 0.1,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._platform = platform
        self._identity = identity
        self._statement = statement
        self._block_hash = block_hash
        self._staple = staple
        self._devices = devices
        self._keys = keys
        self._min_interval = min_interval
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.quotes = 0

    async def bundle(self, nonce: bytes) -> bytes:
        """A fresh bundle for a nonce of 32 bytes.

        Raises:
            EvidenceError: The nonce has another length, or too many requests wait.
            CollectionError: The platform gives no quote.
        """
        if len(nonce) != 32:
            raise EvidenceError(f"nonce of {len(nonce)} bytes, expected 32")
        if len(self._waiting) >= self._max_waiting:
            raise EvidenceError(f"{self._max_waiting} requests for evidence wait already", hint="ask again later")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return await answer

    async def close(self) -> None:
        """Stop; whoever still waits is told so."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._refuse(list(self._waiting), CollectionError("this guest stops and makes no more evidence"))
        self._waiting.clear()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            started = loop.time()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
            batch = [(nonce, answer) for nonce, answer in batch if not answer.done()]
            if not batch:
                continue
            try:
                await self._answer(batch)
            except AttestationError as error:
                self._refuse(batch, error)
            except BaseException:
                self._refuse(batch, CollectionError("evidence could not be made"))
                raise
            await asyncio.sleep(max(0.0, self._min_interval - (loop.time() - started)))

    async def _answer(self, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        self.quotes += 1
        bundles = await build_bundles(
            self._platform,
            self._identity,
            self._statement(),
            [nonce for nonce, _ in batch],
            self._block_hash(),
            keys=self._keys,
            devices=self._devices,
            staple=self._staple,
        )
        for (_, answer), bundle in zip(batch, bundles, strict=True):
            if not answer.done():
                answer.set_result(bundle)

    @staticmethod
    def _refuse(batch: list[tuple[bytes, asyncio.Future[bytes]]], error: AttestationError) -> None:
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(error)
