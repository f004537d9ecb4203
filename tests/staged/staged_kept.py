"""Staged boots as files: predictions that were made before them, and the bundles that came of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from measurements import prediction_file
from measurements.explanation import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from staged_changes import Change

    from measurements.prediction import Prediction


def keep(
    directory: Path, change: Change, unchanged: Prediction, candidates: Sequence[Candidate], bundle: bytes
) -> None:
    """Write down one boot."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / f"{change.base}.json", unchanged)
    for candidate in candidates:
        _write(directory / f"{change.slug}.json", candidate.prediction)
    (directory / f"{change.slug}.bundle").write_bytes(bundle)


def unchanged(directory: Path, change: Change) -> Prediction:
    """What was predicted of the unchanged machine."""
    return prediction_file.parse_prediction((directory / f"{change.base}.json").read_bytes())


def candidates(directory: Path, change: Change, others: Sequence[Change]) -> tuple[Candidate, ...]:
    """Changes of the same unchanged machine that its shape tells, as they were predicted."""
    found = []
    for other in others:
        path = directory / f"{other.slug}.json"
        if other.base == change.base and other.cause is not None and path.is_file():
            prediction = prediction_file.parse_prediction(path.read_bytes())
            found.append(Candidate(other.name, (other.cause,), prediction))
    return tuple(found)


def _write(path: Path, prediction: Prediction) -> None:
    path.write_text(json.dumps(prediction_file.to_value(prediction), indent=0, ensure_ascii=False) + "\n")
