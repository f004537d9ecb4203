"""All staged boots of the image, as they were: each explained again, without a boot.

``data`` holds what ``test_staged_boots.py`` kept of one run over all changes on 2026-11-23 (QEMU 7.2 under TCG, Debian
13's OVMF 2025.02, Debian 12's 2022.11 for the last): the predictions, made before anything ran, and the bundles as the
guests' status ports gave them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import staged_changes as staged
import staged_kept as kept

from attestation.reported import reported
from measurements.explain import explain

DATA = Path(__file__).parent / "data"
ALL = (*staged.CONTROLS, *staged.CHANGES)


@pytest.mark.parametrize("change", ALL, ids=lambda change: change.name)
def test_a_boot_is_explained_by_its_log(change: staged.Change) -> None:
    seen = reported((DATA / f"{change.slug}.bundle").read_bytes())
    staged.judge(change, explain(kept.unchanged(DATA, change), seen.values, seen.log))


@pytest.mark.parametrize("logged", [True, False], ids=["log", "no log"])
@pytest.mark.parametrize("change", [item for item in ALL if item.shaped and item.cause], ids=lambda change: change.name)
def test_the_right_one_is_found_among_the_changes_of_a_shape(change: staged.Change, *, logged: bool) -> None:
    """All of them move ACPI tables: which one it was, only their predictions tell."""
    seen = reported((DATA / f"{change.slug}.bundle").read_bytes())
    candidates = kept.candidates(DATA, change, staged.CHANGES)
    assert len(candidates) > 1
    found = explain(kept.unchanged(DATA, change), seen.values, seen.log if logged else None, candidates)
    assert found.changes == (change.name,)
    assert {(item.register, item.causes[0].input, item.certain) for item in found.findings} == {
        (register, change.cause, True) for register in change.moves
    }


@pytest.mark.parametrize("change", [item for item in ALL if item.moves], ids=lambda change: change.name)
def test_without_a_log_the_cause_is_among_the_likely_ones(change: staged.Change) -> None:
    seen = reported((DATA / f"{change.slug}.bundle").read_bytes())
    found = explain(kept.unchanged(DATA, change), seen.values)
    assert {item.register for item in found.findings} == change.moves - found.unpredicted.keys()
    assert change.cause in {cause.input for item in found.findings for cause in item.causes}


def test_every_file_belongs_to_a_change() -> None:
    known = {f"{change.slug}.bundle" for change in ALL} | {f"{change.base}.json" for change in ALL}
    known |= {f"{change.slug}.json" for change in ALL if change.shaped and change.cause}
    assert {path.name for path in DATA.iterdir()} == known
