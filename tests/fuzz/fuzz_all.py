"""Every target by name."""

from __future__ import annotations

import fuzz_measurements
import fuzz_parsers
import fuzz_verdicts
import fuzz_wire

TARGETS = {
    target.name: target
    for target in (
        *fuzz_parsers.TARGETS,
        *fuzz_measurements.TARGETS,
        *fuzz_wire.TARGETS,
        *fuzz_verdicts.TARGETS,
    )
}
