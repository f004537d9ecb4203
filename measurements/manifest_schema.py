"""The form of a manifest as a JSON Schema, for programs that are not ours; ``manifest_schema.json`` beside this file.

The schema is made from the model, and a test keeps the file equal to it. What a schema cannot say holds besides: the
encoding is canonical, ``artefacts`` and ``registers`` are sorted and nothing is in them twice, ``command_line`` carries
``root_hash``, ``recipe`` is of the manifest's own profile and tools lock, and a release alone has dates: the second
follows the first by two years at most.
"""

from __future__ import annotations

import json
from typing import Any, Final

from measurements.manifest import FORMAT, Manifest

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
IDENTITY: Final = "urn:chrysalis:image-manifest:2"


def manifest_schema() -> dict[str, Any]:
    """The schema as plain values."""
    made = Manifest.model_json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": IDENTITY, **_plain(made), "title": FORMAT}


def encode_schema() -> bytes:
    """The text of ``manifest_schema.json``."""
    return json.dumps(manifest_schema(), indent=1, ensure_ascii=True).encode() + b"\n"


def _plain(part: Any) -> Any:
    """A part of the schema: without titles that repeat keys and values that are always written, with closed maps.

    Descriptions end where their first passage does.
    """
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {key: _plain(value) for key, value in part.items() if key not in {"title", "default"}}
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split("\n\n")[0].split())
    if "patternProperties" in found:
        found["additionalProperties"] = False
    return found
