"""``chrysalis attest`` on real bundles of the synthetic worlds: the tree, the page, JSON, exit codes, hostile text."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from attest_cli_support import HOSTILE, NONCE, Site, chrysalis, make_bundle

if TYPE_CHECKING:
    from pathlib import Path


def told(*words: str | Path, ok: bool) -> dict[str, Any]:
    done = chrysalis(*words, "--json", ok=ok)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_good_bundle_prints_the_tree_and_exits_zero(site: Site) -> None:
    done = chrysalis("attest", "verify", site.file, "--policy", site.policy(), ok=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("no assurance"), "assurance comes first"
    assert lines[1] == "ACCEPTED by policy 'site'"
    text = done.stdout
    for words in ("The machine", "What the machine started, step by step", "GPU 0", "What the machine says it runs"):
        assert words in text
    assert "  ok   report data: " in text
    assert "FAIL" not in text
    assert hashlib.sha256(site.bundle).hexdigest() in text
    assert "nonce" in text
