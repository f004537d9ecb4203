"""The registers: every set that the manifest states, computed again from the artefacts and the shape library.

In: a directory with the release's files, the manifest, the library's machines with their captured ACPI tables. Out: a
step that says of every value whether it is what such a machine will measure, and of one that is not, which event makes
the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from appliance.audit.errors import UncheckedError
from appliance.audit.outcome import Finding, Row, Step
from appliance.engine.progress import Progress, ignore_progress
from appliance.image.predicted import ANY
from measurements import predictors, shape_library, tpm
from measurements.errors import MeasurementError
from measurements.explain import explain
from measurements.prediction import Prediction, Register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from appliance.engine.progress import ProgressCallback
    from appliance.image.predicted import ReleaseFiles
    from measurements.explanation import Explanation
    from measurements.manifest import Manifest, Registers

NAME = "registers"
TITLE = "The registers"


def set_name(registers: Registers) -> str:
    """What a report calls a set."""
    return f"{registers.platform} {registers.boot} {registers.shape}"


def predict_set(registers: Registers, files: ReleaseFiles) -> Prediction:
    """What the machine of a set will measure.

    Raises:
        MeasurementError: The library has no such shape, or it cannot be predicted from these files.
    """
    if registers.shape != ANY:
        shape = shape_library.shape(registers.shape)
        if (shape.platform, shape.boot) != (registers.platform, registers.boot):
            raise MeasurementError(
                f"shape {shape.name} is a machine of platform {shape.platform} that boots by {shape.boot}, "
                f"the manifest's set says {registers.platform} and {registers.boot}"
            )
        return predictors.predict(files.artefacts(shape), shape)
    if registers.platform != "tpm":
        raise MeasurementError(f"a set for any shape of platform {registers.platform}: only a TPM's has registers such")
    found = tpm.predict(files.artefacts().need("image", "every register"), boot=registers.boot)
    return Prediction(
        registers.platform,
        registers.boot,
        ANY,
        {
            f"pcr{number}": Register.replayed(f"pcr{number}", "sha256", events)
            for number, events in found.events.items()
        },
    )


def recompute(
    manifest: Manifest,
    files: ReleaseFiles,
    *,
    shapes: Sequence[str] = (),
    own: Iterable[Any] = (),
    published: ReleaseFiles | None = None,
    differing: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Step:
    """Compute every register set of a manifest again.

    Args:
        manifest: What is stated.
        files: The rebuilt release.
        shapes: Only sets of these shapes; empty for all.
        own: The sets that the rebuilt commit's own manifest states, as plain values.
        published: The release's files as they were published, which say which event differs where the files do.
        differing: Whether the artefacts differ from the manifest's.
        progress: Told each set.

    Raises:
        UncheckedError: The manifest has no set of these shapes.
    """
    sets = [entry for entry in manifest.registers if not shapes or entry.shape in shapes]
    if not sets:
        has = ", ".join(sorted({entry.shape for entry in manifest.registers})) or "none at all"
        raise UncheckedError(f"the manifest states no registers of the shapes asked for; it has {has}")
    theirs = {_key(entry): entry["values"] for entry in own if _is_set(entry)}
    rows: list[Row] = []
    findings: list[Finding] = []
    notes: list[str] = []
    unanswered: list[str] = []
    for number, entry in enumerate(sets):
        name = set_name(entry)
        progress(Progress("registers", number, len(sets), "steps", name))
        try:
            prediction = predict_set(entry, files)
        except MeasurementError as error:
            unanswered.append(f"{name}: {error}")
            rows += [Row(f"{name}: {register}", value, "not predicted", False) for register, value in _sorted(entry)]
            continue
        for register, stated in _sorted(entry):
            seen = prediction.registers.get(register)
            value = "" if seen is None else seen.value.hex()
            rows.append(Row(f"{name}: {register}", stated, "" if value == stated else value or "not predicted",
                            value == stated))  # fmt: skip
            if seen is None:
                unanswered.append(
                    f"{name}: {register}: {prediction.unpredicted.get(register, 'no predictor knows it')}"
                )
        more = sorted(prediction.registers.keys() - entry.values.keys())
        if more:
            notes.append(f"{name}: the manifest leaves out {', '.join(more)}, which can be predicted")
        words = _Words(entry, prediction, theirs.get(_key(entry.model_dump())), published, differing=differing)
        findings += words.findings()
    progress(Progress("registers", len(sets), len(sets), "steps"))
    same = sum(row.same for row in rows)
    summary = f"{same} of {len(rows)} values in {len(sets)} sets are what such machines measure"
    if unanswered and not findings:
        summary = f"not every register can be predicted: {unanswered[0]}"
    return Step(
        name=NAME,
        title=TITLE,
        status="differs" if findings else "unchecked" if unanswered else "same",
        summary=summary,
        inputs={"files": str(files.directory), "sets": ", ".join(map(set_name, sets))},
        rows=tuple(rows),
        findings=tuple(findings),
        notes=(*unanswered, *notes),
    )


def sentences(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Of each register that differs: its name, and in words which event it is and what most likely moved it."""
    for finding in explanation.findings:
        at = "" if finding.position is None else f", event {finding.position} of it"
        text = f"{finding.event}{at} ({finding.covers})"
        if finding.change is not None:
            text += f"; one change gives exactly this value: {finding.change}"
        elif finding.causes:
            cause = finding.causes[0]
            text += f"; most likely {cause.input}: {cause.sentence}"
        if finding.causes and finding.causes[0].remedy:
            text += f" — {finding.causes[0].remedy}"
        yield finding.register, text


@dataclass(frozen=True, slots=True)
class _Words:
    """What is said of the registers of one set that are not as stated.

    Attributes:
        entry: The set.
        prediction: What such a machine measures.
        own: What the rebuilt commit's own predictor said.
        published: The published files.
        differing: Whether the artefacts differ.
    """

    entry: Registers
    prediction: Prediction
    own: Mapping[str, str] | None
    published: ReleaseFiles | None
    differing: bool

    def findings(self) -> Iterator[Finding]:
        """One finding for each."""
        wrong = [
            (register, stated, found.value.hex())
            for register, stated in _sorted(self.entry)
            if (found := self.prediction.registers.get(register)) is not None and found.value.hex() != stated
        ]
        why = self._reasons() if wrong else {}
        for register, stated, seen in wrong:
            text = f"the manifest says {stated}, such a machine measures {seen}"
            if self.own is not None and self.own.get(register) == stated and not self.differing:
                text += "; that commit's own predictor says what the manifest says: predictors changed since"
            yield Finding(f"{register} of {set_name(self.entry)}", text, why.get(register, ""))

    def _reasons(self) -> dict[str, str]:
        """By register: the event that differs, for certain where both sides' files are at hand."""
        found: dict[str, str] = {}
        try:
            if self.published is not None:
                found |= dict(self._events(predict_set(self.entry, self.published)))
            if self.differing:
                return {**dict.fromkeys(self.entry.values, "it follows from the artefacts that differ"), **found}
            values = {name: bytes.fromhex(value) for name, value in self.entry.values.items()}
            for register, text in sentences(explain(self.prediction, values)):
                found.setdefault(register, text)
        except MeasurementError as error:
            return {**dict.fromkeys(self.entry.values, error.message), **found}
        return found

    def _events(self, published: Prediction) -> Iterator[tuple[str, str]]:
        """Where the published files give the stated value: the first event that the rebuilt ones change."""
        for name, register in published.registers.items():
            rebuilt = self.prediction.registers.get(name)
            if rebuilt is None or self.entry.values.get(name) != register.value.hex():
                continue
            for position, (one, two) in enumerate(zip_longest(register.events, rebuilt.events)):
                if one is None or two is None or one.digest != two.digest:
                    event = one or two
                    yield name, f"event {position} differs first: {event.name} ({event.source})" if event else ""
                    break


def _sorted(entry: Registers) -> list[tuple[str, str]]:
    return sorted(entry.values.items())


def _is_set(entry: Any) -> bool:
    """Whether a plain value of another program's manifest is a register set."""
    return isinstance(entry, dict) and isinstance(entry.get("values"), dict) and all(map(_is_word, _key(entry)))


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry.get("platform"), entry.get("boot"), entry.get("shape")
