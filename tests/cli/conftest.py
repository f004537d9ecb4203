"""Makes the small machines of other rooms' tests importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("staged", "measurements"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / folder))
