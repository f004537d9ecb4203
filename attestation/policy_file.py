"""Policies as files: TOML or JSON in, a checked document, and from it a policy that the verifier uses.

::

    policy = load_policy("policy.toml", registry=view)     # or a built-in name: load_policy("release")
    verdict = await Verifier(policy).verify_bundle(…)

What a file may say is :mod:`attestation.policies.model`; a fault in it is told with its key. The built-in policies are
documents of the same language (:mod:`attestation.policies.builtin`): ``extends`` starts from one, and
:func:`explain` explains any.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from attestation.errors import PolicyError
from attestation.policies.build import Given, build
from attestation.policies.builtin import BUILTIN
from attestation.policies.files import read_file
from attestation.policies.model import PolicyDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attestation.policies.model import SignedManifest
    from attestation.policy import Policy
    from attestation.rules import RegistryView
    from measurements.manifest import Manifest

MAX_FAULTS = 8
_SAID = {"extra_forbidden": "unknown key", "missing": "missing key"}


def load_policy(
    source: str | Path,
    *,
    registry: RegistryView | None = None,
    manifests: Sequence[SignedManifest] = (),
    admit: Callable[[Sequence[Manifest]], None] | None = None,
) -> Policy:
    """A policy by its built-in name or from a file.

    Args:
        source: ``release``, ``tdx``, ``snp``, ``azure``, ``gcp``, or the path of a TOML or JSON file.
        registry: What a demand on the registry asks; without it such a demand fails.
        manifests: Signed manifests besides those that the policy names.
        admit: Told all signed manifests together once their signatures hold; raises for one that is not to be used.

    Raises:
        PolicyError: No such policy, a fault in the file (its key is named), or a manifest that does not hold.
    """
    document = read_policy(source)
    directory = Path() if is_builtin(source) else Path(source).resolve().parent
    return build(document, Given(directory, registry, tuple(manifests), admit))


def is_builtin(source: str | Path) -> bool:
    """Whether this is the name of a built-in policy; a file of that name is named by ``./release``."""
    return isinstance(source, str) and source in BUILTIN


def read_policy(source: str | Path) -> PolicyDocument:
    """The checked document of a built-in policy or a file; errors as :func:`load_policy`."""
    if is_builtin(source):
        return _check(BUILTIN[str(source)], str(source))
    path = Path(source)
    if path.suffix not in {".toml", ".json"}:
        known = ", ".join(sorted(BUILTIN))
        raise PolicyError(f"{str(source)!r} is no policy", hint=f"name a .toml or .json file, or one of {known}")
    return parse_policy(read_file(path), str(path), form="json" if path.suffix == ".json" else "toml")


def parse_policy(data: bytes, name: str = "policy", *, form: str = "toml") -> PolicyDocument:
    """Check the text of a policy.

    Args:
        data: The file's bytes.
        name: What errors call it.
        form: ``toml`` or ``json``.

    Raises:
        PolicyError: Not that form, or a key is wrong, unknown or missing; each is named.
    """
    try:
        text = data.decode()
        value: Any = json.loads(text, object_pairs_hook=_no_twice) if form == "json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        words = str(error) if not isinstance(error, RecursionError) else "nested too deeply"
        raise PolicyError(f"{name}: not {form.upper()}: {words}") from None
    if not isinstance(value, dict):
        raise PolicyError(f"{name}: a policy is a table of keys, got {type(value).__name__}")
    base = value.get("extends")
    if base is not None:
        if not isinstance(base, str) or base not in BUILTIN:
            raise PolicyError(f"{name}: extends: {base!r} is not built in", hint=f"known: {', '.join(sorted(BUILTIN))}")
        value = _extended(BUILTIN[base], value)
    return _check(value, name)


def _check(value: Mapping[str, Any], name: str) -> PolicyDocument:
    try:
        return PolicyDocument.model_validate(value)
    except ValidationError as error:
        faults = [
            f"{name}: {_key(item['loc'])}: {_SAID.get(item['type'], item['msg'].removeprefix('Value error, '))}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        more = f"\n… and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise PolicyError(
            "\n".join(faults[:MAX_FAULTS]) + more, hint="every key and its meaning: docs/attestation.md"
        ) from None


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "policy"


def _extended(base: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """A document over a built-in one: what it states is demanded, what it does not need is not."""
    merged = _over(base, value)
    stated = set(value)
    if any(isinstance(value.get(name), dict) and "machines" in value[name] for name in ("tdx", "snp", "gcp", "tpm")):
        stated.add("machines")
    left_out = value.get("not_needed")
    own = left_out if isinstance(left_out, dict) else {}
    for section in set(own) - stated:
        merged.pop(section, None)
    if isinstance(base.get("not_needed"), dict):
        inherited = {name: why for name, why in base["not_needed"].items() if name not in stated}
        merged["not_needed"] = {**inherited, **own} if isinstance(left_out, dict | None) else left_out
    return merged


def _over(base: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``value`` over those of ``base``, table by table."""
    merged = dict(base)
    for key, item in value.items():
        under = merged.get(key)
        merged[key] = _over(under, item) if isinstance(under, dict) and isinstance(item, dict) else item
    return merged


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        msg = f"key {twice!r} appears twice"
        raise ValueError(msg)
    return found
