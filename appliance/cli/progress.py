"""Long work shown on standard error: a bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.cli.output import Output
    from appliance.engine.progress import Progress as Report


@contextmanager
def shown(output: Output) -> Iterator[Callable[[Report], None]]:
    """A callback for preparations, shown while the block runs."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
    )
    with Progress(*columns, console=output.console, transient=True, disable=not output.console.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def report(item: Report) -> None:
            first = item.step not in tasks
            text = escape(f"{item.step} {item.detail}".strip())
            if first:
                tasks[item.step] = bar.add_task(text, total=item.total or None)
                if not output.console.is_terminal:
                    output.progress(item.step)
            task = tasks[item.step]
            bar.update(task, completed=item.done, total=item.total or None, description=text)  # type: ignore[arg-type]  # None is rich's "no total yet"

        yield report


@contextmanager
def shown_bytes(output: Output) -> Iterator[Callable[[Report], None]]:
    """As :func:`shown`, for work that counts bytes: they get a bar with speed and what is left, other steps a line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.console, transient=True, disable=not output.console.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def report(item: Report) -> None:
            text = f"{item.step} {item.detail}".strip()
            if item.step not in tasks:
                tasks[item.step] = bar.add_task(escape(text), total=item.total, visible=item.unit == "bytes")
                if not output.console.is_terminal or item.unit != "bytes":
                    output.progress(text)
            bar.update(tasks[item.step], completed=item.done, total=item.total)  # type: ignore[arg-type]  # rich's TaskID is an int

        yield report
