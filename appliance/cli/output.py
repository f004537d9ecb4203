"""How commands speak: tables and lines for people, one JSON object for programs, errors without tracebacks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def _written_out(text: str) -> str:
    r"""The text with every character that a terminal would act on written out, such as ``\x1b``.

    Words of an error can come from a stranger's file: an escape sequence in them could clear the screen and print
    another verdict. Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


@dataclass(slots=True)
class Output:
    """Where a command's words go. With ``as_json`` only :meth:`result` reaches standard output.

    Progress and explanations always go to standard error, so that a pipe sees the result alone.
    """

    as_json: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    plain: Console = field(default_factory=lambda: Console(highlight=False))

    def say(self, text: str) -> None:
        """One line for a person; silent with ``--json``."""
        if not self.as_json:
            self.plain.print(escape(_written_out(text)), soft_wrap=True)

    def progress(self, text: str) -> None:
        """One line about what is going on."""
        self.console.print(escape(_written_out(text)), style="dim", soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for a person; silent with ``--json``."""
        if self.as_json:
            return
        table = Table(title=escape(title), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(_written_out(str(cell))) for cell in row))
        self.plain.print(table)

    def result(self, value: dict[str, Any]) -> None:
        """The command's result: one JSON object as the last line, or nothing where lines were said."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def failure(self, message: str, hint: str = "") -> None:
        """An error: a JSON object on standard output with ``--json``, and always words on standard error."""
        if self.as_json:
            self.result({"ok": False, "error": message, "hint": hint})
        self.console.print(f"[bold red]error:[/] {escape(_written_out(message))}", soft_wrap=True)
        if hint:
            self.console.print(f"[bold]hint:[/]  {escape(_written_out(hint))}", soft_wrap=True)
