"""A policy in words: what it takes, what it demands, whose word it rests on, what it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attestation.policies import require
from attestation.policies.model import SECTIONS, NamedDemands, PolicyDocument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from attestation.policies.model import Demands, Measurements

_SECTION_WORDS = {
    "measurements": "which image runs",
    "machines": "which machine it is",
    "gpu": "the GPUs",
    "event_log": "single events of the start",
    "freshness": "the age of evidence",
}
_PLATFORM_WORDS = {
    "tdx": "Intel TDX",
    "snp": "AMD SEV-SNP",
    "azure": "Azure (SEV-SNP with a paravisor's vTPM)",
    "gcp": "Google Cloud (TDX with a vTPM)",
    "tpm": "a TPM alone",
}


def explain(document: PolicyDocument) -> list[str]:
    """Lines for a person, indented."""
    lines = [f"policy {document.name!r}" + (f", which starts from {document.extends!r}" if document.extends else "")]
    if document.about:
        lines.append(f"  {document.about}")
    if document.simulated is not None:
        lines.append("NO ASSURANCE: it rests on roots that were made for a run")
    lines.append(f"takes machines of: {', '.join(_PLATFORM_WORDS[name] for name in document.platforms)}")
    lines.append("every machine has to be a healthy production one; besides:")
    lines += [f"  {line}" for line in _demands(document)]
    if document.freshness is not None:
        lines += [f"  {line}" for line in _table("freshness", document.freshness)]
    lines += _open(document)
    return lines


def _demands(demands: Demands) -> Iterator[str]:
    if demands.measurements is not None:
        yield from _measurements(demands.measurements)
    for name in ("workload", "tdx", "snp", "azure", "gcp", "tpm", "gpu", "event_log"):
        section = getattr(demands, name)
        if section is not None:
            yield from _table(name, section)
    for part in demands.all:
        yield from _part("also has to hold", part)
    if demands.any:
        yield "one of these has to hold:"
        for part in demands.any:
            yield from (f"  {line}" for line in _part("either", part))


def _part(word: str, part: NamedDemands) -> Iterator[str]:
    on = f" (on {', '.join(part.platforms)})" if part.platforms else ""
    yield f"{word} {part.name!r}{on}:"
    for line in _demands(part):
        yield f"  {line}"


def _measurements(section: Measurements) -> Iterator[str]:
    words = {
        "images": f"one of the {len(section.images)} images that it names",
        "registers": f"one of the {len(section.registers)} register sets that it names",
        "signature": f"a release that {_signers(section)} signed, between its dates",
        "registry": "an image that the root contract lists",
    }
    expression = section.expression()
    yield f"runs {require.explain(expression, words)}"
    names = set(require.used(expression))
    if {"registry", "signature"} <= names and isinstance(expression, require.Group) and expression.kind == "and":
        yield "  (one stolen key lists nothing: the root contract's owner and a release key both have to agree)"


def _signers(section: Measurements) -> str:
    if not section.manifests:
        return "the keys that whoever verifies names"
    keys = {key for manifest in section.manifests for key in manifest.keys}
    threshold = min(manifest.threshold for manifest in section.manifests)
    return f"at least {threshold} of {len(keys)} keys"


def _table(name: str, section: BaseModel) -> Iterator[str]:
    """What a section states, key by key; what stands at its default is not repeated."""
    for key in sorted(section.model_fields_set):
        field = type(section).model_fields[key]
        value = getattr(section, key)
        label = f"{name}.{field.alias or key}"
        if hasattr(value, "model_fields_set"):
            yield from _table(label, value)
        else:
            yield f"{label} = {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() if any(value) else "zeros"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_words(item)}" for key, item in value.items()) + "}"
    if isinstance(value, frozenset | tuple | list):
        shown = [_words(item) for item in (value if isinstance(value, tuple | list) else sorted(value))]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        return ", ".join(shown[:8]) + more or "none"
    if hasattr(value, "model_fields_set"):
        return "{" + "; ".join(_table("", value)).replace(".", "", 1) + "}"
    return str(value)


def _open(document: PolicyDocument) -> Iterator[str]:
    """What it leaves out, on purpose or without a word."""
    for section in SECTIONS:
        reason = document.not_needed.get(section)
        if reason is not None:
            yield f"leaves out {_SECTION_WORDS[section]}: {reason}"
            continue
        demanded = document.lists_machines if section == "machines" else getattr(document, section) is not None
        if not demanded and not (document.any or document.all):
            yield f"says nothing of {_SECTION_WORDS[section]}: verdicts list that as unchecked"
