"""The image that this room's machines boot: small, and predicted like any other."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "measurements"))

from measure_support import uki

IMAGE = uki()
OTHER_KERNEL = uki({".uname": b"6.13.0"})
OTHER_COMMAND_LINE = uki(command_line="console=ttyS0 quiet debug")
