"""Register 10 of a TPM: its first event is a digest over registers 0 to 9, so whatever moves one of these moves it.

In: what was reported. Out: whether register 10 is what the reported registers 0 to 9 lead to; then its difference is
no finding of its own, and that is a proof, not a guess. Its event is left out where causes are weighed: it lists what
moves any of ten registers.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from measurements.explain_search import Match
from measurements.explanation import Cause
from measurements.prediction import replay
from measurements.tpm_machine import boot_aggregate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from measurements.explanation import Finding
    from measurements.prediction import Register

REGISTER: Final = "pcr10"
EVENT: Final = "boot aggregate"
SOURCES: Final = tuple(f"pcr{number}" for number in range(10))
_CHANGE: Final = "registers 0 to 9 as they were reported"


def derived(register: Register, values: Mapping[str, bytes]) -> Match | None:
    """What leads to the reported value of register 10, if that is registers 0 to 9 as they were reported.

    Args:
        register: As predicted.
        values: All that was reported.
    """
    known = [values[name] for name in SOURCES if name in values]
    if register.name != REGISTER or not register.events or register.events[0].name != EVENT or len(known) < 10:
        return None
    first = replace(register.events[0], digest=hashlib.sha256(boot_aggregate(known)).digest())
    events = (first, *register.events[1:])
    if replay((event.digest for event in events), register.bank) != values[REGISTER]:
        return None
    return Match(_CHANGE, (), events)


def following(finding: Finding, others: Sequence[Finding]) -> Finding:
    """The finding of a register 10 that follows from others, with their cause.

    Args:
        finding: Of register 10.
        others: Of the other registers.
    """
    sources = [other for other in others if other.register in SOURCES]
    if not sources:
        return finding
    names = ", ".join(dict.fromkeys(other.register for other in sources))
    proof = f"it follows from {names}, as the digest over registers 0 to 9 proves"
    first = {other.causes[0].input: other.causes[0] for other in reversed(sources) if other.causes}
    causes = tuple(
        Cause(cause.input, f"{proof}; there: {cause.sentence}", cause.remedy, cause.certain)
        for cause in reversed(first.values())
    )
    changes = list(dict.fromkeys(other.change for other in sources if other.change))
    return replace(finding, causes=causes, change=" and ".join(changes) or None, more=0)
