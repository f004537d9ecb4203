"""A small checkpoint, the same bytes each time, and readers that share no code with what they check."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, tuple[str, list[int], bytes]]


def safetensors(tensors: Tensors, **metadata: str) -> bytes:
    """A safetensors file."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + b"".join(data for _, _, data in tensors.values())


def write_checkpoint(directory: Path) -> Path:
    """Two shards with their index, a tokenizer, texts, one of them in a directory."""
    directory.mkdir()
    first: Tensors = {"embed": ("BF16", [64, 48], bytes(range(256)) * 24)}
    second: Tensors = {"head": ("F32", [5, 3], bytes(60)), "scale": ("F8_E4M3", [], b"\x38")}
    (directory / "model-00001-of-00002.safetensors").write_bytes(safetensors(first, format="pt"))
    (directory / "model-00002-of-00002.safetensors").write_bytes(safetensors(second))
    places = {"embed": "model-00001-of-00002.safetensors"}
    places |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    index = {"metadata": {"total_size": 6205}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 48}')
    (directory / "tokenizer.json").write_text(json.dumps({"vocab": {str(i): i for i in range(2000)}}))
    (directory / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "LICENSE").write_text("Apache-2.0\n")
    (directory / "extra").mkdir()
    (directory / "extra" / "notes.md").write_text("# Größe\n")
    (directory / "extra" / "empty.txt").touch()
    return directory


class Erofs:
    """Reads an uncompressed EROFS image as the kernel's documentation describes it; no code of the writer is used."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        magic, _, compat, bits, _, self.root, self.inodes = struct.unpack_from("<IIIBBHQ", image, 1024)
        self.blocks, self.meta = struct.unpack_from("<II", image, 1024 + 36)
        (incompat,) = struct.unpack_from("<I", image, 1024 + 80)
        assert (magic, compat, bits, incompat) == (0xE0F5E1E2, 0, 12, 0)

    def inode(self, nid: int) -> tuple[int, int, int, int, int, int]:
        """Mode, size, first block, number, time, links."""
        at = self.meta * 4096 + nid * 32
        kind, attributes, mode, _, size, block, number, user, group, when, parts, links = struct.unpack_from(
            "<HHHHQIIIIQII", self.image, at
        )
        assert (kind, attributes, user, group, parts) == (1, 0, 0, 0, 0)
        return mode, size, block, number, when, links

    def content(self, nid: int) -> bytes:
        _, size, block, *_ = self.inode(nid)
        return self.image[block * 4096 : block * 4096 + size]

    def entries(self, nid: int) -> list[tuple[bytes, int, int]]:
        """Name, inode and type, in the order in which they are stored."""
        data, found = self.content(nid), []
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            first = struct.unpack_from("<H", block, 8)[0]
            rows = [struct.unpack_from("<QHBB", block, at) for at in range(0, first, 12)]
            ends = [row[1] for row in rows[1:]] + [len(block)]
            found += [
                (block[row[1] : end].split(b"\0")[0], row[0], row[2]) for row, end in zip(rows, ends, strict=True)
            ]
        return found

    def files(self, nid: int | None = None, prefix: str = "") -> dict[str, bytes]:
        """Everything under a directory, by path."""
        found: dict[str, bytes] = {}
        for name, child, kind in self.entries(self.root if nid is None else nid):
            if name in {b".", b".."}:
                continue
            if kind == 2:
                found |= self.files(child, f"{prefix}{name.decode()}/")
            else:
                found[prefix + name.decode()] = self.content(child)
        return found
