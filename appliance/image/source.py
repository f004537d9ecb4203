"""Where the checkout is that this program runs from: an image is built from a checkout, not from an installed wheel."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
