"""Collateral of SEV-SNP machines from AMD's key distribution service (VCEK and KDS interface, 57230, section 4).

In: product, chip and patch levels. Out: an encoded :class:`attestation.snp.collateral.SnpCollateral`. Chain, revocation
list and a chip's certificate are kept apart, because the service limits how often it is asked and a chip's certificate
never changes::

    GET vcek/v1/{product}/cert_chain      ASK and ARK, PEM            GET vlek/v1/{product}/cert_chain    ASVK and ARK
    GET vcek/v1/{product}/crl             revocation list, DER        GET vlek/v1/{product}/crl
    GET vcek/v1/{product}/{hwid}?...      a chip's certificate, DER

A VLEK's certificate is given to the cloud that owns the key alone; its machines get it from their host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from attestation.collateral.errors import MalformedAnswerError
from attestation.collateral.exchange import Address, Question
from attestation.collateral.keeper import Wanted
from attestation.errors import CollateralError, EvidenceError
from attestation.snp.collateral import MAX_CRL, SnpCollateral
from attestation.snp.tcb import Product, Tcb, product_of_name
from attestation.snp.vek import HARDWARE_ID_SIZES, MAX_CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.collateral.keeper import Keeper
    from attestation.collateral.web import WebClient

log = structlog.get_logger(__name__)

CHIP_ID_SIZE: Final = 64
_FAMILY: Final = {"Bergamo": Product.GENOA, "Siena": Product.GENOA}
"""Products that have no name of their own at the service."""
_PARAMETERS: Final = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """One processor at its patch levels.

    Attributes:
        product: Its product line.
        hardware_id: As the service names it: 64 bytes, Turin's 8.
        tcb: What its key was derived for.
    """

    product: Product
    hardware_id: bytes
    tcb: Tcb

    @classmethod
    def make(cls, product: str, chip_id: bytes, tcb: Mapping[str, int] | bytes) -> Chip:
        """Read what a report says.

        Args:
            product: ``Milan-B0``, ``Genoa``, ``Siena`` and so on.
            chip_id: 64 bytes; Turin's eight may come alone.
            tcb: Eight bytes, or numbers by name (:data:`attestation.snp.tcb.LEVELS`).

        Raises:
            CollateralError: Unknown product, a masked or short chip id, or patch levels that the product has not.
        """
        line = product_of(product)
        size = HARDWARE_ID_SIZES[line]
        if len(chip_id) not in {size, CHIP_ID_SIZE}:
            raise CollateralError(f"chip id of {len(chip_id)} bytes, expected {CHIP_ID_SIZE}")
        if not any(chip_id):
            raise CollateralError(
                "the report's chip id is masked, so its certificate cannot be asked for",
                hint="the host has to unmask it (MASK_CHIP_ID), or hand the certificate to the guest",
            )
        if any(chip_id[size:]):
            raise CollateralError(f"chip id of {line} with more than {size} bytes that are not zero: another product's")
        try:
            levels = Tcb(line, tcb) if isinstance(tcb, bytes) else Tcb.of(line, **tcb)
        except EvidenceError as error:
            raise CollateralError(error.message, hint=error.hint) from None
        return cls(line, chip_id[:size], levels)

    @property
    def identity(self) -> str:
        """Under which the certificate is kept."""
        levels = ",".join(f"{name}={level}" for name, level in self.tcb.levels.items())
        return f"{self.product} {self.hardware_id.hex()} {levels}"

    @property
    def path(self) -> str:
        """Where the certificate is; patch levels in decimal, at least two digits."""
        levels = self.tcb.levels
        query = "&".join(f"{name}={levels[level]:02}" for level, name in _PARAMETERS.items() if level in levels)
        return f"/vcek/v1/{self.product}/{self.hardware_id.hex()}?{query}"


class KdsCollateral:
    """AMD's key distribution service, or a cache of it.

    Args:
        url: Its address; None uses what is kept alone.
        client: Asks.
        keeper: Keeps what was fetched.
    """

    def __init__(self, url: str | None, client: WebClient, keeper: Keeper) -> None:
        self._host = Address.parse(url).host if url else ""
        self._url = (url or "").rstrip("/")
        self._client = client
        self._keeper = keeper

    async def get(
        self, product: str, chip_id: bytes, tcb: Mapping[str, int] | bytes, *, vlek: bool, leaf: bytes | None = None
    ) -> bytes:
        """Fetch chain, revocation list, and the chip's certificate unless the host gave it.

        Without a revocation list, the rest is returned: whether one is needed, a policy decides.

        Raises:
            CollateralError: The service is out of reach, refuses, or sends what cannot be collateral; or a VLEK's
                certificate was not given.
        """
        line = product_of(product)
        if leaf is None:
            if vlek:
                raise CollateralError(
                    "the report is signed with a VLEK, whose certificate AMD gives to its cloud alone",
                    hint="the host has to hand it to the guest in the certificate table of extended reports",
                )
            leaf = await self.vcek(Chip.make(product, chip_id, tcb))
        key = "vlek" if vlek else "vcek"
        chain = await self.chain(line, key)
        try:
            crl: bytes | None = await self.crl(line, key)
        except CollateralError as error:
            log.warning("no revocation list of AMD's", product=line, reason=error.message)
            crl = None
        try:
            return SnpCollateral.from_kds(leaf, chain, crl).encode()
        except EvidenceError as error:
            raise MalformedAnswerError(f"collateral of {line}: {error.message}", hint=error.hint) from None

    async def vcek(self, chip: Chip) -> bytes:
        """A chip's certificate, DER; raises ``CollateralError``."""
        missing = (
            "404: AMD knows no such chip at these patch levels: compare the product, and the reported TCB with what "
            "the firmware can have"
        )
        return await self._get("snp-vcek", chip.identity, chip.path, MAX_CERTIFICATE, missing)

    async def chain(self, product: Product, key: str) -> bytes:
        """The certificates above the keys of a product, PEM; raises ``CollateralError``."""
        return await self._get("snp-chain", f"{product} {key}", f"/{key}/v1/{product}/cert_chain", 4 * MAX_CERTIFICATE)

    async def crl(self, product: Product, key: str) -> bytes:
        """The revocation list of a product, DER; raises ``CollateralError``."""
        return await self._get("snp-crl", f"{product} {key}", f"/{key}/v1/{product}/crl", MAX_CRL)

    async def _get(self, kind: str, identity: str, path: str, limit: int, missing: str = "") -> bytes:
        async def fetch() -> bytes:
            question = Question(self._url + path, f"{kind} of {identity:.40}", limit)
            if missing:
                question = Question(question.url, question.what, limit, missing=missing)
            return (await self._client.ask(question)).body

        return await self._keeper.get(Wanted(kind, identity, self._host, fetch if self._url else None))


def product_of(name: str) -> Product:
    """The product line under which the service knows a product.

    Raises:
        CollateralError: It is not known here.
    """
    line = _FAMILY.get(name) or product_of_name(name)
    if line is None:
        raise CollateralError(
            f"SEV-SNP product {name!r:.40}, expected one of {[*map(str, Product), *_FAMILY]}",
            hint="name it, or another release may know it",
        )
    return line
