"""What goes beyond the reference protocol: one table, agreed to by both peers before a byte of it is sent.

The connecting side asks with ``chrysalis.hello`` which extensions the peer shares; a reference peer answers that query
with an error, and then none is used. Names that are not in the table are ignored: a later version may offer more.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidenceEnded,
    ChrysalisGetEvidence,
    ChrysalisGetWorkerEvidence,
    ChrysalisWorkerEvidenceEnded,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from appliance.wire.base import TLObject


class Extension(StrEnum):
    """The extensions; the value is the name that is sent."""

    CANCEL = "cancel"
    """A request whose client has gone is cancelled where it runs (requirement 19 of section 8)."""

    EVIDENCE = "evidence"
    """A fresh evidence bundle is asked for over the link, the peer's own or that of workers behind it; who knows that
    an earlier one speaks of something that has begun anew since says so."""


ALL: Final = frozenset(Extension)

NEEDS: Final[Mapping[type[TLObject], Extension]] = MappingProxyType(
    {
        ChrysalisCancel: Extension.CANCEL,
        ChrysalisGetEvidence: Extension.EVIDENCE,
        ChrysalisGetWorkerEvidence: Extension.EVIDENCE,
        ChrysalisEvidenceEnded: Extension.EVIDENCE,
        ChrysalisWorkerEvidenceEnded: Extension.EVIDENCE,
    }
)
"""The extension that both peers need to have agreed to before a message or query of this class is sent or heard."""


def agree(offered: frozenset[Extension], names: Iterable[str]) -> frozenset[Extension]:
    """What both sides have: the offered ones that are among the peer's names."""
    heard = frozenset(names)
    return frozenset(extension for extension in offered if extension.value in heard)
