"""Nonce-signed time: RFC 3161 time-stamps, asked for and verified with OpenSSL's own tool, which the image carries.

The stamp is over 32 random bytes of this machine and repeats its nonce, so that the host cannot replay an older one; it
can hold one back, which the limit on the exchange's length bounds. The authority's certificates are judged at the
stamped time (there is no other yet) against the roots of the measured configuration.
"""

from __future__ import annotations

import asyncio
import base64
import calendar
import re
import secrets
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.boot.errors import ClockError, ToolError
from appliance.boot.system import run_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_REPLY_BYTES: Final = 64 * 1024
MAX_EXCHANGE_S: Final = 20.0
_TIME: Final = re.compile(r"^Time stamp: (\w{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(\.\d+)? (\d{4}) GMT$", re.MULTILINE)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class SignedTime:
    """An authority's time. It was made between two moments of our monotonic clock.

    Attributes:
        stamped: Unix time that the authority signed.
        asked: Monotonic seconds when it was asked.
        answered: Monotonic seconds when its answer was here.
    """

    stamped: float
    asked: float
    answered: float

    def offset(self, wall: float, monotonic: float) -> float:
        """Seconds that a clock is behind, which says ``wall`` at that monotonic moment; half the exchange is unsure."""
        return self.stamped + (monotonic - (self.asked + self.answered) / 2) - wall


async def signed_time(
    authority: str, roots: Sequence[str], *, directory: Path, clock: Callable[[], float] = time.monotonic
) -> SignedTime:
    """Ask for the time and verify the answer.

    Args:
        authority: URL of the time-stamp authority.
        roots: DER certificates in base64.
        directory: Where files of the exchange are kept meanwhile.
        clock: Monotonic seconds.

    Raises:
        ClockError: No answer, a slow one, or one that does not verify.
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        place = Path(name)
        query, reply, trusted = place / "query", place / "reply", place / "roots.pem"
        trusted.write_text("".join(ssl.DER_cert_to_PEM_cert(base64.b64decode(root)) for root in roots))
        digest = secrets.token_hex(32)
        try:
            await run_tool("openssl", "ts", "-query", "-digest", digest, "-sha256", "-cert", "-out", str(query))
            asked = clock()
            reply.write_bytes(await asyncio.to_thread(_post, authority, query.read_bytes()))
            answered = clock()
            stamped = read_time(
                (await run_tool("openssl", "ts", "-reply", "-in", str(reply), "-text")).decode("latin-1")
            )
            await run_tool(
                "openssl", "ts", "-verify", "-in", str(reply), "-queryfile", str(query), "-CAfile", str(trusted),
                "-attime", str(int(stamped)),
            )  # fmt: skip
        except ToolError as error:
            raise ClockError(
                f"the time-stamp of {authority} does not verify: {error.message}",
                hint="does time.roots in measured.toml name this authority's root?",
            ) from None
    if answered - asked > MAX_EXCHANGE_S:
        raise ClockError(f"{authority} answered after {answered - asked:.1f} s, expected {MAX_EXCHANGE_S:g} at most")
    return SignedTime(stamped, asked, answered)


def read_time(text: str) -> float:
    """Unix time in ``openssl ts -reply -text``; raises ``ClockError``."""
    found = _TIME.search(text)
    if found is None or found[1] not in _MONTHS:
        raise ClockError("the authority granted no time-stamp", hint="it says why in its own log")
    month = _MONTHS.index(found[1]) + 1
    moment = calendar.timegm((int(found[7]), month, int(found[2]), int(found[3]), int(found[4]), int(found[5])))
    return moment + float(found[6] or 0)


def _post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(  # noqa: S310 - the model of the configuration allows http and https only
        url, data=body, headers={"Content-Type": "application/timestamp-query"}, method="POST"
    )
    # What the answer is worth is in its signature: the connection needs no trust, and no proxy of the environment.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=MAX_EXCHANGE_S) as response:
            data: bytes = response.read(MAX_REPLY_BYTES + 1)
    except (urllib.error.URLError, OSError) as error:
        raise ClockError(
            f"{url} gives no time-stamp: {getattr(error, 'reason', error)}", hint="host.toml: time_authority"
        ) from None
    if len(data) > MAX_REPLY_BYTES:
        raise ClockError(f"{url} answered with more than {MAX_REPLY_BYTES} bytes")
    return data
