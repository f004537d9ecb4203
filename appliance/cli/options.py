"""Options that many commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on standard output.")]
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The program's TOML file.", dir_okay=False)]
