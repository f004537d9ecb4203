"""The power button: found by its name, waited for by its event, and by no other."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from appliance.boot.power import BUTTON, EVENT, NO_BUTTON, find_button, main, wait_for_press
from appliance.boot.system import System

if TYPE_CHECKING:
    from pathlib import Path

PRESS = EVENT.pack(1, 2, 1, 116, 1)
RELEASE = EVENT.pack(1, 3, 1, 116, 0)
OTHER_KEY = EVENT.pack(1, 2, 1, 142, 1)
SYNCHRONISED = EVENT.pack(1, 2, 0, 0, 0)


def machine(root: Path, names: dict[str, str], events: bytes = b"") -> System:
    """A machine with input devices of these names; each has the same events."""
    for device, name in names.items():
        place = root / "sys/class/input" / device / "device"
        place.mkdir(parents=True)
        (place / "name").write_text(f"{name}\n")
        (root / "dev/input").mkdir(parents=True, exist_ok=True)
        (root / "dev/input" / device).write_bytes(events)
    return System(root)


def test_it_is_found_by_its_name(tmp_path: Path) -> None:
    system = machine(tmp_path, {"event0": "AT Translated Set 2 keyboard", "event1": BUTTON})
    assert find_button(system) == tmp_path / "dev/input/event1"
    assert find_button(System(tmp_path / "elsewhere")) is None


@pytest.mark.parametrize(
    ("events", "pressed"),
    [
        (PRESS, True),
        (SYNCHRONISED + OTHER_KEY + RELEASE + PRESS, True),
        (OTHER_KEY, False),
        (RELEASE, False),
        (SYNCHRONISED, False),
        (PRESS[:-1], False),
        (b"", False),
    ],
)
def test_only_a_press_of_the_button_counts(events: bytes, pressed: bool) -> None:
    assert wait_for_press(io.BytesIO(events)) is pressed


def test_the_status_says_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(machine(tmp_path / "pressed", {"event0": BUTTON}, PRESS)) == 0
    assert main(machine(tmp_path / "gone", {"event0": BUTTON}, OTHER_KEY)) == 1
    assert main(machine(tmp_path / "none", {"event0": "Sleep Button"}, PRESS), patience=0) == NO_BUTTON
    assert BUTTON in capsys.readouterr().err
