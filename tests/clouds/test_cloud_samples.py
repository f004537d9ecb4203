"""Samples of real clouds: each is verified as far as its material goes, and says what the specification says of it."""

from __future__ import annotations

import ssl
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from attestation.azure.evidence import AzureEvidence
from attestation.azure.hcl import HclReport, parse_hcl, trimmed
from attestation.azure.reader import read
from attestation.azure.runtime import parse_runtime
from attestation.errors import EvidenceError
from attestation.gcp.roots import GOOGLE_ROOT_KEY_IDS
from attestation.snp import reader as snp
from attestation.snp.collateral import SnpCollateral
from attestation.snp.report import GuestPolicy, parse_report
from attestation.snp.roots import AMD_ROOT_KEYS, AMD_ROOTS
from attestation.snp.tcb import Product
from attestation.tpm import algorithms as alg
from attestation.tpm.attest import Signature, parse_quote
from attestation.tpm.chain import root_key_id, verify_chain
from attestation.tpm.evidence import TpmEvidence
from measurements.eventlog import parse_tcg2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AZURE = "github.com/kinvolk/azure-cvm-tooling"
DSTACK = "github.com/Dstack-TEE/dstack"
NOW = datetime(2026, 11, 22, tzinfo=UTC).timestamp()


@pytest.fixture
def azure(shared: Path) -> Path:
    folder = shared / "samples/kinvolk__azure-cvm-tooling/az-cvm-vtpm/test"
    if not folder.is_dir():
        pytest.skip("the samples of azure-cvm-tooling are not beside this checkout")
    return folder


@pytest.fixture
def dstack(shared: Path) -> Path:
    folder = shared / "samples/Dstack-TEE__dstack/dstack"
    if not folder.is_dir():
        pytest.skip("the samples of dstack are not beside this checkout")
    return folder


@pytest.fixture
def chain(azure: Path) -> SnpCollateral:
    """``certs.pem``: VCEK, ASK and ARK; the library warns of the first, whose serial number is 0."""
    blocks = (azure / "certs.pem").read_text().split("-----END CERTIFICATE-----")[:3]
    ders = [ssl.PEM_cert_to_DER_cert(f"{block.strip()}\n-----END CERTIFICATE-----") for block in blocks]
    return SnpCollateral(*ders, crl=None)


def report(folder: Path, name: str) -> HclReport:
    return parse_hcl((folder / name).read_bytes())


def test_an_azure_report_of_snp(azure: Path, chain: SnpCollateral, sample_table: Callable[..., None]) -> None:
    """az-cvm-vtpm/test/hcl-report-snp.bin with certs.pem of azure-cvm-tooling.

    The chain is AMD's for Milan, but its key is another chip's than the one that made the report, and no quote by the
    report's key is among the samples: more than the binding of the runtime data cannot be shown.
    """
    found = report(azure, "hcl-report-snp.bin")
    hardware = parse_report(found.hardware)
    claims, checks = snp.verify(found.hardware, chain, AMD_ROOTS, NOW)
    failed = [check.name for check in checks if not check.passed]
    bound = hardware.report_data == found.bound
    seen = f"runtime data {'bound' if bound else 'NOT bound'}; refused: {', '.join(failed) or 'nothing'}"
    sample_table("hcl-report-snp.bin, certs.pem", AZURE, "runtime data bound; certificate of another chip", seen)
    assert bound
    assert claims is None
    assert failed == ["report signature", "chip id"]
    assert checks[0].passed, "the chain itself ends in AMD's root"
    assert AMD_ROOT_KEYS[Product.MILAN].hex()[:16] in checks[0].seen
    assert (hardware.vmpl, hardware.policy.has(GuestPolicy.DEBUG), any(hardware.host_data)) == (0, False, False)
    assert parse_runtime(found.runtime).user_data is None, "an early paravisor"


def test_altered_runtime_data_of_a_real_report_is_not_bound(azure: Path) -> None:
    raw = bytearray((azure / "hcl-report-snp.bin").read_bytes())
    assert parse_report(parse_hcl(bytes(raw)).hardware).report_data == parse_hcl(bytes(raw)).bound
    raw[raw.index(b"HCLAkPub")] ^= 1
    assert parse_report(parse_hcl(bytes(raw)).hardware).report_data != parse_hcl(bytes(raw)).bound


def test_an_azure_report_of_tdx(azure: Path, sample_table: Callable[..., None]) -> None:
    """az-cvm-vtpm/test/hcl-report-tdx.bin of azure-cvm-tooling: recognised and refused, with the reason."""
    raw = (azure / "hcl-report-tdx.bin").read_bytes()
    tpm = TpmEvidence(quote=b"-", signature=b"-", key=b"-", chain=(), registers=(bytes(32),) * 16, logs=None)
    claims, checks = read(AzureEvidence(report=trimmed(raw), tpm=tpm).encode(), None, AMD_ROOTS, NOW)
    by_name = {check.name: check for check in checks}
    refusal = by_name["paravisor hardware"]
    seen = f"runtime data {'bound' if by_name['runtime data'].passed else 'NOT bound'}; {refusal.seen}: {refusal.hint}"
    sample_table("hcl-report-tdx.bin", AZURE, "refused: lacks SEPT_VE_DISABLE", seen[:110])
    assert claims is None
    assert [check.name for check in checks if not check.passed] == ["paravisor hardware"]
    assert "lack SEPT_VE_DISABLE" in refusal.hint
    assert parse_runtime(parse_hcl(raw).runtime).user_data == bytes(64)


def test_an_azure_quote(azure: Path, sample_table: Callable[..., None]) -> None:
    """az-cvm-vtpm/test/quote.bin and akpub.pem of azure-cvm-tooling: a vTPM's quote over "challenge"."""
    raw = (azure / "quote.bin").read_bytes()
    value, offset = _bytes(raw, 0)
    message, offset = _bytes(raw, offset)
    (count,) = struct.unpack_from("<Q", raw, offset)
    values = raw[offset + 8 :]
    assert len(values) == 32 * count
    key = serialization.load_pem_public_key((azure / "akpub.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    signature, quote = Signature(alg.RSASSA, alg.SHA256, value), parse_quote(message)
    holds = signature.holds(key, message)
    digest = alg.digest(alg.SHA256, values) == quote.digest
    altered = signature.holds(key, message[:-1] + bytes((message[-1] ^ 1,)))
    sample_table("quote.bin, akpub.pem", AZURE, "signed by the key", f"signature {holds}, registers {digest}")
    assert (holds, digest, altered) == (True, True, False)
    assert quote.extra == b"challenge"
    assert quote.selection == ((alg.SHA256, tuple(range(24))),)


def _bytes(raw: bytes, offset: int) -> tuple[bytes, int]:
    """A buffer behind its 64-bit length, as the Rust crate ``bincode`` writes it."""
    (size,) = struct.unpack_from("<Q", raw, offset)
    return raw[offset + 8 : offset + 8 + size], offset + 8 + size


def test_runtime_data_of_another_machine(azure: Path, sample_table: Callable[..., None]) -> None:
    """az-cvm-vtpm/test/var-data.bin of azure-cvm-tooling: runtime data alone, an even older form."""
    found = parse_runtime((azure / "var-data.bin").read_bytes())
    seen = f"key of {found.key.key_size} bits, {len(found.settings)} settings"
    sample_table("var-data.bin", AZURE, "names the vTPM's key", seen)
    assert found.key.key_size == 2048
    assert found.settings["tpm-enabled"] is True


def test_googles_root(dstack: Path, sample_table: Callable[..., None]) -> None:
    """dstack/tpm-qvl/certs/gcp-root-ca.pem of dstack is the pinned authority, and signed itself."""
    root = x509.load_pem_x509_certificate((dstack / "tpm-qvl/certs/gcp-root-ca.pem").read_bytes())
    pinned = root_key_id(root) in GOOGLE_ROOT_KEY_IDS
    sample_table("gcp-root-ca.pem", DSTACK, "the pinned root of Google", "pinned" if pinned else "NOT pinned")
    assert pinned
    root.verify_directly_issued_by(root)
    with pytest.raises(EvidenceError, match="root alone"):
        verify_chain((root.public_bytes(serialization.Encoding.DER),), GOOGLE_ROOT_KEY_IDS, usage=None, now=NOW)


def test_a_tpm_quote_of_dstack(dstack: Path, sample_table: Callable[..., None]) -> None:
    """dstack/tpm-attest/tests/tpm_quote_sample.bin of dstack: TPMS_ATTEST without its signature."""
    raw = (dstack / "tpm-attest/tests/tpm_quote_sample.bin").read_bytes()
    quote = parse_quote(raw)
    seen = f"registers {quote.selection[0][1]}, asked for {quote.extra.hex()}"
    sample_table("tpm_quote_sample.bin", DSTACK, "read whole", seen)
    assert quote.extra == bytes.fromhex("12345678")
    assert quote.selection == ((alg.SHA256, (0, 1, 2)),)
    assert quote.clock.safe is True
    with pytest.raises(EvidenceError, match="trailing"):
        parse_quote(raw + b"\0")


def test_an_event_log_of_a_google_machine(dstack: Path, sample_table: Callable[..., None]) -> None:
    """dstack/cc-eventlog/samples/tpm_eventlog.bin of dstack: the log behind a vTPM, all of it read and replayed."""
    log = parse_tcg2((dstack / "cc-eventlog/samples/tpm_eventlog.bin").read_bytes())
    values = log.replay("sha256")
    sample_table("tpm_eventlog.bin", DSTACK, "read whole", f"{len(log.events)} events, {len(values)} registers")
    assert len(log.events) > 20
    assert all(len(value) == 32 for value in values.values())
