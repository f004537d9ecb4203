"""The JSON Schema of manifests: the file is the model's, and another validator draws the line where ours does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements import manifest_schema
from measurements.manifest import MAX_LIFETIME_S, Manifest, ManifestError, canonical, parse_manifest

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

from host_support import BEGIN, digest, make

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
FILE = Path(manifest_schema.__file__).with_name("manifest_schema.json")
GOOD: dict[str, Any] = json.loads(make().encode())


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(FILE.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_file_is_the_model_s() -> None:
    assert FILE.read_bytes() == manifest_schema.encode_schema()


def test_every_key_is_required_and_no_other_is_taken() -> None:
    def closed(part: Any) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object":
                assert part["additionalProperties"] is False
                assert sorted(part.get("required", [])) == sorted(part.get("properties", {}))
            for value in part.values():
                closed(value)
        elif isinstance(part, list):
            for value in part:
                closed(value)

    closed(json.loads(FILE.read_bytes()))


CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"source_commit": None, "source_modified": True}, True),
    ({"release": 0, "not_before": 0, "expires": 0}, True),
    ({"registers": []}, True),
    ({"registers": [{"platform": "snp", "boot": "direct", "shape": "s", "values": {"measurement": "a" * 96}}]}, True),
    ({"registers": [{"platform": "snp", "boot": "direct", "shape": "s", "values": {"measurement": "a" * 95}}]}, False),
    ({"registers": [{"platform": "snp", "boot": "direct", "shape": "s", "values": {"Measurement": "a" * 96}}]}, False),
    ({"registers": [{"platform": "snp", "boot": "direct", "shape": "s", "values": {}}]}, False),
    ({"registers": [{"platform": "snp", "boot": "direct", "values": {"measurement": "a" * 96}}]}, False),
    ({"format": "chrysalis image manifest 1"}, False),
    ({"more": 1}, False),
    ({"release": -1}, False),
    ({"release": 2**53}, False),
    ({"release": "7"}, False),
    ({"expires": 1 << 40}, False),
    ({"debug": 0}, False),
    ({"artefacts": []}, False),
    ({"artefacts": [{"name": "../x", "size": 1, "sha256": digest("x")}]}, False),
    ({"locks": {"a/b": digest("x")}}, False),
    ({"recipe": {}}, False),
    ({"command_line": "a\nb"}, False),
]


@pytest.mark.parametrize(("change", "fits"), CHANGES)
def test_examples(validator: Any, change: dict[str, Any], fits: bool) -> None:
    value = GOOD | change
    assert validator.is_valid(value) is fits
    if fits:
        assert parse_manifest(canonical(value))
    else:
        with pytest.raises(ManifestError):
            parse_manifest(canonical(value))


@given(
    st.builds(
        make,
        release=st.integers(1, 2**53 - 1),
        expires=st.integers(BEGIN + 1, BEGIN + MAX_LIFETIME_S),
        debug=st.booleans(),
        source_commit=st.none() | st.just("b" * 40),
    )
)
@settings(max_examples=30)
def test_what_we_write_fits(validator: Any, manifest: Manifest) -> None:
    validator.validate(json.loads(manifest.encode()))


@given(st.sampled_from(sorted(GOOD)), st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just([]))
@settings(max_examples=150)
def test_what_does_not_fit_we_refuse(validator: Any, key: str, put: object) -> None:
    """Values alone: what only the whole can be wrong about (order, dates) is ours to refuse."""
    value = GOOD | {key: put}
    if not validator.is_valid(value):
        with pytest.raises(ManifestError):
            parse_manifest(canonical(value))
