"""Which wheels the image's Python takes: its platforms and tags, the best first.

In: nothing of this machine. Out: names for pip and tags for choosing. The image has trixie's: CPython 3.13
and glibc 2.41.
"""

from __future__ import annotations

from packaging.tags import Tag, compatible_tags, cpython_tags

from appliance.image.lock_wheels import IMAGE_PYTHON

GLIBC_MINOR = 41
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # PEP 513, 571, 599


def platforms() -> list[str]:
    """Platform tags that the image accepts, the best first (PEP 600)."""
    found = []
    for minor in range(GLIBC_MINOR, 4, -1):
        found.append(f"manylinux_2_{minor}_x86_64")
        if minor in _LEGACY:
            found.append(f"{_LEGACY[minor]}_x86_64")
    return [*found, "linux_x86_64"]


def image_tags() -> list[Tag]:
    """Wheel tags that the image accepts, the best first."""
    names = platforms()
    abis = [f"cp{IMAGE_PYTHON[0]}{IMAGE_PYTHON[1]}"]
    return [
        *cpython_tags(IMAGE_PYTHON, abis, names),
        *compatible_tags(IMAGE_PYTHON, f"cp{IMAGE_PYTHON[0]}{IMAGE_PYTHON[1]}", names),
    ]
