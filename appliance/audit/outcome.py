"""What an audit finds: steps, each with a status, findings, and the commands that ran; and the verdict over them.

Plain values throughout: a step that ended is kept in the work directory as JSON and read back from there, so that an
audit that was killed goes on where it was (:mod:`appliance.audit.work`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from appliance.audit.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Status = Literal["same", "differs", "unchecked", "left out"]
"""``same``: asked and as stated. ``differs``: asked and not as stated. ``unchecked``: asked and not to be answered.
``left out``: not asked."""

_STATUS: Final[Mapping[str, Status]] = {name: name for name in get_args(Status)}
REPRODUCED: Final = "reproduced"
EXIT: Final[Mapping[str, int]] = {"reproduced": 0, "differs": 1, "unchecked": 2}
"""The command's exit status by :attr:`Verdict.kind`."""

MAX_DETAILS: Final = 20_000
"""Characters of one finding's details that are kept (diffoscope's report)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as stated.

    Attributes:
        subject: The file, register or machine: what a verdict line names.
        text: What was stated and what was seen, in one sentence.
        details: Further lines, for example diffoscope's.
    """

    subject: str
    text: str
    details: str = ""

    def __post_init__(self) -> None:
        if len(self.details) > MAX_DETAILS:
            object.__setattr__(self, "details", f"{self.details[:MAX_DETAILS]}\n… (cut here)")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        name: What was compared.
        stated: What the manifest says.
        seen: What was found; empty where it is the same.
        same: Whether it is.
    """

    name: str
    stated: str
    seen: str
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an audit, finished.

    Attributes:
        name: Short, for programs.
        title: For people.
        status: What came of it.
        summary: In one sentence.
        inputs: What it worked on, by name.
        rows: What was compared.
        findings: What is not as stated, the one that explains most first.
        notes: What a reader should know that is neither good nor bad.
        commands: Programs that ran, as a shell takes them.
        seconds: How long it took, when it was done.
        kept: Whether it was done by an earlier run of this audit and only read back now.
        facts: Values for later steps and for programs.
    """

    name: str
    title: str
    status: Status
    summary: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    seconds: float = 0.0
    kept: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_value(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def taken(self, seconds: float, commands: Iterable[str]) -> Step:
        """The same step with how long it took and what ran."""
        return replace(self, seconds=round(seconds, 1), commands=tuple(commands))

    @classmethod
    def from_value(cls, value: Any) -> Step:
        """Read a step back that :meth:`to_value` gave.

        Raises:
            AuditError: It is none.
        """
        try:
            return cls(
                name=value["name"],
                title=value["title"],
                status=_STATUS[value["status"]],
                summary=value["summary"],
                inputs=dict(value["inputs"]),
                rows=tuple(Row(**row) for row in value["rows"]),
                findings=tuple(Finding(**finding) for finding in value["findings"]),
                notes=tuple(value["notes"]),
                commands=tuple(value["commands"]),
                seconds=float(value["seconds"]),
                kept=True,
                facts=dict(value["facts"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AuditError(f"a kept step cannot be read: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit ends with.

    Attributes:
        kind: ``reproduced``, ``differs`` or ``unchecked``.
        line: The verdict line: the first line of every form of the report.
    """

    kind: Literal["reproduced", "differs", "unchecked"]
    line: str

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return EXIT[self.kind]


def judge(steps: Iterable[Step], *, needed: str, qualifier: str = "") -> Verdict:
    """The verdict over all steps.

    What differs decides over what could not be checked: it is found, whatever else is open. Nothing is reproduced
    unless every step that was asked for ended well.

    Args:
        steps: In order; the first difference is named.
        needed: The step without which nothing is reproduced, whatever the others say.
        qualifier: What "reproduced" rests on, where that is not this audit's own build.
    """
    done = list(steps)
    differing = [step for step in done if step.status == "differs"]
    subjects = list(dict.fromkeys(item.subject for step in differing for item in step.findings))
    if differing:
        more = f" (and {len(subjects) - 1} more)" if len(subjects) > 1 else ""
        return Verdict("differs", f"differs: {subjects[0] if subjects else differing[0].name}{more}")
    for step in done:
        if step.status == "unchecked":
            return Verdict("unchecked", f"could not be checked: {step.summary}")
    if not any(step.name == needed and step.status == "same" for step in done):
        return Verdict("unchecked", "could not be checked: nothing was compared")
    return Verdict("reproduced", f"{REPRODUCED} ({qualifier})" if qualifier else REPRODUCED)
