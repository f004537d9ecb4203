"""An audit from beginning to end: the steps in their order, each timed, and the two long ones kept for the next run.

Kept are the checkout and the rebuild, under a key of everything that they depend on; and a kept build counts only while
its files have the digests that they had. Everything else takes seconds and is done anew each time. A step that cannot
be answered does not end the audit: what does not need its result goes on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.audit import artefacts, checkout, inputs, listed, machines, rebuild, registers, stated
from appliance.audit.errors import UncheckedError
from appliance.audit.outcome import Step, Verdict, judge
from appliance.audit.programs import Programs
from appliance.audit.rebuild import Built
from appliance.audit.work import key_of
from appliance.engine.progress import Progress, ignore_progress
from appliance.image.predicted import ReleaseFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.audit.request import AuditRequest
    from appliance.audit.stated import Stated
    from appliance.audit.work import WorkDirectory
    from appliance.engine.progress import ProgressCallback
    from measurements.errors import ChrysalisError

TITLES = {
    stated.NAME: stated.TITLE,
    checkout.NAME: checkout.TITLE,
    inputs.NAME: inputs.TITLE,
    rebuild.NAME: rebuild.TITLE,
    artefacts.NAME: artefacts.TITLE,
    artefacts.PUBLISHED_NAME: artefacts.PUBLISHED_TITLE,
    registers.NAME: registers.TITLE,
    listed.NAME: listed.TITLE,
    machines.NAME: machines.TITLE,
}
"""The steps in their order, with their titles."""


@dataclass(frozen=True, slots=True)
class Audit:
    """A finished audit.

    Attributes:
        verdict: What it ends with.
        steps: In order.
        work: Its work directory.
        begun: When this run of it began, in UTC.
    """

    verdict: Verdict
    steps: tuple[Step, ...]
    work: Path
    begun: datetime

    def step(self, name: str) -> Step:
        """One of its steps."""
        return next(step for step in self.steps if step.name == name)


def run_audit(
    request: AuditRequest,
    work: WorkDirectory,
    *,
    announce: Callable[[str], None],
    progress: ProgressCallback = ignore_progress,
) -> Audit:
    """Run an audit, or go on with one.

    Args:
        request: What is asked.
        work: Where it works; held by the caller.
        announce: Told each command.
        progress: Told each step, and how far it is.

    Raises:
        AuditError: The request makes no sense.
        ManifestError: What is to be audited is no manifest.
    """
    begun = datetime.now(UTC)
    run = _Run(request, work, Programs(work.log, announce), progress)
    steps = tuple(run.steps())
    qualifier = f"by the build in {request.built}, which this audit did not make" if request.built else ""
    return Audit(judge(steps, needed=artefacts.NAME, qualifier=qualifier), steps, work.path, begun)


@dataclass(slots=True)
class _Run:
    """One run: what the steps hand on to each other."""

    request: AuditRequest
    work: WorkDirectory
    programs: Programs
    progress: ProgressCallback
    built: Built | None = None
    source: checkout.Source | None = None
    fed: bool = False
    differing: bool = False

    def steps(self) -> Iterator[Step]:
        """Do each step and give what came of it."""
        self._began(stated.NAME)
        begun = time.monotonic()
        what = stated.read_stated(self.request)
        yield what.step.taken(time.monotonic() - begun, ())
        yield self._source(what)
        yield self._inputs(what)
        yield self._rebuild(what)
        yield self._compare(what)
        yield self._published(what)
        yield self._registers(what)
        yield self._registry(what)
        yield self._machines(what)

    def _source(self, what: Stated) -> Step:
        def look() -> Step:
            if self.request.as_it_is:
                self.source = checkout.take_tree(
                    self.request.source, what.manifest.source_commit, self.work.path, self.programs
                )
                return self.source.step
            commit = what.commit
            if self.request.built is not None:
                return left_out(checkout.NAME, "the build was given")
            # The name of a commit is a digest of its contents, so a checkout of it is the same from wherever.
            key = key_of("source", commit)
            kept = self.work.load(checkout.NAME, key)
            if kept is not None and checkout.is_at(Path(str(kept.facts["directory"])), commit, self.programs):
                self.source = checkout.Source(Path(str(kept.facts["directory"])), commit, kept)
                return kept
            begun = time.monotonic()
            self.source = checkout.check_out(self.request.source, commit, self.work.path, self.programs)
            self.work.keep(self.source.step.taken(time.monotonic() - begun, self.programs.ran), key)
            return self.source.step

        return self._done(checkout.NAME, look)

    def _inputs(self, what: Stated) -> Step:
        if self.request.built is not None:
            return left_out(inputs.NAME, "the build was given")
        source = self.source
        if source is None:
            return left_out(inputs.NAME, "there is no source to build")
        step = self._done(
            inputs.NAME, lambda: inputs.gather(self.request, what.manifest, source.directory, progress=self.progress)
        )
        self.fed = step.status != "unchecked"
        return step

    def _rebuild(self, what: Stated) -> Step:
        request, source = self.request, self.source

        def build() -> Step:
            if request.built is not None:
                step = rebuild.take_built(request.built, None if request.as_it_is else what.commit)
            elif source is not None:
                step = self._built(what, source)
            else:
                step = left_out(rebuild.NAME, "there is no source to build")
            if step.status == "same":
                self.built = Built.read(Path(str(step.facts["directory"])))
            return step

        return self._done(rebuild.NAME, build)

    def _built(self, what: Stated, source: checkout.Source) -> Step:
        manifest = what.manifest
        what_for = (manifest.profile, manifest.debug, manifest.release, manifest.not_before, manifest.expires)
        key = key_of("rebuild", source.key, what_for, sys.version)
        kept = self.work.load(rebuild.NAME, key)
        if kept is not None and rebuild.still_there(kept):
            return kept
        self.work.forget(rebuild.NAME)
        if not self.fed:
            return left_out(rebuild.NAME, "its inputs are not at hand")
        begun = time.monotonic()
        step = rebuild.rebuild(manifest, source.directory, self.work.path, self.programs, progress=self.progress)
        self.work.keep(step.taken(time.monotonic() - begun, self.programs.ran), key)
        return step

    def _compare(self, what: Stated) -> Step:
        built = self.built
        if built is None:
            return left_out(artefacts.NAME, "there is no build to compare")

        def compare() -> Step:
            changed: dict[str, str] = {}
            if self.source is not None:
                names = self.source.step.facts.get("changed", ())
                changed = artefacts.changed_in_image(names, self.source.directory, built)
            return artefacts.compare_artefacts(
                what.manifest, built, self.request.published, changed=changed, announce=self._announced
            )

        step = self._done(artefacts.NAME, compare)
        self.differing = step.status == "differs"
        return step

    def _published(self, what: Stated) -> Step:
        published = self.request.published
        if published is None:
            return left_out(artefacts.PUBLISHED_NAME, "no directory of published files was named (--artefacts)")
        return self._done(
            artefacts.PUBLISHED_NAME,
            lambda: artefacts.compare_published(what.manifest, published, self.built, announce=self._announced),
        )

    def _registers(self, what: Stated) -> Step:
        files = self._files()
        if files is None:
            return left_out(registers.NAME, "there are no artefacts to compute them from")
        if not what.manifest.registers and not self.request.shapes:
            return left_out(registers.NAME, "the manifest states none")
        own = self.built.stated.get("registers", ()) if self.built is not None else ()
        return self._done(
            registers.NAME,
            lambda: registers.recompute(
                what.manifest,
                files,
                shapes=self.request.shapes,
                own=own if isinstance(own, list) else (),
                published=None if self.request.published is None else ReleaseFiles(self.request.published),
                differing=self.differing,
                progress=self.progress,
            ),
        )

    def _registry(self, what: Stated) -> Step:
        facts = self.request.registry
        if facts is None:
            return left_out(listed.NAME, "no network was named (--network)")

        def compare() -> Step:
            if isinstance(facts, str):
                raise UncheckedError(f"the registry cannot be read: {facts}")
            return listed.compare_registry(
                what.manifest, facts, configurations=self.request.configurations, known=self.request.known
            )

        return self._done(listed.NAME, compare)

    def _machines(self, what: Stated) -> Step:
        if not self.request.machines:
            return left_out(machines.NAME, "no machine was named (--bundle, --host)")
        return self._done(
            machines.NAME,
            lambda: machines.compare_machines(
                what.manifest, self.request.machines, self._files(), shapes=self.request.shapes
            ),
        )

    def _files(self) -> ReleaseFiles | None:
        """The files that registers are computed from: those that were built; without them, the published ones."""
        if self.built is not None:
            return ReleaseFiles(self.built.directory)
        published = self.request.published
        return ReleaseFiles(published) if published is not None and published.is_dir() else None

    def _done(self, name: str, work: Callable[[], Step]) -> Step:
        """Do one step, timed; a question that cannot be answered becomes a step that says so."""
        self._began(name)
        begun = time.monotonic()
        try:
            step = work()
        except UncheckedError as error:
            step = unchecked(name, error)
        self.progress(Progress(TITLES[name], 1, 1, "steps"))
        return step if step.kept else step.taken(time.monotonic() - begun, self.programs.ran)

    def _began(self, name: str) -> None:
        self.programs.began()
        self.progress(Progress(TITLES[name], 0, 1, "steps"))

    def _announced(self, command: str) -> None:
        self.programs.ran.append(command)
        self.programs.announce(command)


def left_out(name: str, why: str) -> Step:
    """A step that was not asked for, or cannot follow one that failed."""
    return Step(name=name, title=TITLES[name], status="left out", summary=why)


def unchecked(name: str, error: ChrysalisError) -> Step:
    """A step that could not be answered: its first line is the summary, the rest notes."""
    first, _, rest = error.message.partition("\n")
    notes = (*filter(None, rest.splitlines()), *filter(None, [error.hint]))
    return Step(name=name, title=TITLES[name], status="unchecked", summary=first, notes=notes)
