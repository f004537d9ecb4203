"""What ``measure explain`` does: predict, compare, and search for the change that explains what differs.

In: artefacts, a shape and evidence as they were named. Out: an explanation. With a log the first comparison says which
inputs may have moved what differs, and only changes of those are tried; without one, of all that the registers list.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from appliance.cli import measuring
from appliance.cli.judging import read_file
from appliance.cli.measuring import Tables
from appliance.errors import ConfigError
from attestation.reported import reported
from measurements.candidates import Others, of_manifest, single_changes, until_explained
from measurements.explain import explain
from measurements.explain_text import summary
from measurements.manifest import MAX_MANIFEST_BYTES, parse_manifest
from measurements.predictors import predict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from appliance.cli.measuring import Given
    from appliance.cli.output import Output
    from measurements.artefacts import Artefacts
    from measurements.eventlog import EventLog
    from measurements.explanation import Candidate, Explanation
    from measurements.prediction import Input, Prediction
    from measurements.shape import Shape

MANIFEST_HINT: Final = "--try-manifest names a release's manifest.json"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a machine was to be; read apart from its evidence, so that a wrong option is known before that is judged.

    Attributes:
        artefacts: What it was to boot.
        shape: What it was to be.
    """

    artefacts: Artefacts
    shape: Shape

    @classmethod
    def of(cls, given: Given, shape: str) -> Expected:
        """Read what was named.

        Args:
            given: What the machine was to boot.
            shape: A shape of the library, or a file.

        Raises:
            ConfigError: A file cannot be read, or options do not belong together.
            MeasurementError: A shape or capture is none.
        """
        machine = measuring.shape_of(shape)
        return cls(measuring.artefacts_of(given, machine), machine)

    def explain(self, evidence: bytes, output: Output) -> Explanation:
        """Why evidence reports something else, if it does.

        Args:
            evidence: A bundle, or bare evidence.
            output: Told what is going on.

        Raises:
            EvidenceError: The evidence is none.
            MeasurementError: Nothing can be predicted, or nothing compared.
        """
        shown = reported(evidence)
        search = Search(
            artefacts=self.artefacts,
            shape=self.shape,
            values=shown.values,
            log=shown.log,
            others=Others(shapes=measuring.library()),
            tables=Tables.of_library(),
        )
        return search.run(output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One machine, and all that is known of it.

    Attributes:
        artefacts: What it was to boot.
        shape: What it was to be.
        values: What it reports.
        log: Its event log, if there is one.
        others: What else it may have booted, or be.
        manifests: Manifests of other releases that it may have booted.
        tables: Where the ACPI tables of other machines come from.
        every: Whether changes that are unlikely are tried as well, and those after one that explains all.
    """

    artefacts: Artefacts
    shape: Shape
    values: Mapping[str, bytes]
    log: EventLog | None
    others: Others = field(default_factory=Others)
    manifests: tuple[Path, ...] = ()
    tables: Tables
    every: bool = False

    @classmethod
    def of(
        cls,
        given: Given,
        shape: str,
        *,
        bundle: Path | None = None,
        registers: Path | None = None,
        log: Path | None = None,
        others: Others | None = None,
        manifests: tuple[Path, ...] = (),
        every: bool = False,
        firmware: Path | None = None,
        qemu: Path | None = None,
    ) -> Search:
        """Read what was named.

        Args:
            given: What the machine was to boot.
            shape: A shape of the library, or a file.
            bundle: What it reports: a bundle, or
            registers: a file of values.
            log: Its log, where the bundle has none or another one is to be used.
            others: Besides the shapes of the library.
            manifests: Of other releases.
            every: As the attribute.
            firmware: Directory with the firmware, where QEMU may be started to capture tables.
            qemu: The QEMU that is started then.

        Raises:
            ConfigError: A file cannot be read, or options do not belong together.
            EvidenceError: The bundle is none.
            MeasurementError: A shape, capture, log or file of values is none.
        """
        if firmware is not None and not firmware.is_dir():
            raise ConfigError("--capture without a release's directory", hint="QEMU needs its firmware: --image DIR")
        values, events = measuring.evidence_of(bundle, registers, log)
        expected = Expected.of(given, shape)
        return cls(
            artefacts=expected.artefacts,
            shape=expected.shape,
            values=values,
            log=events,
            others=replace(others or Others(), shapes=measuring.library()),
            manifests=manifests,
            tables=Tables.of_library(firmware, qemu),
            every=every,
        )

    def run(self, output: Output) -> Explanation:
        """Explain; where something differs, with the changes that may have moved it.

        Args:
            output: Told what is going on.

        Raises:
            MeasurementError: Nothing can be predicted, or nothing compared.
        """
        prediction = predict(self.artefacts, self.shape)
        first = explain(prediction, self.values, self.log)
        if first.equal:
            return first
        output.progress(f"{summary(first)}; searching for the change")
        likely = {cause.input for finding in first.findings for cause in finding.causes}
        found = self._candidates(prediction, None if self.every else likely)
        return explain(prediction, self.values, self.log, found)

    def _candidates(self, prediction: Prediction, only: set[Input] | None) -> Iterator[Candidate]:
        compared = {name: self.values[name] for name in prediction.registers if name in self.values}
        changes = single_changes(self.artefacts, self.shape, others=self.others, acpi=self.tables.find, only=only)
        yield from changes if self.every else until_explained(changes, compared)
        for path in self.manifests:
            manifest = parse_manifest(read_file(path, limit=MAX_MANIFEST_BYTES, hint=MANIFEST_HINT))
            yield from of_manifest(manifest, self.shape.boot, compared)
