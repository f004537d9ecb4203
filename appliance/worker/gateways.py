"""The links to gateways, from the draw to the end: dialled, attended, lost, dialled again.

In: the addresses that may be dialled, at every tick. Out: running :class:`~appliance.worker.link.GatewayLink` objects,
and for each that could not be had, why. What a failure teaches about a peer is kept for the next attempt.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from appliance.accounting.errors import LedgerError
from appliance.wire.errors import LinkClosedError
from appliance.worker.errors import HandshakeError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from appliance.wire.transport import Dialer
    from appliance.worker.link import GatewayLink
    from appliance.worker.targets import Targets

log = structlog.get_logger(__name__)

MAX_TROUBLES = 16
"""Gateways whose last failure is remembered."""


class Gateways:
    """The gateways of one worker.

    Args:
        targets: Decides whom to dial.
        dialer: How to connect.
        make: Makes the link to an address.
    """

    def __init__(self, targets: Targets, dialer: Dialer, make: Callable[[str], GatewayLink]) -> None:
        self._targets = targets
        self._dialer = dialer
        self._make = make
        self._links: dict[str, GatewayLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._suspects: set[str] = set()
        self._plain: set[str] = set()
        self._troubles: dict[str, str] = {}

    @property
    def links(self) -> tuple[GatewayLink, ...]:
        """The gateways we are, or try to be, connected to."""
        return tuple(self._links.values())

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why there is no link, by the gateway's address."""
        return self._troubles

    def dial(self, listed: Sequence[str]) -> None:
        """Give up and dial whom the targets say."""
        moves = self._targets.tick(_now(), listed)
        for address in moves.drop:
            log.info("gateway given up", gateway=address)
            if link := self._links.get(address):
                link.close()
        for address in moves.dial:
            if address not in self._tasks:
                self._tasks[address] = asyncio.create_task(self._attend(address), name=f"gateway {address}")

    def ready(self, link: GatewayLink) -> None:
        """The link's handshake is complete."""
        self._targets.ready(link.address, _now())
        self._troubles.pop(link.address, None)
        log.info("gateway ready", gateway=link.address, protocol=link.session.protocol if link.session else None)

    def announce(self) -> None:
        """Have every link tell its gateway what changed."""
        for link in self.links:
            try:
                link.announce()
            except LinkClosedError:
                continue

    def close(self) -> None:
        """Close every link; those that are listed are dialled again."""
        for link in self.links:
            link.close()

    async def stop(self) -> None:
        """Close every link for good."""
        self.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _attend(self, address: str) -> None:
        """One link, from dialling to its end."""
        link = self._links[address] = self._make(address)
        try:
            await link.run(self._dialer, greet=address not in self._plain, state_totals=address not in self._suspects)
        except HandshakeError as error:
            self._trouble(address, str(error))
            log.warning("gateway refused", gateway=address, reason=error.message, hint=error.hint)
        except LedgerError as error:
            self._trouble(address, str(error))
            log.error("gateway left: the ledger cannot be written", gateway=address, reason=error.message)
        except ChrysalisError as error:
            self._trouble(address, str(error))
            log.info("no link", gateway=address, error=type(error).__name__, reason=error.message)
        except Exception as error:  # noqa: BLE001 - one gateway must not end the others' links
            self._trouble(address, type(error).__name__)
            log.error("link failed in an unforeseen way", gateway=address, error=type(error).__name__)
        finally:
            # A peer may have ended as a process over totals larger than its own: the next time it is told none. And
            # one that closed the link over the extensions' query is not asked again, unless that was not it either.
            _remember(self._suspects, address, yes=link.died_comparing)
            _remember(self._plain, address, yes=link.unwelcome or (address in self._plain and link.session is not None))
            self._links.pop(address, None)
            self._tasks.pop(address, None)
            delay = self._targets.lost(address, _now())
            log.debug("next attempt", gateway=address, delay_s=round(delay, 1))

    def _trouble(self, address: str, what: str) -> None:
        """Remember why there is no link to a gateway: the newest few, for whoever looks."""
        self._troubles.pop(address, None)
        self._troubles[address] = what
        while len(self._troubles) > MAX_TROUBLES:
            del self._troubles[next(iter(self._troubles))]


def _remember(addresses: set[str], address: str, *, yes: bool) -> None:
    if yes:
        addresses.add(address)
    else:
        addresses.discard(address)


def _now() -> float:
    return asyncio.get_running_loop().time()
