"""The clock: what is required of it before it judges a certificate.

The machine's own clock is the host's word. It must not be before the image was made; where the measured configuration
names authorities, their nonce-signed time decides (:mod:`appliance.boot.timestamp`). A proven block gives a lower bound
later, in the worker; a remote verifier uses its own clock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from appliance.boot.errors import ClockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.boot.image import ImageInfo
    from appliance.boot.timestamp import SignedTime

log = structlog.get_logger(__name__)

YEAR_S: Final = 365.25 * 86400
MAX_AGE_S: Final = 15 * YEAR_S
"""An image is not this old: a clock that says so is wrong."""


def check_range(now: float, image: ImageInfo) -> None:
    """The clock is neither before the image was made nor absurdly long after.

    Raises:
        ClockError: It is.
    """
    made = image.source_date_epoch
    if not made <= now <= made + MAX_AGE_S:
        raise ClockError(
            f"the clock says {_date(now)}, expected {_date(made)} to {_date(made + MAX_AGE_S)}",
            hint="set the host's clock (its RTC is UTC) and start the machine again",
        )


def correct(signed: SignedTime, max_offset_s: float, *, set_clock: Callable[[float], None] | None = None) -> float:
    """Compare the clock with a signed time and set it where it is off.

    Args:
        signed: The authority's time, and when it was asked and answered by our clock.
        max_offset_s: What is left as it is.
        set_clock: Sets the system's clock to Unix time.

    Returns:
        Seconds that the clock was behind (negative: ahead).

    Raises:
        ClockError: The clock cannot be set.
    """
    offset = signed.offset(time.time(), time.monotonic())
    if abs(offset) > max_offset_s:
        try:
            (set_clock or _set)(time.time() + offset)
        except OSError as error:
            raise ClockError(f"the clock is off by {offset:.1f} s and cannot be set: {error.strerror}") from None
        log.warning("clock set", seen=round(-offset, 1), expected=0)
    return offset


def _set(now: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, now)


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
