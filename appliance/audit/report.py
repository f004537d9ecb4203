"""The report: one order of contents for its three forms, and the form for programs.

In: a finished audit. Out: JSON of the schema :data:`SCHEMA` (described in ``docs/auditing.md``). What comes from
outside (names of files, texts of programs and of event logs) is shown escaped in every form.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from appliance.audit.work import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from appliance.audit.outcome import Step
    from appliance.audit.plan import Audit

SCHEMA: Final = "chrysalis audit 1"
NAMES: Final = {"json": "audit.json", "markdown": "audit.md", "html": "audit.html"}
"""Files of a report."""
WORDS: Final[Mapping[str, str]] = {
    "same": "as stated",
    "differs": "DIFFERS",
    "unchecked": "could not be checked",
    "left out": "left out",
}
"""A step's status, for people."""
CLOSING: Final = (
    "A report is a copy of somebody's findings, not evidence: the commands above find them again. "
    "What an audit proves, and what it takes on trust, is in docs/auditing.md of the source."
)


def to_value(audit: Audit) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "schema": SCHEMA,
        "verdict": audit.verdict.line,
        "result": audit.verdict.kind,
        "begun": audit.begun.isoformat(timespec="seconds"),
        "work": str(audit.work),
        "steps": [step.to_value() for step in audit.steps],
    }


def took(step: Step) -> str:
    """How long a step took, for people."""
    text = f"{step.seconds:.1f} s"
    return f"{text} in an earlier run, kept" if step.kept else text


def write_report(audit: Audit, directory: Path, forms: Mapping[str, Callable[[Audit], str]]) -> dict[str, Path]:
    """Write the report in every form; the paths by form.

    Args:
        audit: What to report.
        directory: Where to; made where needed.
        forms: The forms for people, by name in :data:`NAMES`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps(to_value(audit), indent=1, ensure_ascii=True) + "\n"}
    texts |= {name: form(audit) for name, form in forms.items()}
    paths = {name: directory / NAMES[name] for name in texts}
    for name, text in texts.items():
        write_whole(paths[name], text.encode("utf-8", "backslashreplace"))
    return paths
