"""Which manifests and which revocation status the evidence of GPUs and switches needs: read off it, and asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import EvidenceError
from attestation.gpu.chain import fingerprint, load_pem, name_of
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.ocsp import asked
from attestation.gpu.rim import rim_ids
from attestation.gpu.rim_xml import certificates_of, parse_tag
from attestation.staple import MAX_RESPONSES, MAX_RIMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from attestation.collateral.gathering import Gathering

_Pair: TypeAlias = tuple[x509.Certificate, x509.Certificate]
"""A certificate that a responder knows, and its issuer."""


async def gather_devices(devices: Sequence[bytes], search: Gathering) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """Find what the evidence of devices is compared with; what several share is asked for once.

    Returns:
        Manifests by name, and responses by SHA-256 of the certificate.
    """
    names: dict[str, None] = {}
    pairs: dict[bytes, _Pair] = {}
    for index, encoded in enumerate(devices):
        try:
            device = DeviceEvidence.parse(encoded)
            names |= dict.fromkeys(rim_ids(device.report))
            pairs |= _by_fingerprint(asked(load_pem(device.chain), device=True))
        except EvidenceError as error:
            search.note(f"collateral of device {index}", error)
    wanted = sorted(names)[:MAX_RIMS]
    documents = await asyncio.gather(
        *(search.find(f"manifest {name}", search.sources.rim.get(name)) for name in wanted)
    )
    rims = {name: document for name, document in zip(wanted, documents, strict=True) if document is not None}
    for name, document in rims.items():
        try:
            pairs |= _by_fingerprint(asked(certificates_of(parse_tag(document)), device=False))
        except EvidenceError as error:
            search.note(f"revocation status of the signers of {name}", error)
    digests = list(pairs)[:MAX_RESPONSES]
    responses = await asyncio.gather(*(_status(pairs[digest], search) for digest in digests))
    return rims, {digest: found for digest, found in zip(digests, responses, strict=True) if found is not None}


def _by_fingerprint(pairs: Iterable[_Pair]) -> dict[bytes, _Pair]:
    return {fingerprint(pair[0]): pair for pair in pairs}


async def _status(pair: _Pair, search: Gathering) -> bytes | None:
    certificate, issuer = pair
    question = search.sources.ocsp.get(certificate.public_bytes(Encoding.DER), issuer.public_bytes(Encoding.DER))
    return await search.find(f"revocation status of {name_of(certificate.subject)}", question)
