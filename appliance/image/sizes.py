"""Sizes as people write them: ``512M``, ``20G``; and as they read them."""

from __future__ import annotations

import re

from appliance.image.errors import ImageError

_SIZE = re.compile(r"(\d{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class SizeError(ImageError):
    """A size is not written as one."""


def parse_size(text: str) -> int:
    """Bytes from a number with K, M, G or T (powers of 1024).

    Raises:
        SizeError: Another form.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SizeError(f"size {text[:40]!r}, expected a number with K, M, G or T, for example 20G")
    return int(found[1]) << _UNITS[found[2].upper()]


def shown_size(size: int) -> str:
    """A length in bytes in the largest unit that leaves at least one."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} bytes"
