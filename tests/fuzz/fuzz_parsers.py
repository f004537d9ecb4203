"""Targets that read: every parser of evidence, logs and files that meets outside bytes."""

from __future__ import annotations

from fuzz_target import Target
from fuzz_worlds import DATA, NONCE, worlds

from appliance.boot import volume
from appliance.boot.errors import GuestConfigError
from appliance.lab.cloud_world_gcp import INSTANCE, encode_instance
from attestation import cbor
from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.azure.runtime import parse_runtime
from attestation.certificate import parse_certificate
from attestation.claims import WorkloadStatement
from attestation.collateral.dates import KINDS
from attestation.collateral.entry import Entry
from attestation.collateral.offline import OfflineBundle
from attestation.errors import AttestationError, CertificateError, CollateralError, EvidenceError
from attestation.evidence import parse_bundle
from attestation.gcp.evidence import parse_gcp
from attestation.gcp.instance import parse_instance
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.spdm import parse_report as parse_spdm
from attestation.platforms import simulated_gpus
from attestation.policy_file import parse_policy
from attestation.qgs import decode_answer, encode_answer
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import parse_report as parse_snp
from attestation.snp.table import make_table, parse_table
from attestation.snp.vek import parse_vek
from attestation.tdx import parse_quote
from attestation.tdx_log import TdxLog
from attestation.tpm.attest import parse_quote as parse_attest
from attestation.tpm.attest import parse_signature
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.keys import parse_public
from measurements.errors import ChrysalisError, MeasurementError
from measurements.eventlog import parse_tcg2
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers, parse_manifest

POLICY = b"""name = "mine"
platforms = ["tdx", "snp"]
[measurements]
require = "registry and signature"
[gpu]
count = {min = 1}
[freshness]
max_age_s = 600.0
"""
MANIFEST = Manifest(
    image_id="chrysalis",
    version="1",
    release=1,
    not_before=1,
    expires=2,
    profile="base",
    debug=False,
    engine=Engine(name="none", version="0"),
    command_line=f"quiet roothash={'0' * 64}",
    root_hash="0" * 64,
    source_commit="a" * 40,
    source_modified=False,
    source_date_epoch=1,
    recipe=BuildRecipe(profile="base", mkosi_version="25", tools_lock="0" * 64, command="build it"),
    locks={},
    artefacts=(Artefact(name="a", size=1, sha256="0" * 64),),
    registers=(Registers(platform="tpm", boot="disk", values={"pcr4": "0" * 64}),),
).encode()


def _azure() -> tuple[bytes, bytes, bytes]:
    evidence = worlds().azure.evidence(DATA)
    report = parse_azure(evidence).report
    return evidence, report, parse_hcl(report).runtime


def _device() -> bytes:
    return worlds().gpus.gpu_evidence(0, NONCE)


def _staple() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in ("vek", "ask", "ark", "crl"):
        found[name] = getattr(SnpCollateral.parse(worlds().snp.collateral()), name) or b""
    return found


def _table() -> bytes:
    found = _staple()
    return make_table({"vcek": found["vek"], "ask": found["ask"], "ark": found["ark"]})


def _entry() -> Entry:
    return Entry(kind=min(KINDS), identity="x", source="here", fetched=1e9, issued=1e9, expires=2e9, content=b"{}")


TARGETS = (
    Target("cbor", lambda data: cbor.decode(data, max_length=16384), (EvidenceError,),
           lambda: [cbor.encode({"a": [1, b"x", None, True], "b": {"c": -5}}), worlds().snp.collateral()], cbor.encode),
    Target("bundle", parse_bundle, (EvidenceError,), lambda: [worlds().bundle], max_length=1 << 17),
    Target("statement", WorkloadStatement.from_cbor, (EvidenceError,),
           lambda: [parse_bundle(worlds().bundle).statement.to_cbor()], WorkloadStatement.to_cbor),
    Target("tdx-quote", parse_quote, (EvidenceError,), lambda: [worlds().tdx.quote(DATA)]),
    Target("tdx-log", TdxLog.parse, (EvidenceError,), lambda: [worlds().tdx.event_log()], TdxLog.encode),
    Target("event-log", parse_tcg2, (MeasurementError,),
           lambda: [TdxLog.parse(worlds().tdx.event_log()).firmware,
                    parse_evidence(parse_azure(_azure()[0]).tpm.encode()).logs.firmware]),
    Target("qgs", decode_answer, (AttestationError,), lambda: [encode_answer(worlds().tdx.quote(DATA))]),
    Target("snp-report", parse_snp, (EvidenceError,), lambda: [worlds().snp.report(DATA)], max_length=1300),
    Target("snp-evidence", SnpEvidence.parse, (EvidenceError,), lambda: [worlds().snp.evidence(DATA)],
           SnpEvidence.encode),
    Target("snp-collateral", SnpCollateral.parse, (EvidenceError,), lambda: [worlds().snp.collateral()],
           SnpCollateral.encode),
    Target("snp-vek", parse_vek, (EvidenceError,), lambda: [_staple()["vek"]]),
    Target("snp-table", parse_table, (EvidenceError,), lambda: [_table()]),
    Target("tpms-attest", parse_attest, (EvidenceError,), lambda: [worlds().gcp.vtpm.quote(bytes(32))[0]],
           max_length=1024),
    Target("tpm-signature", parse_signature, (EvidenceError,), lambda: [worlds().gcp.vtpm.quote(bytes(32))[1]],
           max_length=2048),
    Target("tpm-public", parse_public, (EvidenceError,), lambda: [worlds().gcp.vtpm.public], max_length=2048),
    Target("tpm-evidence", parse_evidence, (EvidenceError,),
           lambda: [worlds().gcp.vtpm.evidence(bytes(32), worlds().gcp.chain, with_logs=True).encode()],
           max_length=32768),
    Target("azure-evidence", parse_azure, (EvidenceError,), lambda: [_azure()[0]], max_length=32768),
    Target("azure-report", parse_hcl, (EvidenceError,), lambda: [_azure()[1]], max_length=8192),
    Target("azure-runtime", parse_runtime, (EvidenceError,), lambda: [_azure()[2]], max_length=8192),
    Target("gcp-evidence", parse_gcp, (EvidenceError,), lambda: [worlds().gcp.evidence(DATA)], max_length=32768),
    Target("gcp-instance", parse_instance, (EvidenceError,), lambda: [encode_instance(INSTANCE)], max_length=2048),
    Target("device-evidence", DeviceEvidence.parse, (EvidenceError,), lambda: [_device()], DeviceEvidence.encode),
    Target("spdm", parse_spdm, (EvidenceError,), lambda: [DeviceEvidence.parse(_device()).report]),
    Target("simulated-gpus", simulated_gpus.decode_request, (AttestationError,),
           lambda: [simulated_gpus.encode_request([NONCE] * 16)]),
    Target("certificate", parse_certificate, (CertificateError,), lambda: [worlds().identity.certificate]),
    Target("offline-collateral", OfflineBundle.parse, (CollateralError,),
           lambda: [OfflineBundle.of([_entry()], made=1e9).encode()]),
    Target("policy", parse_policy, (ChrysalisError,), lambda: [POLICY]),
    Target("manifest", parse_manifest, (MeasurementError,), lambda: [MANIFEST]),
    Target("configuration", volume.parse, (GuestConfigError,),
           lambda: [volume.pack({"measured.toml": b"a=1", "owner.toml": b"b=2", "host.toml": b"c=3"})]),
)  # fmt: skip
