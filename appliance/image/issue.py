"""What makes a build a release: its number and the time in which it counts. Nothing of it is in the image.

In: a number and two times as a person writes them. Out: an :class:`Issue`, and the command that builds the same again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from appliance.image.errors import BuildError
from measurements.manifest import MAX_INTEGER, MAX_LIFETIME_S, MAX_TIME, date

if TYPE_CHECKING:
    from appliance.image.profiles import Recipe


@dataclass(frozen=True, slots=True)
class Issue:
    """A release's number and dates; the default is a build that nobody releases.

    Attributes:
        release: The number, which only ever rises; 0 for a build that nobody releases.
        not_before: When the release begins to count, Unix seconds; 0 for none.
        expires: When it ends to count, Unix seconds; 0 for none.
    """

    release: int = 0
    not_before: int = 0
    expires: int = 0

    def command(self, recipe: Recipe) -> str:
        """The command that builds an image and its manifest again, to the bit, in a checkout of its commit."""
        words = ["chrysalis", "image", "build", "--profile", recipe.profile]
        if recipe.debug:
            words.append("--debug")
        if self.release:
            words += ["--release", str(self.release)]
            words += ["--not-before", date(self.not_before), "--expires", date(self.expires)]
        return " ".join(words)


def make_issue(release: int, not_before: str | None, expires: str | None) -> Issue:
    """What a person asked for.

    Args:
        release: The number; 0 for none.
        not_before: A time (:func:`parse_time`); needed for a release.
        expires: Another, after it by two years at most.

    Raises:
        BuildError: Dates without a number, a number without dates, or dates in the wrong order.
    """
    if release == 0:
        if not_before is not None or expires is not None:
            raise BuildError("--not-before and --expires are a release's", hint="state its number with --release")
        return Issue()
    if not 0 < release <= MAX_INTEGER:
        raise BuildError(f"release number {release}, expected 1 to {MAX_INTEGER}")
    if not_before is None or expires is None:
        raise BuildError(
            f"release {release} without its dates",
            hint="for example --not-before 2026-12-01 --expires 2027-12-01: a release that never ends could be shown "
            "to clients for ever, holes and all",
        )
    begin, end = parse_time(not_before), parse_time(expires)
    if not 0 < begin < end <= begin + MAX_LIFETIME_S:
        raise BuildError(
            f"a release from {date(begin)} to {date(end)}", hint="it has to expire after it begins, within two years"
        )
    return Issue(release, begin, end)


def parse_time(text: str) -> int:
    """Unix seconds from ``2026-12-01``, ``2026-12-01T06:00:00Z`` (UTC, always) or the seconds themselves.

    Raises:
        BuildError: Another form, or a time that a manifest cannot have.
    """
    found = -1
    if text.isascii() and text.isdigit() and len(text) <= 12:
        found = int(text)
    else:
        for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                found = int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())
            except (ValueError, OverflowError):
                continue
    if not 0 <= found <= MAX_TIME:
        raise BuildError(f"{text[:40]!r} is no time", hint="for example 2026-12-01 or 2026-12-01T06:00:00Z, in UTC")
    return found
