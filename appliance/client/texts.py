"""Texts of strangers, before they are shown to people or taken for what they say. Pure."""

from __future__ import annotations

MAX_CHARACTERS = 500
DAY_S = 86_400


def plain_text(text: str, limit: int = MAX_CHARACTERS) -> str:
    """A stranger's text for people: printable, on one line, at most ``limit`` characters."""
    return "".join(char if char.isprintable() else " " for char in text[:limit])


def split_retry(text: str) -> tuple[str, float | None]:
    """Take a gateway's ``retry after N s`` out of an error text: the text, and the seconds where they are told."""
    _, mark, tail = text.rpartition("retry after ")
    number = tail.partition(" ")[0].rstrip("s)") if mark else ""
    try:
        seconds = float(number)
    except ValueError:
        return text, None
    return text, seconds if 0 <= seconds < DAY_S else None
