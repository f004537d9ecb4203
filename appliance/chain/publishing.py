"""Sending a root owner's changes: in batches, each proven before the next, from wherever an earlier run was stopped.

In: a view of the root contract, the owner's wallet, and what to plan from a state. Out: the proven state that shows
all of it. Nothing is kept on disk: the chain is the record, and what is planned from its state is what is left to do.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from appliance.chain.envelopes import MAX_WALLET_MESSAGES
from appliance.chain.errors import ChainTimeoutError, NotConfirmedError, PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.chain.layouts import RootState
    from appliance.chain.owner_wallet import OwnerWallet
    from appliance.chain.publish import Change
    from appliance.chain.registry import Registry

SHOWN_S: Final = 120.0
"""How long a batch that the wallet sent may take until the root contract's proven state shows it."""
_PAUSE_S: Final = 0.5
_ATTEMPTS: Final = 3
_log = structlog.get_logger(__name__)


async def carry_out(
    registry: Registry,
    wallet: OwnerWallet,
    plan: Callable[[RootState], Sequence[Change]],
    report: Callable[[int, int], None],
) -> RootState:
    """Send what is left to do until nothing is.

    Args:
        registry: The root contract.
        wallet: Its owner's.
        plan: What has to change in a state; asked again after each batch.
        report: Told how many changes are proven, and how many there are in all.

    Raises:
        PublishError: The wallet is not the root's owner, or ``plan`` refuses.
        WalletError: The wallet cannot send.
        ChainTimeoutError: What was sent does not show.
        ChainError: The chain cannot be read.
    """
    state = await registry.refresh()
    require_owner(state, wallet)
    left = list(plan(state))
    total, lost = len(left), 0
    report(0, total)
    while left:
        batch = left[:MAX_WALLET_MESSAGES]
        try:
            await wallet.transfer([change.order(registry.root_address).message() for change in batch])
        except NotConfirmedError as error:
            # A run that was killed may have handed over a message that took this one's place: look, then go on.
            lost += 1
            if lost >= _ATTEMPTS:
                raise
            _log.warning("owner's message not confirmed", reason=str(error))
        else:
            await _shown(registry, batch)
        state = await registry.refresh()
        left = list(plan(state))
        report(max(0, total - len(left)), total)
    return state


def require_owner(state: RootState, wallet: OwnerWallet) -> None:
    """Refuse a wallet whose messages the root contract does not take.

    Raises:
        PublishError: It is not the owner's.
    """
    if state.owner != wallet.address:
        raise PublishError(
            f"the root contract's owner is {state.owner.friendly()}, this key's wallet {wallet.address.friendly()}",
            hint="only the owner's messages are taken: print them with --dry-run for whoever that is",
        )


async def _shown(registry: Registry, batch: Sequence[Change]) -> None:
    deadline = time.monotonic() + SHOWN_S
    while True:
        state = await registry.refresh()
        missing = [change for change in batch if not change.done(state)]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise ChainTimeoutError(
                f"{len(missing)} of {len(batch)} changes that were sent do not show in the root contract after "
                f"{SHOWN_S:g} s (version {state.version})",
                hint="look at the contract's last transactions; running the command again sends what is missing",
            )
        await asyncio.sleep(_PAUSE_S)
