"""Which collateral a machine's evidence needs: read off it, unverified, and asked for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.collateral.errors import NotServedError
from attestation.dcap import platform_of
from attestation.errors import EvidenceError
from attestation.gcp.evidence import parse_gcp
from attestation.readers import form_of
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import SigningKey, parse_report
from attestation.snp.tcb import Product
from attestation.snp.vek import parse_vek

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.collateral.sources import Sources
    from attestation.snp.report import SnpReport
    from attestation.snp.vek import Vek


async def tdx_collateral(quote: bytes, sources: Sources) -> bytes:
    """Collateral of the platform that a quote names.

    Raises:
        AttestationError: The quote names none, or there is none.
    """
    return await sources.tdx.get(*platform_of(quote))


async def gcp_collateral(evidence: bytes, sources: Sources) -> bytes | None:
    """Collateral of a Google machine; None of one that is no TDX guest.

    Raises:
        AttestationError: The evidence cannot be read, or there is none.
    """
    quote = parse_gcp(evidence).tdx
    return None if quote is None else await tdx_collateral(quote, sources)


async def snp_collateral(evidence: bytes, sources: Sources) -> bytes:
    """Collateral of a SEV-SNP machine, bare or Azure's; the key's certificate is its host's where that fits the report.

    Raises:
        AttestationError: The evidence cannot be read, is not of such a machine, or there is none.
    """
    report, certificates = _report_in(evidence)
    return await report_collateral(report, sources, certificates=certificates)


async def report_collateral(
    report: bytes, sources: Sources, *, certificates: Mapping[str, bytes] | None = None, product: str | None = None
) -> bytes:
    """Collateral of an SEV-SNP report.

    Args:
        report: 1184 bytes.
        sources: Where collateral comes from.
        certificates: What the machine's host gave, by name (:data:`attestation.snp.evidence.LIMITS`); a chip's
            certificate that is not for this report is left aside.
        product: Its product; None takes the report's word, and tries each for a report that says none.

    Raises:
        AttestationError: The report cannot be read, or there is none.
    """
    parsed = parse_report(report)
    vlek = parsed.signing_key is SigningKey.VLEK
    leaf = (certificates or {}).get("vlek" if vlek else "vcek")
    key = _key_of(leaf)
    if not vlek and any(parsed.chip_id) and not (key is not None and _certifies(key, parsed)):
        leaf = None  # hosts keep them beyond updates of their firmware: AMD is asked for the one that signed
    named = product or parsed.product or (key.product if key is not None else None)
    # Version 2 of the report, of Milan and Genoa, does not say which processor it is of.
    first, *others = (named,) if named else (Product.MILAN, Product.GENOA)
    get = functools.partial(sources.snp.get, vlek=vlek, leaf=leaf)
    try:
        return await get(first, parsed.chip_id, parsed.reported_tcb)
    except NotServedError:
        if not others:
            raise
    return await get(others[0], parsed.chip_id, parsed.reported_tcb)


def _report_in(evidence: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    if form_of(evidence) == "azure":
        paravisor = parse_azure(evidence)
        return parse_hcl(paravisor.report).hardware, paravisor.certificates
    shown = SnpEvidence.parse(evidence)
    return shown.report, shown.certificates


def _key_of(leaf: bytes | None) -> Vek | None:
    if leaf is None:
        return None
    try:
        return parse_vek(leaf)
    except EvidenceError:
        return None


def _certifies(key: Vek, report: SnpReport) -> bool:
    """Whether the certificate is for the chip and the patch level of a report; its signature is for the verifier."""
    return key.tcb.raw == report.reported_tcb and key.hardware_id.ljust(len(report.chip_id), b"\0") == report.chip_id
