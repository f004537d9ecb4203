"""Samples of genuine devices as evidence, and reports of any content for tests of parsers."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.x509 import ocsp

from attestation.gpu.chain import device_identity, fingerprint, load_pem, verify_path
from attestation.gpu.claims import GpuClaims, MultiGpu, multi_gpu_of, peers_of
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.fwid import certified_fwid
from attestation.gpu.rim import vbios_version
from attestation.gpu.rim_xml import certificates_of, parse_tag
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.gpu.spdm import Opaque, parse_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from attestation.verdict import Check

TOOLS = "google__go-nvattest-tools/testing/testdata"
TOOLS_PROJECT = "google/go-nvattest-tools"
DSTACK = "Dstack-TEE__dstack/dstack/dstack-util/tests/fixtures/gpu_attestation_h100.json"

H100_NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
HGX_NONCE = bytes.fromhex("1234567890" * 6 + "1234")
BLACKWELL_NONCE = bytes.fromhex("cdb72201e569085d6de41863745f6f77db1f75962c29564ec6abe91f0221861f")

DRIVER_RIM = "NV_GPU_DRIVER_GH100_550.90.07"
VBIOS_RIM = "NV_GPU_VBIOS_1010_0200_882_96009F0001"

DEVICE_DAY = datetime(2025, 8, 21, 12, tzinfo=UTC).timestamp()
"""A time at which the samples' OCSP responses about devices hold."""

RIM_DAY = datetime(2025, 10, 24, 12, tzinfo=UTC).timestamp()
"""A time at which those about manifests hold; there is none at which both do."""


@dataclass(frozen=True)
class Samples:
    """The samples of one folder, read in place."""

    root: Path

    def read(self, name: str) -> bytes:
        return (self.root / TOOLS / name).read_bytes()

    def h100(self) -> bytes:
        """Report and chain of a single H100."""
        return gpu(
            self.read("test_raw_gpu_attestation_report.dat"), self.read("test_gpu_attestation_certificate_chain.dat")
        )

    def odd_switch(self) -> bytes:
        """A switch's report beside the certificates of another switch, as the vendor's tests have them."""
        return switch(
            self.read("test_raw_switch_attestation_report.dat"),
            self.read("test_switch_attestation_certificate_chain.dat"),
        )

    def rims(self) -> dict[str, bytes]:
        return {name: self.read(f"rim/{name}.xml") for name in (DRIVER_RIM, VBIOS_RIM)}

    def hgx_gpus(self) -> list[bytes]:
        """Eight H100 of one board under protected PCIe."""
        return [
            gpu(_report(item["AttestationReport"]), _chain(item["CertificateChains"]["GpuAttestationCertificateChain"]))
            for item in self._json("test_ppcie_data.json")["gpus"]
        ]

    def hgx_switches(self) -> list[bytes]:
        """Their four switches."""
        return [
            switch(_report(item["attestation_report"]), _chain(item["attestation_cert_chain"]))
            for item in self._json("test_ppcie_data.json")["nvswitches"]
        ]

    def blackwells(self) -> list[bytes]:
        """Eight GB100 under multi-GPU passthrough."""
        return [
            gpu(
                _report(item["AttestationReport"]),
                _chain(item["CertificateChains"]["GpuAttestationCertificateChain"]),
                "blackwell",
            )
            for item in self._json("test_mpt_data.json")["gpus"]
        ]

    def ocsp_files(self) -> dict[str, bytes]:
        """Responses, DER, by file name."""
        files = sorted((self.root / TOOLS / "ocsp").iterdir())
        return {path.name: base64.b64decode(path.read_bytes()) for path in files}

    def ocsp(self) -> dict[bytes, bytes]:
        """Responses by SHA-256 of the certificate that they speak of."""
        certificates = list(load_pem(self.read("test_gpu_attestation_certificate_chain.dat")))
        for document in self.rims().values():
            certificates += certificates_of(parse_tag(document))
        by_serial = {ocsp.load_der_ocsp_response(item).serial_number: item for item in self.ocsp_files().values()}
        return {
            fingerprint(item): by_serial[item.serial_number] for item in certificates if item.serial_number in by_serial
        }

    def dstack(self) -> bytes:
        """What ``nvattest`` printed about an H100."""
        return (self.root / DSTACK).read_bytes()

    def _json(self, name: str) -> Any:
        return json.loads(self.read(name))


def gpu(report: bytes, chain: bytes, architecture: str = "hopper") -> bytes:
    return DeviceEvidence(kind="gpu", architecture=architecture, report=report, chain=chain).encode()


def switch(report: bytes, chain: bytes) -> bytes:
    return DeviceEvidence(kind="switch", architecture="ls10", report=report, chain=chain).encode()


def claims_of(evidence: bytes, index: int) -> GpuClaims:
    """Claims of a genuine device whose manifests are not at hand, for tests of rules about a set.

    Its chain is verified and its link partners are read, its state is made up: the judge gives no claims of it.
    """
    shown = DeviceEvidence.parse(evidence)
    report, path = parse_report(shown.report), verify_path(load_pem(shown.chain), NVIDIA_ROOTS.device, RIM_DAY)
    identity = device_identity(path)
    return GpuClaims(
        index=index,
        kind=shown.kind,
        architecture=shown.architecture,
        device_id=identity.device_id,
        model=identity.model,
        driver=report.text(Opaque.DRIVER_VERSION),
        vbios=vbios_version(report),
        fwid=certified_fwid(path.leaf, path.certificates[1]),
        pdi=identity.pdi,
        peers=peers_of(report, shown.kind),
        cc_mode=True,
        devtools_mode=False,
        multi_gpu=multi_gpu_of(report) if shown.kind == "gpu" else MultiGpu.NONE,
        locked=True if shown.kind == "switch" else None,
        unchecked=(),
        root_key_id=path.root_key_id,
    )


def claims(index: int = 0, **changed: Any) -> GpuClaims:
    """Claims of a single GPU that nothing is wrong with."""
    values: dict[str, Any] = {
        "index": index,
        "kind": "gpu",
        "architecture": "hopper",
        "device_id": bytes([index + 1]) * 32,
        "model": "GH100 A01 GSP BROM",
        "driver": "550.90.07",
        "vbios": "96.00.9F.00.01",
        "fwid": bytes(48),
        "pdi": bytes([index + 1]) * 8,
        "peers": frozenset(),
        "cc_mode": True,
        "devtools_mode": False,
        "multi_gpu": MultiGpu.NONE,
        "locked": None,
        "unchecked": (),
        "root_key_id": bytes(48),
    }
    return GpuClaims(**values | changed)


def build_report(
    *,
    nonce: bytes = bytes(32),
    measurements: Sequence[tuple[int, bytes]] = ((1, bytes(48)),),
    opaque: Iterable[tuple[int, bytes]] = (),
    slot: int = 0,
    signature: bytes = bytes(96),
) -> bytes:
    """A report of any content, unsigned."""
    record = b"".join(
        struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value for index, value in measurements
    )
    fields = b"".join(struct.pack("<HH", number, len(value)) + value for number, value in opaque)
    head = b"\x11\xe0\x01\xff" + nonce + bytes([slot]) + b"\x11\x60\x00\x00"
    head += bytes([len(measurements)]) + len(record).to_bytes(3, "little")
    return head + record + bytes(32) + struct.pack("<H", len(fields)) + fields + signature


def failed(checks: Iterable[Check]) -> list[str]:
    """Names of the checks that failed."""
    return [check.name for check in checks if not check.passed]


def by_name(checks: Iterable[Check]) -> Mapping[str, Check]:
    """Checks by name; of two of one name the last."""
    return {check.name: check for check in checks}


def _report(item: Any) -> bytes:
    return base64.b64decode(item["py/b64"])


def _chain(items: Any) -> bytes:
    return b"".join(base64.b64decode(item["pem"]) for item in items)
