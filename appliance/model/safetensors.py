r"""Headers of safetensors files, checked whole before anything loads them.

In: a file's size and first bytes. Out: the names of its tensors. Layout (safetensors 0.5, "Format")::

    u64 N, little-endian | N bytes of JSON, which begins with "{" | tensors

The JSON maps each tensor's name to ``dtype``, ``shape`` and ``data_offsets`` (relative to the end of the JSON), and may
have ``__metadata__``, texts by name. Tensors cover what follows the JSON exactly: no gap, no overlap, nothing behind.
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any, Final

from appliance.model.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER: Final = 1 << 25
"""32 MiB of JSON; the library's own bound is 100 MB, a model of 200,000 tensors needs about 25 MB."""
_MAX_RANK: Final = 16
_METADATA: Final = "__metadata__"
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def tensors(path: Path, size: int) -> frozenset[str]:
    """The names of a file's tensors.

    Args:
        path: The file.
        size: Its bytes.

    Raises:
        CheckpointError: The header is not what the format allows, or does not fit the file; says what and where.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path.name}: header of {length} bytes in a file of {size}, expected 2 to {MAX_HEADER} and inside",
                hint="it is no safetensors file, or its download was cut",
            )
        raw = file.read(length)
    header = parse_header(raw, path.name)
    spans = sorted(_span(name, entry, path.name) for name, entry in header.items() if name != _METADATA)
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            raise CheckpointError(f"{path.name}: tensor {name!r} begins at {begin}, expected {end}")
        end = stop
    if 8 + length + end != size:
        raise CheckpointError(
            f"{path.name}: tensors end at byte {8 + length + end}, the file has {size}",
            hint="its download was cut, or something was added behind it: download it again",
        )
    return frozenset(name for _, _, name in spans)


def parse_header(raw: bytes, source: str) -> dict[str, Any]:
    """A header's JSON: an object without duplicate keys.

    Raises:
        CheckpointError: It is something else.
    """
    try:
        header = json.loads(raw, object_pairs_hook=_unique) if raw.startswith(b"{") else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: header is not the JSON of safetensors: {str(error)[:100]}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{source}: header does not begin with an object")
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{source}: {_METADATA} is not a map of texts")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _span(name: str, entry: object, source: str) -> tuple[int, int, str]:
    """Where a tensor begins and ends, after checking that this is what its type and shape need."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)], **rest} if (
            not rest and type(begin) is type(end) is int
        ):
            pass
        case _:
            raise CheckpointError(f"{source}: tensor {name!r} is not described by dtype, shape and data_offsets alone")
    if kind not in _BITS:
        raise CheckpointError(f"{source}: tensor {name!r} has type {kind[:20]!r}, expected one of {', '.join(_BITS)}")
    if len(shape) > _MAX_RANK or not all(type(side) is int and 0 <= side < 2**48 for side in shape):
        raise CheckpointError(f"{source}: tensor {name!r} has no usable shape")
    bits = prod(shape) * _BITS[kind]
    if bits % 8 or begin < 0 or end - begin != bits // 8:
        raise CheckpointError(
            f"{source}: tensor {name!r} has {end - begin} bytes, its type and shape need {bits / 8:g}"
        )
    return begin, end, name
