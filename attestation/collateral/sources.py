"""What answers for collateral: one protocol for each kind of evidence, all of them together, and an order of asking."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FMSPC = re.compile(r"[0-9A-F]{12}")
_AUTHORITIES = ("platform", "processor")


class CollateralSource(Protocol):
    """Where collateral of TDX machines comes from."""

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Collateral for a platform.

        Args:
            fmspc: 12 upper-case hex digits.
            ca: ``platform`` or ``processor``.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class SnpCollateralSource(Protocol):
    """Where collateral of SEV-SNP machines comes from."""

    async def get(
        self, product: str, chip_id: bytes, tcb: Mapping[str, int] | bytes, *, vlek: bool, leaf: bytes | None = None
    ) -> bytes:
        """An encoded :class:`attestation.snp.collateral.SnpCollateral`.

        Args:
            product: ``Milan``, ``Genoa`` or ``Turin``.
            chip_id: From the report, 64 bytes.
            tcb: The patch levels that the report was signed with: eight bytes, or numbers by name.
            vlek: Whether the report is signed with a cloud's key rather than a chip's.
            leaf: The key's certificate, DER, where the machine's host gave it; a VLEK's is served to its cloud alone.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class RimSource(Protocol):
    """Where reference manifests of GPUs come from."""

    async def get(self, rim_id: str) -> bytes:
        """A manifest, XML.

        Args:
            rim_id: Its name, for example ``NV_GPU_DRIVER_GH100_550.90.07``.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class OcspSource(Protocol):
    """Where the revocation status of a GPU's and a manifest's certificates comes from."""

    async def get(self, certificate_der: bytes, issuer_der: bytes) -> bytes:
        """A response, DER, made without a nonce, so that it can be stapled.

        Args:
            certificate_der: What is asked about.
            issuer_der: The certificate above it.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class FirstOf:
    """Asks one source after the other."""

    def __init__(self, sources: Sequence[CollateralSource]) -> None:
        self._sources = tuple(sources)

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return the first answer.

        Raises:
            CollateralError: None of them has it; the message holds every reason, the hint is the last one's.
        """
        reasons, hint = [], ""
        for source in self._sources:
            try:
                return await source.get(fmspc, ca)
            except CollateralError as error:
                reasons.append(error.message)
                hint = error.hint
        raise CollateralError(
            f"no source has collateral for {fmspc}: {'; '.join(reasons) or 'none is configured'}", hint=hint
        )


class Nothing:
    """The source that is not configured.

    Args:
        what: What it does not have, for the message.
        setting: What would configure it, for the hint.
    """

    def __init__(self, what: str, setting: str) -> None:
        self._what = what
        self._setting = setting

    async def get(self, *_: object, **__: object) -> bytes:
        """Say so.

        Raises:
            CollateralError: Always.
        """
        raise CollateralError(f"no source of {self._what} is configured", hint=f"configure {self._setting}")


@dataclass(frozen=True, slots=True)
class Sources:
    """A source for each kind of evidence; those that are left out have nothing.

    Attributes:
        tdx: Of TDX machines.
        snp: Of SEV-SNP machines.
        rim: Of reference manifests.
        ocsp: Of revocation status.
    """

    tdx: CollateralSource = field(default_factory=lambda: FirstOf(()))
    snp: SnpCollateralSource = field(default_factory=lambda: Nothing("AMD's certificates", "kds"))
    rim: RimSource = field(default_factory=lambda: Nothing("reference manifests", "rim"))
    ocsp: OcspSource = field(default_factory=lambda: Nothing("revocation status", "ocsp"))


def check_platform(fmspc: str, ca: str) -> None:
    """Refuse what cannot name a platform, before it becomes part of a path or an address.

    Raises:
        CollateralError: Another form.
    """
    if not _FMSPC.fullmatch(fmspc) or ca not in _AUTHORITIES:
        raise CollateralError(
            f"platform {fmspc!r} of authority {ca!r}, expected 12 hex digits and one of {_AUTHORITIES}"
        )
