"""Small packages and wheels of the real forms, made with the distribution's own tool."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_package(place: Path, name: str, files: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> Path:
    """A ``.deb`` that holds these files."""
    root = place / f"{name}.tree"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: none <none@localhost>\nDescription: test\n"
    )
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755 if path in executable else 0o644)
    deb = place / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(deb)], check=True, capture_output=True)
    return deb


def make_wheel(place: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """A wheel that holds these files."""
    path = place / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


def source_archive(files: Mapping[str, bytes]) -> bytes:
    """An xz tar archive of the modules' source."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
