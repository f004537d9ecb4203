"""Makes blocks: one every so often, and soon after there is work.

In: a chain and two times. Out: ticks, in a thread of their own, so that queries are answered meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.devnet import DevNet


class Producer:
    """The rhythm of one chain; belongs to the event loop in which it is made.

    Args:
        net: The chain.
        block_time: Seconds between blocks without work.
        block_delay: Seconds from the first work to the block that holds it, so that more can join.
    """

    def __init__(self, net: DevNet, *, block_time: float, block_delay: float) -> None:
        self._net = net
        self._block_time = block_time
        self._block_delay = block_delay
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()
        self._made = asyncio.Condition()

    async def run(self) -> None:
        """Make blocks until cancelled; errors of the chain or the TVM end it."""
        self._net.watch_work(self._notice)
        try:
            while True:
                await self._rest()
                self._work.clear()
                await self.tick()
                if self._net.has_work:
                    self._work.set()
        finally:
            self._net.watch_work(None)

    async def tick(self) -> View:
        """Make a block now."""
        view = await asyncio.shield(asyncio.to_thread(self._net.tick))
        async with self._made:
            self._made.notify_all()
        return view

    async def after(self, seqno: int) -> View:
        """Wait for a block above ``seqno``."""
        async with self._made:
            await self._made.wait_for(lambda: self._net.view.seqno > seqno)
        return self._net.view

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._block_time):
                await self._work.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._block_delay)

    def _notice(self) -> None:
        """Called by any thread when there is work."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work.set)
