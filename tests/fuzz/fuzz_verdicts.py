"""Targets that judge: whatever the bytes are, a verdict comes out and nothing is raised.

Their inputs are shown under the roots of this run's worlds, so that what is behind a signature is reached as well.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from fuzz_target import PropertyError, Target
from fuzz_worlds import DATA, NONCE, worlds

if TYPE_CHECKING:
    from cryptography import x509

from attestation import dcap
from attestation.azure import reader as azure_reader
from attestation.errors import CollateralError, EvidenceError
from attestation.gcp import reader as gcp_reader
from attestation.gpu import judge, ocsp
from attestation.gpu.chain import fingerprint, load_pem
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.rim import read_rim
from attestation.policy import for_name
from attestation.snp import reader as snp_reader
from attestation.tpm import reader as tpm_reader
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from attestation.verdict import Verdict


@cache
def _verifier() -> Verifier:
    every = worlds()
    policy = for_name("simulated", simulated_roots=[every.tdx.root_der], gpu_roots=every.gpus.roots())
    return Verifier(policy, clock=lambda: worlds().now)


def judge_bundle(data: bytes) -> Verdict:
    """Judge a bundle for this run's nonce and channel.

    Raises:
        PropertyError: Another one than the one that was made is accepted.
    """
    verdict = asyncio.run(_verifier().verify_bundle(data, nonce=NONCE, public_key=worlds().identity.public_key))
    if verdict.accepted and data != worlds().bundle:
        raise PropertyError("another bundle than the one that was made is accepted")
    verdict.explain()
    verdict.to_json()
    return verdict


def judge_evidence(data: bytes) -> judge.DeviceJudgement:
    """Judge one device's evidence for this run's nonce."""
    gpus = worlds().gpus
    return judge.judge_device(
        data, nonce=NONCE, roots=gpus.roots(), rims=gpus.rims(), ocsp=gpus.ocsp(), now=worlds().now
    )


def _rim(data: bytes) -> object:
    return read_rim(data, worlds().gpus.roots().rim, worlds().now)


def _ocsp(data: bytes) -> object:
    chain = _chain()
    return ocsp.check_response(data, chain[1], chain[2], worlds().now)


@cache
def _chain() -> tuple[x509.Certificate, ...]:
    return load_pem(DeviceEvidence.parse(worlds().gpus.gpu_evidence(0, NONCE)).chain)


def _response() -> bytes:
    """The response for the certificate above the device's own, which is made anew with its firmware."""
    return worlds().gpus.ocsp()[fingerprint(_chain()[1])]


def _quote(data: bytes) -> object:
    return dcap.verify_quote(data, worlds().tdx.collateral_json(), root_der=worlds().tdx.root_der, now=worlds().now)


def _collateral(data: bytes) -> object:
    return dcap.verify_quote(_fixed_quote(), data, root_der=worlds().tdx.root_der, now=worlds().now)


def _snp(data: bytes) -> object:
    every = worlds()
    return snp_reader.read(data, every.snp.collateral(), every.snp.roots, every.now)


@cache
def _fixed_quote() -> bytes:
    return worlds().tdx.quote(DATA)


TARGETS = (
    Target("verdict", judge_bundle, (), lambda: [worlds().bundle], max_length=1 << 17),
    Target("tdx-verify", _quote, (EvidenceError, CollateralError), lambda: [_fixed_quote()]),
    Target("tdx-collateral", _collateral, (EvidenceError, CollateralError), lambda: [worlds().tdx.collateral_json()],
           max_length=32768),
    Target("snp-verdict", _snp, (),
           lambda: [worlds().snp.evidence(DATA)]),
    Target("azure-verdict", lambda data: azure_reader.read(data, None, worlds().azure.roots, worlds().now), (),
           lambda: [worlds().azure.evidence(DATA)], max_length=32768),
    Target("gcp-verdict", lambda data: gcp_reader.read(data, None, worlds().gcp.roots, worlds().now), (),
           lambda: [worlds().gcp.evidence(DATA)], max_length=32768),
    Target("tpm-verdict", lambda data: tpm_reader.read(data, worlds().gcp.roots, worlds().now), (),
           lambda: [worlds().gcp.vtpm.evidence(bytes(32), worlds().gcp.chain, with_logs=True).encode()],
           max_length=32768),
    Target("device-verdict", judge_evidence, (), lambda: [worlds().gpus.gpu_evidence(0, NONCE)], max_length=32768),
    Target("rim", _rim, (EvidenceError,), lambda: list(worlds().gpus.rims().values()), max_length=32768),
    Target("ocsp", _ocsp, (EvidenceError,), lambda: [_response()], max_length=8192),
)  # fmt: skip
