"""What a checkpoint directory may hold, and the list of its files; everything else is refused with the reason.

In: a directory. Out: a :class:`Checkpoint`. Weights come as safetensors only: the other formats are programs (a pickle
runs what it says). Nothing that an engine could be made to run goes in: no Python, no ``auto_map``, no executables,
whatever they are called. What a download tool keeps for itself is left out and listed.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.engine.building import MARKER
from appliance.model.errors import CheckpointError
from appliance.model.layout import SourceFile
from appliance.model.safetensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS: Final = ".safetensors"
TEXT: Final = frozenset({".json", ".jinja", ".txt", ".md", ""})
"""Suffixes of files that must be text; without a suffix: LICENSE, NOTICE, .gitattributes."""
BINARY: Final = frozenset({".model", ".tiktoken"})
"""Suffixes of tokenizer files that may be binary."""
MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 8
MAX_SMALL: Final = 1 << 27
"""128 MiB: what a file that is not weights may have."""

_BOOKKEEPING: Final = frozenset({MARKER, ".git", ".cache/huggingface"})
"""Left out: they belong to the tool that fetched the directory, and hold times."""
_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".h5", ".msgpack"})
_PROGRAMS: Final = frozenset({".py", ".pyc", ".so", ".sh", ".exe", ".dll", ".js", ".cu", ".cpp", ".c"})
_MAGICS: Final = (
    (tuple(b"\x80" + bytes([version]) for version in range(1, 6)), "a pickle"),
    ((b"PK\x03\x04", b"PK\x05\x06"), "a zip archive, as PyTorch's pickles are"),
    ((b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe"), "an executable"),
    ((b"#!",), "a script"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x93NUMPY", b"\x89HDF", b"GGUF"), "another container"),
)
_CODE_KEYS: Final = ("auto_map", "custom_pipelines")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory that may become a model volume.

    Attributes:
        directory: Where it is.
        files: Everything that goes in, by name.
        left_out: Names of what does not, because it is a tool's own bookkeeping.
    """

    directory: Path
    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def examine(directory: Path) -> Checkpoint:
    """Look at every file of a directory.

    Raises:
        CheckpointError: Something in it must not be in a model volume, or something is missing; names the file.
    """
    try:
        root = directory.resolve(strict=True)
        left_out: list[str] = []
        files = sorted(islice(_walk(root, "", root, left_out), MAX_FILES + 1), key=lambda file: file.name.encode())
        if len(files) > MAX_FILES:
            raise CheckpointError(f"{directory} has more than {MAX_FILES} files")
        _examine_weights(files, {file.name: _examine_file(file) for file in files})
    except OSError as error:
        raise CheckpointError(f"{error.filename or directory}: {error.strerror}") from None
    return Checkpoint(root, tuple(files), tuple(sorted(left_out)))


def _walk(folder: Path, prefix: str, root: Path, left_out: list[str]) -> Iterator[SourceFile]:
    if prefix.count("/") > MAX_DEPTH:
        raise CheckpointError(f"{prefix} is more than {MAX_DEPTH} directories deep")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + _printable(entry.name, prefix)
            if name in _BOOKKEEPING:
                left_out.append(name)
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), name + "/", root, left_out)
            else:
                yield _source(name, Path(entry.path), root)


def _printable(name: str, prefix: str) -> str:
    """A file's name, if every machine can hold it and every terminal show it."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"a name in {prefix or '.'} is not UTF-8: {os.fsencode(name)!r}") from None
    if not name.isprintable() or len(raw) > 255:
        raise CheckpointError(f"{prefix}{name!r}: names are printable and have at most 255 bytes")
    return name


def _source(name: str, path: Path, root: Path) -> SourceFile:
    """A regular file, or what a link inside the directory points to."""
    target = path
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            raise CheckpointError(
                f"{name} is a link that leaves the directory",
                hint="a download cache links to its blobs: copy the directory with cp -rL and pack the copy",
            )
    found = target.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{name} is {_kind(found.st_mode)}, expected a file")
    return SourceFile(name, target, found.st_size)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a link to a directory"), (stat.S_ISLNK, "a link to nothing"), (stat.S_ISFIFO, "a pipe"))
    return next((text for test, text in kinds if test(mode)), "a socket or device")


def _examine_file(file: SourceFile) -> frozenset[str]:
    """Refuse a file that must not go in; the names of its tensors if it has any."""
    suffix = Path(file.name).suffix.lower()
    if suffix == WEIGHTS:
        return tensors(file.source, file.size)
    if suffix in _PICKLES:
        raise CheckpointError(
            f"{file.name}: pickles and other programs for weights are refused",
            hint="remove it if the same weights are there as safetensors, else convert it with safetensors.torch",
        )
    if suffix in _PROGRAMS:
        raise CheckpointError(
            f"{file.name}: code does not go into a model volume", hint="no engine here runs it: remove it"
        )
    if suffix not in TEXT | BINARY:
        raise CheckpointError(
            f"{file.name}: files of type {suffix} do not go into a model volume",
            hint=f"remove it; what goes in: {', '.join(sorted({WEIGHTS} | TEXT | BINARY))} and files without a suffix",
        )
    if file.size > MAX_SMALL:
        raise CheckpointError(
            f"{file.name} has {file.size} bytes, expected at most {MAX_SMALL} for what is not weights"
        )
    content = file.source.read_bytes()
    for magics, what in _MAGICS:
        if content.startswith(magics):
            raise CheckpointError(f"{file.name} begins like {what}", hint="it is not what its name says: remove it")
    if suffix in TEXT:
        _examine_text(file.name, content)
    return frozenset()


def _examine_text(name: str, content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not text: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise CheckpointError(f"{name} is not text: byte {content.index(0)} is zero")
    if not name.endswith(".json"):
        return
    value = _parse(name, text)
    for key in _CODE_KEYS:
        if isinstance(value, dict) and key in value:
            raise CheckpointError(f"{name} asks for code of its own ({key})", hint="such models are refused")


def _parse(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {str(error)[:100]}") from None


def _examine_weights(files: list[SourceFile], found: dict[str, frozenset[str]]) -> None:
    """A configuration is there, weights are there, and each index names tensors that are where it says."""
    if "config.json" not in found:
        raise CheckpointError("no config.json", hint="give the directory that has the model's config.json")
    if not any(file.name.endswith(WEIGHTS) for file in files):
        raise CheckpointError(
            "no safetensors files", hint="GGUF and pickles are not served: get the model's safetensors or convert it"
        )
    for file in files:
        if file.name.endswith(f"{WEIGHTS}.index.json"):
            _examine_index(file, found)


def _examine_index(file: SourceFile, found: dict[str, frozenset[str]]) -> None:
    value = _parse(file.name, file.source.read_text("utf-8"))
    places = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(places, dict):
        raise CheckpointError(f"{file.name} has no weight_map")
    prefix = file.name.rpartition("/")[0]
    for tensor, shard in places.items():
        name = f"{prefix}/{shard}".lstrip("/")
        if name not in found:
            raise CheckpointError(f"{file.name} names {shard!r}, which is not there", hint="download the missing file")
        if tensor not in found[name]:
            raise CheckpointError(f"{file.name} says that {shard} has the tensor {tensor!r}, which it has not")
