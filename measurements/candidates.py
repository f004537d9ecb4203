"""Machines that differ from a predicted one in a single way, each with its prediction: what ``explain`` searches.

In: the artefacts and shape of the predicted machine, and what else is at hand (other firmware, images, tables of other
shapes). Out: candidates, made one after the other and only when asked for. A change whose ACPI tables are not at hand
is predicted with those of the unchanged machine and says so (:attr:`~measurements.explanation.Candidate.complete`): a
digest that agrees is a proof all the same, and one that does not is no argument against the change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from measurements import predictors
from measurements.acpi import tables_of
from measurements.candidate_changes import Others, changes
from measurements.errors import ArtefactError, MeasurementError
from measurements.explanation import Candidate
from measurements.prediction import Prediction, Register

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from measurements.acpi import AcpiTables
    from measurements.artefacts import Artefacts
    from measurements.candidate_changes import Change
    from measurements.manifest import Manifest
    from measurements.prediction import Input
    from measurements.shape import Shape

__all__ = ["Others", "Predict", "no_tables", "of_manifest", "single_changes", "until_explained"]

_TABLES: Final[frozenset[Input]] = frozenset({"memory", "vcpus", "qemu", "machine", "devices", "cpu"})
"""Inputs whose change may give the machine other ACPI tables."""


class Predict(Protocol):
    """A predictor (:func:`measurements.predictors.predict`)."""

    def __call__(self, artefacts: Artefacts, shape: Shape, /) -> Prediction:
        """As there."""


def no_tables(shape: Shape) -> AcpiTables | None:
    """The answer of who has no ACPI tables but those of the machine itself."""
    del shape
    return None


def single_changes(
    artefacts: Artefacts,
    shape: Shape,
    *,
    others: Others | None = None,
    acpi: Callable[[Shape], AcpiTables | None] = no_tables,
    only: Collection[Input] | None = None,
    predict: Predict = predictors.predict,
) -> Iterator[Candidate]:
    """The same machine with one change each, cheap and usual ones first.

    Args:
        artefacts: Of the predicted machine.
        shape: Of the predicted machine.
        others: What else is at hand.
        acpi: The tables of another shape; None where they are not at hand.
        only: Leave out changes of which no input is among these.
        predict: The predictor.

    Yields:
        Candidates. A change that is none (the machine is so already), that no machine can have, or that cannot be
        predicted is left out.
    """
    seen: set[str] = set()
    beside = _beside_tables(artefacts, shape, predict)
    for item in changes(artefacts, shape, others or Others()):
        wanted = only is None or bool(set(item.inputs) & set(only))
        if not wanted or item.change in seen or (item.artefacts == artefacts and item.shape == shape):
            continue
        seen.add(item.change)
        candidate = _candidate(item, artefacts, acpi, beside, predict)
        if candidate is not None:
            yield candidate


def of_manifest(manifest: Manifest, boot: str, registers: Collection[str]) -> Iterator[Candidate]:
    """Another release's reference values as candidates: without events, and only as far as its manifest says.

    Args:
        manifest: Of any release.
        boot: ``disk`` or ``direct``.
        registers: Names of registers that are to be compared.
    """
    for entry in manifest.registers:
        values = {name: bytes.fromhex(value) for name, value in entry.values.items() if name in registers}
        if entry.boot != boot or not values:
            continue
        predicted = {
            name: Register(name, "sha256" if len(value) == 32 else "sha384", value, (), extended=False)
            for name, value in values.items()
        }
        change = f"release {manifest.release} of {manifest.profile} ({entry.platform}, {entry.boot}, {entry.shape})"
        prediction = Prediction(entry.platform, entry.boot, entry.shape, predicted)
        yield Candidate(change, ("image",), prediction, complete=False)


def _candidate(
    item: Change,
    base: Artefacts,
    acpi: Callable[[Shape], AcpiTables | None],
    beside: frozenset[Input] | None,
    predict: Predict,
) -> Candidate | None:
    artefacts, complete, detail = item.artefacts, True, ""
    if base.acpi is not None and _TABLES & set(item.inputs):
        tables = acpi(item.shape)
        complete = tables is not None
        if tables is None and beside is not None and not beside & set(item.inputs):
            return None  # all that it moves are tables which are not at hand
        if tables is not None:
            artefacts = replace(artefacts, acpi=tables)
            detail = _tables_that_differ(base.acpi.tables, tables.tables)
    try:
        prediction = predict(artefacts, item.shape)
    except MeasurementError:
        return None
    told = "; ".join(text for text in (detail, item.note) if text)
    return Candidate(item.change, item.inputs, prediction, complete, told)


def _beside_tables(artefacts: Artefacts, shape: Shape, predict: Predict) -> frozenset[Input] | None:
    """Inputs that move something besides ACPI tables; None where the machine itself cannot be predicted."""
    try:
        registers = predict(artefacts, shape).registers.values()
    except MeasurementError:
        return None
    events = (event for register in registers for event in register.events if "acpi" not in event.inputs)
    return frozenset(moved for event in events for moved in event.inputs)


def _tables_that_differ(before: bytes, after: bytes) -> str:
    """Names of ACPI tables that two machines do not share."""
    try:
        one, other = ({(t.signature, data[t.offset : t.offset + t.length]) for t in tables_of(data)}
                      for data in (before, after))  # fmt: skip
    except ArtefactError:
        return ""
    names = sorted({signature for signature, _ in one ^ other})
    return f"ACPI tables that differ then: {', '.join(names)}" if names else ""


def until_explained(candidates: Iterator[Candidate], values: Mapping[str, bytes]) -> Iterator[Candidate]:
    """Candidates up to the first that agrees with every value.

    Args:
        candidates: In order.
        values: Of the registers that are compared.
    """
    for candidate in candidates:
        yield candidate
        if all(candidate.prediction.values.get(name) == value for name, value in values.items()):
            return
