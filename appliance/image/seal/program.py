"""``seal initrd OVERLAY RULES…`` and ``seal root RULES…``, on the tree that ``$BUILDROOT`` names.

In: mkosi's environment (``BUILDROOT``, ``OUTPUTDIR``, ``ARTIFACTDIR``) and ``SOURCE_DATE_EPOCH``. Out: the sealed root
and the initrd, each with the list of its files.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from appliance.image.seal.errors import SealError
from appliance.image.seal.finish import compile_python, date_passwords, list_files, make_archive, unpack_modules
from appliance.image.seal.rules import read_rules
from appliance.image.seal.tree import extract, seal

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT_LIST = "chrysalis.root.files"
INITRD_LIST = "chrysalis.initrd.files"


def make_initrd(root: Path, overlay: Path, names: Sequence[str]) -> None:
    """The initrd out of a root that is not sealed yet: into ``$ARTIFACTDIR``, where mkosi looks for it.

    Args:
        root: The root.
        overlay: Files that only the initrd has.
        names: Rules files.

    Raises:
        SealError: As for :func:`choose`.
    """
    rules = read_rules(names)
    with TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(overlay, tree, symlinks=True)
        count = extract(root, rules, tree)
        (Path(os.environ["OUTPUTDIR"]) / INITRD_LIST).write_text(list_files(tree), encoding="utf-8")
        place = Path(os.environ["ARTIFACTDIR"]) / "io.mkosi.initrd"
        place.mkdir(exist_ok=True)
        make_archive(tree, place / "chrysalis.initrd", int(os.environ["SOURCE_DATE_EPOCH"]))
    sys.stderr.write(f"seal: {count} files copied into the initrd\n")


def seal_root(root: Path, names: Sequence[str]) -> None:
    """Seal the image's root, unpack its modules, compile its Python, list it.

    Raises:
        SealError: As for :func:`choose`.
    """
    rules = read_rules(names)
    counts = seal(root, rules)
    for path in rules.modules:
        for directory in sorted((root / path[1:]).iterdir()):
            unpack_modules(directory)
    for path in rules.shadow:
        date_passwords(root / path[1:], int(os.environ["SOURCE_DATE_EPOCH"]))
    for path in dict.fromkeys(rules.compile):
        compile_python(root, path)
    (Path(os.environ["OUTPUTDIR"]) / ROOT_LIST).write_text(list_files(root), encoding="utf-8")
    sys.stderr.write(f"seal: {counts['kept']} files kept, {counts['removed']} removed\n")


def main(arguments: list[str]) -> int:
    """``seal initrd OVERLAY RULES…`` or ``seal root RULES…``, on the tree that ``$BUILDROOT`` names."""
    root = Path(os.environ["BUILDROOT"])
    try:
        match arguments:
            case ["initrd", overlay, *names]:
                make_initrd(root, Path(overlay), names)
            case ["root", *names]:
                seal_root(root, names)
            case _:
                sys.stderr.write(f"seal: {arguments} is no way to call this\n")
                return 2
    except SealError as error:
        sys.stderr.write(f"seal: {error}\n")
        return 1
    return 0
