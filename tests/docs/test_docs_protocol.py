"""The page about the protocol names tests and modules: they have to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def test_every_test_it_names_is_there() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    assert named <= defined, named - defined


def test_every_item_of_section_8_has_its_row() -> None:
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == [str(number) for number in range(1, 22)]


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`((?:[a-z]+/)+[a-z_*]+)`", PAGE))))
def test_every_module_it_names_is_there(module: str) -> None:
    bases = [ROOT, ROOT / "appliance"]
    assert any(list(base.glob(f"{module}.py")) or (base / module).is_dir() for base in bases)
