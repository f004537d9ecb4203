"""Requirement files to wheel locks: for every pinned package the one wheel that the image's Python takes.

In: a requirement file with hashes, and what the package index says of its versions (asked through ``uv``, which reads
the machine's own configuration). Out: :class:`~appliance.image.lock_wheels.WheelLock`. The choice follows the order of
tags that the packaging standard gives for Python 3.13 on glibc 2.41; only wheels whose digest the requirement file
already allows are looked at.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name, parse_wheel_filename

from appliance.image.errors import MissingToolError, ResolveError
from appliance.image.lock_wheels import IMAGE_PYTHON, LockedWheel, WheelLock
from appliance.image.resolve_tags import image_tags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.tags import Tag

_UV_PLATFORM = "x86_64-manylinux_2_40"  # the newest that uv knows; tags decide


def resolve_wheels(requirements: Path) -> WheelLock:
    """The wheel lock of a requirement file.

    Raises:
        ResolveError: A package has no wheel that fits and is allowed.
        MissingToolError: ``uv`` is not installed.
    """
    allowed = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirements.read_text(encoding="utf-8")))
    ranks = {tag: rank for rank, tag in enumerate(image_tags())}
    wheels = []
    for entry in _offered(requirements):
        fitting = sorted(
            (min(ranks[tag] for tag in tags & ranks.keys()), wheel)
            for wheel, tags in _wheels(entry)
            if wheel.sha256 in allowed and tags & ranks.keys()
        )
        if not fitting:
            raise ResolveError(
                f"{requirements.name}: {entry['name']} {entry['version']} has no wheel for the image's Python "
                f"{'.'.join(map(str, IMAGE_PYTHON))} among those that the file allows"
            )
        wheels.append(fitting[0][1])
    return WheelLock.make(requirements.stem, wheels)


def _wheels(entry: dict[str, Any]) -> Iterator[tuple[LockedWheel, frozenset[Tag]]]:
    for wheel in entry.get("wheels", ()):
        filename = wheel.get("name") or unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])
        name, _, _, tags = parse_wheel_filename(filename)
        yield (
            LockedWheel(str(name), str(entry["version"]), filename, wheel["hashes"]["sha256"], int(wheel["size"])),
            tags,
        )


def _offered(requirements: Path) -> list[dict[str, Any]]:
    """What the index offers of every pinned version, as ``uv`` writes it (PEP 751)."""
    # Of the index alone: wheels that only this machine has are no lock for others.
    environment = {key: value for key, value in os.environ.items() if key not in {"UV_FIND_LINKS", "PIP_FIND_LINKS"}}
    with tempfile.TemporaryDirectory(prefix="chrysalis-lock-") as scratch:
        output = Path(scratch) / "pylock.toml"
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml",
                   "--only-binary", ":all:", "--python-platform", _UV_PLATFORM, "--python-version",
                   ".".join(map(str, IMAGE_PYTHON)), "--output-file", str(output), str(requirements)]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        if "No module named uv" in done.stderr:
            raise MissingToolError("uv is not installed", hint="run it in the developer's environment: ./just lock")
        if done.returncode:
            raise ResolveError(f"{requirements.name}: {done.stderr.strip()[-500:]}")
        found: list[dict[str, Any]] = tomllib.loads(output.read_text(encoding="utf-8"))["packages"]
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==", requirements.read_text(encoding="utf-8"), re.MULTILINE))
    if missing := {canonicalize_name(name) for name in pinned} - {canonicalize_name(entry["name"]) for entry in found}:
        raise ResolveError(f"{requirements.name}: {', '.join(sorted(missing))} did not resolve")
    return found
