"""The booted image, changed in one way: what its TPM reports is explained by the change that was made.

Every change costs a boot, minutes where the processor is emulated, so two are drawn at random each time; what was drawn
is printed. ``CHRYSALIS_STAGED_SEED`` draws the same again, ``CHRYSALIS_STAGED_DRAWS`` another number of changes, or
``all`` with the two controls. ``CHRYSALIS_STAGED_KEEP`` names a folder for what ``test_staged_kept.py`` looks at.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import staged_boots as boots
import staged_changes as staged
import staged_kept as kept
import staged_prediction as auditor

from attestation.reported import reported
from measurements.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from staged_changes import Change

SEED = int(os.environ.get("CHRYSALIS_STAGED_SEED") or secrets.randbelow(1 << 32))
DRAWS = os.environ.get("CHRYSALIS_STAGED_DRAWS") or "2"
KEPT = os.environ.get("CHRYSALIS_STAGED_KEEP")
DRAWN = (*(staged.CONTROLS if DRAWS == "all" else ()), *staged.drawn(SEED, DRAWS))

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.mark.parametrize("change", DRAWN, ids=[f"{change.name} (seed {SEED})" for change in DRAWN])
async def test_a_change_of_the_booted_image_is_explained(
    change: Change, built_image: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property(f"staged by seed {SEED}: {change.name}", 1)
    if change.needs_other_firmware and not all(path.is_file() for path in staged.OTHER_FIRMWARE):
        pytest.skip("no second firmware here: apt-get install ovmf")
    unchanged = boots.Site(directory=tmp_path / "unchanged", image=built_image)
    if change.other_firmware:
        staged.with_other_firmware(unchanged)
    prediction = auditor.predicted(unchanged, auditor.shape(change.boot))
    candidates = auditor.candidates(unchanged, change)
    site = boots.Site(directory=tmp_path / "changed", image=built_image)
    change.prepare(site)
    as_changed = auditor.predicted(site, auditor.shape(change.boot, change.shaped))
    try:
        bundle = await boots.boot(site, change.boot)
    finally:
        boots.remove(site.directory)
    if KEPT:
        kept.keep(Path(KEPT), change, prediction, candidates, bundle)
    seen = reported(bundle)
    staged.judge(change, explain(prediction, seen.values, seen.log))
    assert explain(as_changed, seen.values, seen.log).equal is change.in_files
    if candidates:
        found = explain(prediction, seen.values, seen.log, candidates)
        assert found.changes == (change.name,)
        assert all(item.certain and item.causes[0].input == change.cause for item in found.findings)
        assert explain(prediction, seen.values, None, candidates).changes == (change.name,)
