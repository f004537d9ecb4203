"""The directory that mkosi builds from: the checkout's ``image/``, and what a recipe adds to it.

In: a :class:`~appliance.image.profiles.Recipe`. Out: ``<work>/config``. Everything that decides the image is in files
here, none in mkosi's command line, so that a build can be repeated by hand from what was staged.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.image import seal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.image.profiles import Recipe

REPOSITORY = "/build/repository"
"""Where the build sees the packages."""

TREES = "/build/trees"
"""Where the build sees what is copied into the image besides ``mkosi.extra``."""

ENVIRONMENTS = {"guest": "/usr/lib/chrysalis", "engine": "/usr/lib/chrysalis-engine"}
"""Trees that are Python environments, and where they are in the image; each is kept whole."""

IMAGE_FILE = "usr/lib/chrysalis/image.json"
_NOT_STAGED = ("lock", "packages", "gpu", "README.md")
_SEAL = "seal"


def stage(recipe: Recipe, config: Path, trees: Iterable[str], *, epoch: int) -> None:
    """Fill the configuration directory.

    Args:
        recipe: What is built.
        config: The directory, which is made.
        trees: Names below :data:`TREES` that go into the image.
        epoch: The time that everything in the image bears, seconds since 1970.
    """
    shutil.copytree(
        recipe.source / "image", config, symlinks=True, ignore=_only_top(recipe.source / "image", _NOT_STAGED)
    )
    names = list(trees)
    _write(config / "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources", apt_source())
    _write(config / "mkosi.conf.d/90-staged.conf", content_settings(recipe.packages, names))
    # The kernel and the stub are read by mkosi after the root is sealed, and are in the UKI: not in the root as well.
    excluded = [f"/usr/lib/modules/{recipe.kernel}/vmlinuz", "/usr/lib/systemd/boot"]
    _write(config / "mkosi.repart/10-root.conf.d/staged.conf",
           "[Partition]\n" + "".join(f"ExcludeFiles={path}\n" for path in excluded))  # fmt: skip
    program = Path(seal.__file__).parent
    package = config / _SEAL / "program" / seal.__name__.replace(".", "/")
    shutil.copytree(program, package, ignore=shutil.ignore_patterns("__pycache__", "__main__.py"))
    shutil.copyfile(program / "__main__.py", config / _SEAL / "program/__main__.py")
    extra = [config / "mkosi.extra", *(config / f"mkosi.profiles/{name}/mkosi.extra" for name in recipe.mkosi_profiles)]
    _write(config / _SEAL / "staged.rules", staged_rules(extra, names))
    rules = [f"{_SEAL}/{name}.rules" for name in ("root", "staged")]
    for name in recipe.mkosi_profiles:
        for path in (f"mkosi.profiles/{name}/seal.rules", f"{_SEAL}/{name}.rules"):
            rules += [path] if (config / path).is_file() else []
    script = f'#!/bin/sh -e\nseal="/usr/bin/python3 -I -B $SRCDIR/{_SEAL}/program"\n'
    script += f"export SOURCE_DATE_EPOCH={epoch}\n"
    script += f'$seal initrd "$SRCDIR"/initrd "$SRCDIR"/{_SEAL}/initrd.rules\n'
    script += "$seal root" + "".join(f' "$SRCDIR"/{name}' for name in rules) + "\n"
    _write(config / "mkosi.finalize", script)
    (config / "mkosi.finalize").chmod(0o755)
    normalise(config)


def apt_source() -> str:
    """The one source of packages: a flat repository whose every file was checked against a lock."""
    return f"Types: deb\nURIs: file://{REPOSITORY}/\nSuites: ./\nTrusted: yes\n"


def content_settings(packages: Iterable[str], trees: Iterable[str]) -> str:
    """Settings that install packages and copy trees."""
    lines = ["[Content]", *(f"Packages={name}" for name in packages), *(f"ExtraTrees={TREES}/{name}" for name in trees)]
    return "\n".join(lines) + "\n"


def staged_rules(extra: Iterable[Path], trees: Iterable[str]) -> str:
    """Rules that keep every file which this project puts into the image itself."""
    lines = ["# Written by the build: what image/mkosi.extra and the profiles bring stays."]
    for base in extra:
        if not base.is_dir():
            continue
        for path in sorted(base.rglob("*")):
            place = path.relative_to(base)
            if path.is_symlink():  # mkosi applies presets, which removes links: they are made again
                lines.append(f"link /{place} {path.readlink()}")
            elif not path.is_dir():
                lines.append(f"keep /{place}")
    for name in trees:
        if (prefix := ENVIRONMENTS.get(name)) is not None:
            # Libraries of wheels find each other; some come in by a program that loaded them before.
            lines += [f"bundle {prefix}/**", f"drop {prefix}/**.pyc", f"compile {prefix}"]
    return "\n".join(lines) + "\n"


def image_file(recipe: Recipe, *, engine_version: str | None, epoch: int, command_line: str) -> bytes:
    """``/usr/lib/chrysalis/image.json``: what the guest knows about the image it runs in."""
    engine = recipe.content.engine
    content: dict[str, Any] = {
        "profile": recipe.profile,
        "debug": recipe.debug,
        "engine": {"name": engine.name, "version": engine_version} if engine and engine_version else None,
        "source_date_epoch": epoch,
        "command_line": command_line,
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def settings(paths: Iterable[Path], name: str) -> list[str]:
    """Words of a list setting over several mkosi files, in order: what mkosi makes of them.

    Only what our own files use is understood: one key a line, continued on indented lines.
    """
    words: list[str] = []
    for path in paths:
        inside = False
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            if line[:1] not in {" ", "\t"}:
                key, _, value = line.partition("=")
                inside = key.strip() == name
                words += value.split() if inside else []
            elif inside:
                words += line.split()
    return words


def normalise(tree: Path) -> None:
    """Directories 0755, files 0644 or 0755: a checkout's modes depend on its maker's umask."""
    for here, directories, files in os.walk(tree):
        for name in directories:
            path = Path(here) / name
            if not path.is_symlink():
                path.chmod(0o755)
        for name in files:
            path = Path(here) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    tree.chmod(0o755)


def _only_top(top: Path, names: Iterable[str]) -> Any:
    ignored = frozenset(names)

    def ignore(directory: str, entries: list[str]) -> set[str]:
        return {name for name in entries if Path(directory) == top and name in ignored}

    return ignore


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
