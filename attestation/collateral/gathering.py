"""Everything that a verifier will need for given evidence: to staple it, to bundle it, or to have it in the cache.

In: what the platform shows and what its devices show. Out: a :class:`attestation.staple.Staple` and what is missing
from it, each with its reason. Nothing is verified here, and nothing missing is an error: a verifier may have its own.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.collateral.errors import NotServedError
from attestation.errors import AttestationError, EvidenceError
from attestation.readers import form_of
from attestation.staple import MAX_RESPONSES, MAX_RIMS, Staple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from cryptography import x509

    from attestation.collateral.sources import Sources


@dataclass(frozen=True, slots=True)
class Missing:
    """A piece that could not be had.

    Attributes:
        what: Its name, for a person.
        reason: Why.
        hint: What helps.
    """

    what: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found for some evidence.

    Attributes:
        staple: All that was found.
        missing: All that was not.
    """

    staple: Staple
    missing: tuple[Missing, ...]


async def gather(quote: bytes | None, devices: Sequence[bytes], sources: Sources) -> Gathered:
    """Find the collateral of evidence.

    Args:
        quote: What the platform shows; None for devices alone.
        devices: What each device shows (:mod:`attestation.gpu.evidence`).
        sources: Where collateral comes from.
    """
    missing: list[Missing] = []
    platform, manifests = await asyncio.gather(_platform(quote, sources, missing), _devices(devices, sources, missing))
    return Gathered(
        Staple(tdx=platform[0], snp=platform[1], rims=manifests[0], ocsp=manifests[1]),
        tuple(sorted(missing, key=lambda item: item.what)),
    )


async def _platform(quote: bytes | None, sources: Sources, missing: list[Missing]) -> tuple[bytes | None, bytes | None]:
    if quote is None:
        return None, None
    try:
        form = form_of(quote)
    except EvidenceError as error:
        missing.append(Missing("platform collateral", error.message, error.hint))
        return None, None
    match form:
        case "tdx":
            return await _found("TDX collateral", tdx_collateral(quote, sources), missing), None
        case "gcp":
            return await _found("TDX collateral", _gcp_collateral(quote, sources), missing), None
        case "snp" | "azure":
            return None, await _found("SEV-SNP collateral", snp_collateral(quote, sources), missing)
        case _:
            return None, None


async def tdx_collateral(quote: bytes, sources: Sources) -> bytes:
    """Collateral of the platform that a quote names.

    Raises:
        AttestationError: The quote names none, or there is none.
    """
    from attestation.dcap import platform_of  # noqa: PLC0415 - loads the library; other platforms need none of it

    return await sources.tdx.get(*platform_of(quote))


async def _gcp_collateral(evidence: bytes, sources: Sources) -> bytes | None:
    from attestation.gcp.evidence import parse_gcp  # noqa: PLC0415

    quote = parse_gcp(evidence).tdx
    return None if quote is None else await tdx_collateral(quote, sources)


async def snp_collateral(evidence: bytes, sources: Sources) -> bytes:
    """Collateral of a SEV-SNP machine, bare or Azure's; the key's certificate is its host's where that gave one.

    Raises:
        AttestationError: The evidence cannot be read, is not of such a machine, or there is none.
    """
    report, certificates = _report_in(evidence)
    return await report_collateral(report, sources, certificates=certificates)


def _report_in(evidence: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    if form_of(evidence) == "azure":
        from attestation.azure.evidence import parse_azure  # noqa: PLC0415
        from attestation.azure.hcl import parse_hcl  # noqa: PLC0415

        paravisor = parse_azure(evidence)
        return parse_hcl(paravisor.report).hardware, paravisor.certificates
    from attestation.snp.evidence import SnpEvidence  # noqa: PLC0415

    parsed = SnpEvidence.parse(evidence)
    return parsed.report, parsed.certificates


async def report_collateral(
    report: bytes, sources: Sources, *, certificates: Mapping[str, bytes] | None = None, product: str | None = None
) -> bytes:
    """Collateral of an SEV-SNP report.

    Args:
        report: 1184 bytes.
        sources: Where collateral comes from.
        certificates: What the machine's host gave, by name (:data:`attestation.snp.evidence.LIMITS`).
        product: Its product; None takes the report's word, and tries each for a report that says none.

    Raises:
        AttestationError: The report cannot be read, or there is none.
    """
    from attestation.snp.report import SigningKey, parse_report  # noqa: PLC0415
    from attestation.snp.tcb import Product  # noqa: PLC0415

    parsed = parse_report(report)
    vlek = parsed.signing_key is SigningKey.VLEK
    leaf = (certificates or {}).get("vlek" if vlek else "vcek")
    named = product or parsed.product or _product_of_leaf(leaf)
    # Version 2 of the report, of Milan and Genoa, does not say which processor it is of.
    first, *others = (named,) if named else (Product.MILAN, Product.GENOA)
    get = functools.partial(sources.snp.get, vlek=vlek, leaf=leaf)
    try:
        return await get(first, parsed.chip_id, parsed.reported_tcb)
    except NotServedError:
        if not others:
            raise
    return await get(others[0], parsed.chip_id, parsed.reported_tcb)


def _product_of_leaf(leaf: bytes | None) -> str | None:
    from attestation.snp.vek import parse_vek  # noqa: PLC0415

    if leaf is None:
        return None
    try:
        return parse_vek(leaf).product
    except EvidenceError:
        return None


async def _devices(
    devices: Sequence[bytes], sources: Sources, missing: list[Missing]
) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """Manifests by name and responses by certificate, for all devices together."""
    if not devices:
        return {}, {}
    from attestation.gpu.chain import fingerprint, load_pem  # noqa: PLC0415 - loads XML and X.509
    from attestation.gpu.evidence import DeviceEvidence  # noqa: PLC0415
    from attestation.gpu.ocsp import asked  # noqa: PLC0415
    from attestation.gpu.rim import rim_ids  # noqa: PLC0415

    names: dict[str, None] = {}
    pairs: dict[bytes, tuple[x509.Certificate, x509.Certificate]] = {}
    for index, encoded in enumerate(devices):
        try:
            device = DeviceEvidence.parse(encoded)
            names |= dict.fromkeys(rim_ids(device.report))
            pairs |= {fingerprint(pair[0]): pair for pair in asked(load_pem(device.chain), device=True)}
        except EvidenceError as error:
            missing.append(Missing(f"collateral of device {index}", error.message, error.hint))
    rims: dict[str, bytes] = {}
    wanted = sorted(names)[:MAX_RIMS]
    documents = await asyncio.gather(*(_found(f"manifest {name}", sources.rim.get(name), missing) for name in wanted))
    for name, document in zip(wanted, documents, strict=True):
        if document is not None:
            rims[name] = document
            pairs |= _signers(name, document, missing)
    chosen = list(pairs.values())[:MAX_RESPONSES]
    responses = await asyncio.gather(*(_status(pair, sources, missing) for pair in chosen))
    return rims, {digest: response for digest, response in responses if response is not None}


def _signers(
    name: str, document: bytes, missing: list[Missing]
) -> dict[bytes, tuple[x509.Certificate, x509.Certificate]]:
    """The certificates of a manifest that a responder knows, each with its issuer."""
    from attestation.gpu.chain import fingerprint  # noqa: PLC0415
    from attestation.gpu.ocsp import asked  # noqa: PLC0415
    from attestation.gpu.rim_xml import certificates_of, parse_tag  # noqa: PLC0415

    try:
        certificates = certificates_of(parse_tag(document))
    except EvidenceError as error:
        missing.append(Missing(f"revocation status of the signers of {name}", error.message, error.hint))
        return {}
    return {fingerprint(pair[0]): pair for pair in asked(certificates, device=False)}


async def _status(
    pair: tuple[x509.Certificate, x509.Certificate], sources: Sources, missing: list[Missing]
) -> tuple[bytes, bytes | None]:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from attestation.gpu.chain import fingerprint, name_of  # noqa: PLC0415

    certificate, issuer = pair
    question = sources.ocsp.get(certificate.public_bytes(Encoding.DER), issuer.public_bytes(Encoding.DER))
    what = f"revocation status of {name_of(certificate.subject)}"
    return fingerprint(certificate), await _found(what, question, missing)


async def _found(what: str, question: Awaitable[bytes | None], missing: list[Missing]) -> bytes | None:
    try:
        return await question
    except AttestationError as error:
        missing.append(Missing(what, error.message, error.hint))
        return None
