"""From a TOML file to a checked configuration, or an error that names file, line and key.

In: a path and one of the file models of :mod:`appliance.config.models`. Out: the model. Paths in the file are taken
relative to the file's own directory.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from appliance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=BaseModel)

MAX_FILE_BYTES = 1 << 20
_HEADER = re.compile(r"^\s*\[{1,2}\s*([A-Za-z0-9_.\"' -]+?)\s*\]{1,2}")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\"'-]+(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=")


def load(path: Path, model: type[M]) -> M:
    """Read and check one configuration file.

    Raises:
        ConfigError: The file is missing, too large, not TOML, or has wrong, unknown or missing keys; every fault is
            listed with its line and key.
    """
    return parse(_read(path), model, str(path), base=path.resolve().parent)


def parse(text: str, model: type[M], name: str, *, base: Path | None = None) -> M:
    """Check the text of a configuration.

    Args:
        text: TOML.
        model: What it has to be.
        name: What errors call it.
        base: What relative paths are taken against; without it they stay as they are.

    Raises:
        ConfigError: It is not TOML, or has wrong, unknown or missing keys.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}", hint="see https://toml.io for the syntax") from None
    except RecursionError:
        raise ConfigError(f"{name}: not TOML: nested too deeply") from None
    try:
        return model.model_validate(values if base is None else _anchor(values, model, base))
    except ValidationError as error:
        faults = [_fault(name, text, item["loc"], item["msg"], item["type"]) for item in error.errors()]
        raise ConfigError("\n".join(faults), hint="every key and its meaning: chrysalis config show") from None


def locate(text: str, keys: Sequence[str]) -> int | None:
    """The line (from 1) that sets the key, or its nearest enclosing table; None when the file has neither."""
    table: list[str] = []
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            table = _split(header[1])
            here = table
        else:
            key = _KEY.match(line)
            if not key:
                continue
            here = [*table, *_split(key[1])]
        depth = len(here)
        if list(keys[:depth]) == here and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _split(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name the file with --config") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes", hint="this is not a configuration file")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None


def _fault(name: str, text: str, location: tuple[int | str, ...], message: str, kind: str) -> str:
    names = [str(part) for part in location if not isinstance(part, int)]
    line = locate(text, names)
    where = f"{name}:{line}" if line else name
    said = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(kind, message.removeprefix("Value error, "))
    return f"{where}: {'.'.join(str(part) for part in location) or 'file'}: {said}"


def _anchor(values: dict[str, Any], model: type[BaseModel], base: Path) -> dict[str, Any]:
    """Make relative paths absolute against the file's directory, following the model's own types."""
    result = dict(values)
    for name, field in model.model_fields.items():
        if name not in result:
            continue
        annotation = str(field.annotation)
        value = result[name]
        if isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            result[name] = _anchor(value, field.annotation, base)
        elif isinstance(value, str) and "Path" in annotation:
            result[name] = str(base / Path(value).expanduser())
    return result
