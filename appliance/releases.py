"""The releases that a gateway or client takes, from its configuration: read, remembered, kept fresh while it runs.

In: whose manifests are trusted (measured) and where they are (host). Out: rules for the verifier. The memory of the
highest release is in the state directory. A program does not start with a rollback, with a manifest that does not hold,
or with none that counts; once it runs, such a directory changes nothing and is told in the log.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Final

import structlog

from attestation.errors import AttestationError
from attestation.policies.release_memory import ReleaseMemory
from attestation.policies.releases import ImageReleased
from attestation.policies.shelf import ReleaseShelf
from measurements.manifest import date

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from appliance.config import ReleaseTrust
    from attestation.rules import Rule

MEMORY_NAME: Final = "releases.json"
"""In the state directory."""
DAY_S: Final = 86400.0
SOON_S: Final = 30 * DAY_S
"""How long before its end a release is said to end soon: a successor has to be out by then."""
GONE: Final = "its manifest is gone"
_log = structlog.get_logger(__name__)


def open_shelf(trust: ReleaseTrust, manifests: Path, state_dir: Path) -> ReleaseShelf:
    """The releases in a directory, read once.

    Raises:
        PolicyError: The directory or a manifest cannot be used, or none counts now.
        RollbackError: A family's highest release there is older than one seen before.
        ReleaseMemoryError: The memory cannot be read or written.
    """
    shelf = ReleaseShelf(
        manifests,
        [base64.b64decode(key) for key in trust.keys],
        threshold=trust.threshold,
        grace_s=trust.grace_days * DAY_S,
        memory=ReleaseMemory(state_dir / MEMORY_NAME),
    )
    shelf.refresh()
    shelf.require_some()
    return shelf


async def release_rules(
    trust: ReleaseTrust | None, manifests: Path | None, state_dir: Path, interval: float, stack: AsyncExitStack
) -> tuple[Rule, ...]:
    """The rules about releases, none where the configuration states nothing of them.

    Args:
        trust: Who signs.
        manifests: Where the manifests are.
        state_dir: Where the memory is.
        interval: Seconds between two looks at the directory.
        stack: Ends the looking.

    Raises:
        AttestationError: As :func:`open_shelf`.
    """
    if trust is None or manifests is None:
        return ()
    shelf = await asyncio.to_thread(open_shelf, trust, manifests, state_dir)
    looking = asyncio.get_running_loop().create_task(_keep_fresh(shelf, interval), name="releases")
    stack.callback(looking.cancel)
    return (ImageReleased(shelf),)


def news(shelf: ReleaseShelf, now: float) -> dict[str, str]:
    """How each release stands, in words that change only when that does.

    A number that was issued again with other dates stands as the one of its manifests that is taken, or ends last.
    """
    standings = sorted(shelf.standings, key=lambda item: (not item.refusal(now), item.until))
    return {
        item.release.name: item.refusal(now)
        or f"taken until {date(item.until)}{', which is soon' if item.until - now < SOON_S else ''}"
        for item in standings  # of equal names the last one stays
    }


async def _keep_fresh(shelf: ReleaseShelf, interval: float) -> None:
    trouble = ""
    told: dict[str, str] = {}
    while True:
        found = news(shelf, time.time())
        for name, state in (dict.fromkeys(told, GONE) | found).items():
            if told.get(name) != state:
                _log.info("release", name=name, state=state)
        told = found
        await asyncio.sleep(interval)
        try:
            await asyncio.to_thread(shelf.refresh)
        except AttestationError as error:
            if str(error) != trouble:
                trouble = str(error)
                _log.error("release manifests not taken over", error=type(error).__name__, reason=trouble)
        else:
            if trouble:
                _log.info("release manifests taken over again")
            trouble = ""
