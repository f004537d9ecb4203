"""The manifests that a device's report asks for: whether each is at hand, genuine, in its time, and the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attestation.errors import EvidenceError
from attestation.gpu.rim import read_rim
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.gpu.memory import Memory
    from attestation.gpu.rim import Manifest

_WHY: Final = "The manifest says which measurements the published software leads to."


@dataclass(frozen=True, slots=True)
class Wanted:
    """A manifest that a report asks for.

    Attributes:
        label: What it is of: ``driver``, ``vbios`` or ``bios``.
        name: Its id.
        version: The version that the report states.
        chip: The chip that the certificates name.
    """

    label: str
    name: str
    version: str
    chip: str

    def judge(
        self, data: bytes | None, roots: tuple[bytes, ...], now: float, memory: Memory | None
    ) -> tuple[Manifest | None, Check]:
        """Judge what is at hand under the name.

        Args:
            data: The document, ``None`` if there is none.
            roots: Roots of manifests, DER.
            now: Unix time.
            memory: Remembers manifests.

        Returns:
            The manifest if it is genuine, also if it is another than the one wanted, and the check.
        """
        expected = f"{self.name}, signed under the pinned manifest root"
        if data is None:
            return None, self._check(
                False,
                "none",
                expected,
                f"no manifest of this {self.label} is at hand: fetch it; if NVIDIA publishes none, an update to a "
                "published version is needed",
            )
        try:
            manifest = read_rim(data, roots, now, memory)
        except EvidenceError as error:
            return None, self._check(False, error.message, expected, error.hint)
        seen, wanted = f"{manifest.product} {manifest.version}", f"{self.chip} {self.version}"
        hint = f"the manifest is of another {self.label} than the device reports"
        return manifest, self._check(_plain(seen) == _plain(wanted), seen, wanted, hint)

    def _check(self, passed: bool, seen: str, expected: str, hint: str) -> Check:
        return Check(f"gpu {self.label} manifest", passed, seen, expected, hint, why=_WHY)


def _plain(text: str) -> str:
    """Product and version as they are compared: VBIOS versions in either case, a switch with or without underscore."""
    return text.replace("_", "").casefold()
