"""The power button: waits until the host presses it, and ends. Its unit then stops the machine in order.

In: the kernel's input events (``struct input_event`` of a 64-bit machine, linux/input.h; codes of
linux/input-event-codes.h). Out: the exit status alone, so the program needs no right to stop anything:
``SuccessAction=poweroff`` does, which lets running answers end before the engine and the network go. A host can always
cut the power; this is how it does so without cutting answers.
"""

from __future__ import annotations

import struct
import sys
import time
from typing import TYPE_CHECKING, BinaryIO, Final

from appliance.boot.system import System

if TYPE_CHECKING:
    from pathlib import Path

BUTTON: Final = "Power Button"
NO_BUTTON: Final = 3
"""The exit status where the machine has none; the unit is not started again then."""
EVENT: Final = struct.Struct("<qqHHi")
"""Seconds, microseconds, type, code, value."""
_EV_KEY, _KEY_POWER, _PRESSED = 1, 116, 1
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 1.0


def find_button(system: System) -> Path | None:
    """The device file of the power button; None where there is none (yet)."""
    for device in sorted(system.path("/sys/class/input").glob("event*")):
        if system.text(f"/sys/class/input/{device.name}/device/name") == BUTTON:
            return system.path(f"/dev/input/{device.name}")
    return None


def wait_for_press(events: BinaryIO) -> bool:
    """Read events until the button is pressed.

    Returns:
        False where the device ended before.
    """
    while len(event := events.read(EVENT.size)) == EVENT.size:
        if EVENT.unpack(event)[2:] == (_EV_KEY, _KEY_POWER, _PRESSED):
            return True
    return False


def main(system: System | None = None, patience: float = _PATIENCE_S) -> int:
    """Wait for the button; the exit status is 0 when it was pressed."""
    system = system or System()
    end = time.monotonic() + patience
    while (button := find_button(system)) is None or not button.exists():
        if time.monotonic() >= end:
            sys.stderr.write(f"no input device is called {BUTTON!r}: this machine has none\n")
            return NO_BUTTON
        time.sleep(_LOOK_S)
    with button.open("rb", buffering=0) as events:
        return 0 if wait_for_press(events) else 1


if __name__ == "__main__":
    sys.exit(main())
