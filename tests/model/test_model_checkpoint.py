"""What may be in a model's directory: each refusal beside a control that differs in the refused thing alone."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_checkpoint import safetensors

from appliance.model import CheckpointError, examine
from appliance.model.safetensors import MAX_HEADER, parse_header, tensors


def refused(directory: Path, pattern: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        examine(directory)
    return caught.value


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("archive/data.pkl", b"")
    return file.getvalue()


def test_a_checkpoint_is_taken(checkpoint: Path) -> None:
    (checkpoint / "chrysalis.json").write_text("{}")
    (checkpoint / ".git").mkdir()
    (checkpoint / ".cache" / "huggingface").mkdir(parents=True)
    (checkpoint / ".cache" / "huggingface" / "x.lock").touch()
    (checkpoint / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    found = examine(checkpoint)
    names = [file.name for file in found.files]
    assert names == sorted(names, key=str.encode)
    assert {"LICENSE", ".gitattributes", "extra/notes.md", "tokenizer.model"} <= set(names)
    assert found.left_out == (".cache/huggingface", ".git", "chrysalis.json")
    assert found.size == sum(file.size for file in found.files)


@pytest.mark.parametrize("name", ["weights.bin", "model.pt", "model.PTH", "a.pkl", "extra/optimizer.ckpt", "x.npz"])
def test_pickles_by_name(checkpoint: Path, name: str) -> None:
    examine(checkpoint)  # control
    (checkpoint / name).write_bytes(b"text")
    error = refused(checkpoint, f"^{name}: pickles and other programs")
    assert "convert" in error.hint


@pytest.mark.parametrize(
    ("content", "what"),
    [(pickle.dumps({"a": 1}, protocol), "begins like a pickle") for protocol in range(2, 6)]
    + [
        (archive(), "begins like a zip archive"),
        (b"\x7fELF\x02", "begins like an executable"),
        (b"MZ\x90", "begins like an executable"),
        (b"#!/bin/sh\n", "begins like a script"),
        (b"GGUF\x03", "begins like another container"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.model", "notes.txt", "LICENSE", "vocab.tiktoken"])
def test_whatever_they_are_called(checkpoint: Path, name: str, content: bytes, what: str) -> None:
    file = checkpoint / name
    file.write_bytes(b" a" + content.decode("latin1").replace("\0", "").encode())
    examine(checkpoint)  # control: the same, not at the beginning
    file.write_bytes(content)
    refused(checkpoint, f"{name} {what}")


@pytest.mark.parametrize("name", ["modeling_own.py", "lib.so", "run.sh", "a.exe"])
def test_code(checkpoint: Path, name: str) -> None:
    (checkpoint / f"{name}.txt").write_text("print()")
    examine(checkpoint)  # control
    (checkpoint / f"{name}.txt").rename(checkpoint / name)
    refused(checkpoint, f"{name}: code does not go into a model volume")


@pytest.mark.parametrize("name", ["picture.png", "model.gguf", "a.safetensors.part"])
def test_other_types(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(b"x")
    assert ".safetensors" in refused(checkpoint, f"{name}: files of type").hint


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "extra/config.json"])
def test_a_configuration_that_asks_for_code(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text('{"model_type": "llama", "map_auto": {}}')
    examine(checkpoint)  # control
    (checkpoint / name).write_text('{"model_type": "llama", "auto_map": {"AutoModel": "own.Model"}}')
    refused(checkpoint, rf"{name} asks for code of its own \(auto_map\)")


@pytest.mark.parametrize(
    ("content", "what"), [(b"\xff\xfe", "byte 0 is not UTF-8"), (b"ab\0", "byte 2 is zero"), (b"{", "not JSON")]
)
def test_text_that_is_none(checkpoint: Path, content: bytes, what: str) -> None:
    name = "generation_config.json"
    (checkpoint / name).write_bytes(b"{}")
    examine(checkpoint)  # control
    (checkpoint / name).write_bytes(content)
    refused(checkpoint, f"{name} is not.*{what}|{name} is {what}")


def test_json_that_is_too_deep_is_refused_not_a_crash(checkpoint: Path) -> None:
    (checkpoint / "deep.json").write_text("[" * 200_000)
    refused(checkpoint, "deep.json is not JSON")


def test_links(checkpoint: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("text")
    link = checkpoint / "notes.txt"
    link.symlink_to("extra/notes.md")
    found = {file.name: file for file in examine(checkpoint).files}  # control: a link inside is what it points to
    assert found["notes.txt"].source == checkpoint / "extra" / "notes.md"
    assert found["notes.txt"].size == found["extra/notes.md"].size
    for target in (outside, Path("..") / "outside.txt", Path("/etc/hostname")):
        link.unlink()
        link.symlink_to(target)
        assert "cp -rL" in refused(checkpoint, "notes.txt is a link that leaves the directory").hint


def test_a_link_through_a_directory_outside(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("text")
    (checkpoint / "way").symlink_to(tmp_path / "other")
    refused(checkpoint, "way is a link that leaves the directory")
    (checkpoint / "way").unlink()
    (checkpoint / "way").symlink_to("extra")
    refused(checkpoint, "way is a link to a directory, expected a file")
    (checkpoint / "way").unlink()
    (checkpoint / "way").symlink_to("way")
    refused(checkpoint, "way is a link to nothing|Too many levels|way")


def test_a_broken_link(checkpoint: Path) -> None:
    (checkpoint / "gone.txt").symlink_to("nowhere.txt")
    refused(checkpoint, "nowhere.txt: No such file")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file(checkpoint: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint)  # a socket's path is short
    if kind == "pipe":
        os.mkfifo("a.txt")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("a.txt")
    refused(checkpoint, "a.txt is a (pipe|socket or device), expected a file")
    Path("a.txt").unlink()
    Path("a.txt").write_text("")
    examine(checkpoint)  # control


@pytest.mark.parametrize("name", [b"a\nb.txt", b"\xff.txt", b"a\x1b[31m.txt"])
def test_names_that_not_every_machine_shows(checkpoint: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(checkpoint) + b"/" + name)).touch()
    refused(checkpoint, "names are printable|not UTF-8")


def test_too_deep(checkpoint: Path) -> None:
    inner = checkpoint.joinpath(*["d"] * 8)
    inner.mkdir(parents=True)
    (inner / "a.txt").touch()
    examine(checkpoint)  # control
    (inner / "d").mkdir()
    (inner / "d" / "a.txt").touch()
    refused(checkpoint, "more than 8 directories deep")


def test_too_large_for_what_is_not_weights(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"a")
    os.truncate(checkpoint / "tokenizer.model", 2**27 + 1)
    refused(checkpoint, f"tokenizer.model has {2**27 + 1} bytes, expected at most {2**27}")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("config.json", "no config.json"),
        ("model-00002-of-00002.safetensors", "names 'model-00002-of-00002.safetensors', which is not there"),
    ],
)
def test_something_is_missing(checkpoint: Path, name: str, pattern: str) -> None:
    (checkpoint / name).unlink()
    assert refused(checkpoint, pattern).hint


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "no safetensors files")
    refused(tmp_path / "absent", "absent: No such file or directory")


def test_an_index_that_lies(checkpoint: Path) -> None:
    index = checkpoint / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["head"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(value))
    refused(checkpoint, "says that model-00001-of-00002.safetensors has the tensor 'head', which it has not")
    index.write_text("[]")
    refused(checkpoint, "has no weight_map")


# ---- safetensors -------------------------------------------------------------------------------------------------


def headed(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(**change: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | change


GOOD = {"a": entry(), "b": entry(data_offsets=[16, 32])}


def names(path: Path, content: bytes) -> frozenset[str]:
    path.write_bytes(content)
    return tensors(path, len(content))


def test_a_good_header(tmp_path: Path) -> None:
    assert names(tmp_path / "m", headed(GOOD, bytes(32))) == {"a", "b"}
    assert names(tmp_path / "m", headed({"__metadata__": {"format": "pt"}} | GOOD, bytes(32))) == {"a", "b"}
    assert names(tmp_path / "m", headed(json.dumps(GOOD).encode() + b"   ", bytes(32))) == {"a", "b"}
    assert names(tmp_path / "m", headed({"e": entry(shape=[0, 5], data_offsets=[0, 0])})) == {"e"}


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "header of 0 bytes in a file of 0"),
        (b"\x80\x04}", "header of"),
        (headed(GOOD, bytes(31)), "tensors end at byte .* the file has"),
        (headed(GOOD, bytes(33)), "tensors end at byte .* the file has"),
        ((2**63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808 bytes"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "header of"),
        (headed(b"[]"), "does not begin with an object"),
        (headed(b' {"a": 1}'), "does not begin with an object"),
        (headed(b"{]"), "not the JSON"),
        (headed(b'{"a": {}, "a": {}}'), "a name comes twice"),
        (headed(b'{"a":' + b"[" * 100_000), "not the JSON"),
        (headed({"__metadata__": {"a": 1}}), "not a map of texts"),
        (headed({"__metadata__": "a"}), "not a map of texts"),
        (headed({"a": entry(dtype="PICKLE")}, bytes(16)), "'a' has type 'PICKLE'"),
        (headed({"a": entry(shape=[2, 3])}, bytes(16)), "16 bytes, its type and shape need 24"),
        (headed({"a": entry(shape=[-2, -2])}, bytes(16)), "no usable shape"),
        (headed({"a": entry(shape=[True, 4])}, bytes(16)), "no usable shape"),
        (headed({"a": entry(shape=[1] * 17)}, bytes(16)), "no usable shape"),
        (headed({"a": entry(shape=[2.0, 2])}, bytes(16)), "no usable shape"),
        (headed({"a": entry(dtype="F4", shape=[3], data_offsets=[0, 1])}, bytes(1)), "need 1.5"),
        (headed({"a": entry(data_offsets=[16, 0])}, bytes(16)), "-16 bytes"),
        (headed({"a": entry(data_offsets=[-16, 0])}, bytes(16)), "-16|16 bytes"),
        (headed({"a": entry(data_offsets=[0])}, bytes(16)), "not described by"),
        (headed({"a": entry(data_offsets=[False, 16])}, bytes(16)), "not described by"),
        (headed({"a": entry(extra=1)}, bytes(16)), "not described by"),
        (headed({"a": 1}), "not described by"),
        (headed({"a": entry(), "b": entry(data_offsets=[8, 24])}, bytes(24)), "'b' begins at 8, expected 16"),
        (headed({"a": entry(), "b": entry(data_offsets=[20, 36])}, bytes(36)), "'b' begins at 20, expected 16"),
        (headed({"a": entry(data_offsets=[4, 20])}, bytes(20)), "'a' begins at 4, expected 0"),
    ],
)
def test_a_bad_header(tmp_path: Path, content: bytes, pattern: str) -> None:
    with pytest.raises(CheckpointError, match=pattern):
        names(tmp_path / "m.safetensors", content)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    with suppress(CheckpointError):
        assert isinstance(parse_header(raw, "m"), dict)


@given(
    st.lists(st.tuples(st.sampled_from(["F32", "BF16", "U8", "F8_E4M3"]), st.lists(st.integers(0, 4), max_size=4))),
    st.data(),
)
def test_a_change_of_any_offset_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    bits = {"F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1}
    made = {}
    for number, (kind, shape) in enumerate(kinds):
        size = bits[kind]
        for side in shape:
            size *= side
        made[f"t{number}"] = (kind, shape, bytes(size))
    path = tmp_path_factory.getbasetemp() / "property.safetensors"
    content = safetensors(made)
    assert names(path, content) == set(made)
    if not made:
        return
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    chosen, side = data.draw(st.sampled_from(sorted(made))), data.draw(st.integers(0, 1))
    header[chosen]["data_offsets"][side] += data.draw(st.sampled_from([-1, 1, 1000]))
    with pytest.raises(CheckpointError):
        names(path, headed(header, content[8 + length :]))
