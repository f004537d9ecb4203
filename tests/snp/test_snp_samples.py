"""SEV-SNP evidence of real hardware gets the verdict that is stated for it; each sample names its source."""

from __future__ import annotations

import json
import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from snp_support import ALL_PRODUCTS, failed, judge

from attestation.snp import AMD_ROOTS, Product, SnpCollateral, SnpEvidence, parse_report, snp_rules
from attestation.snp.chain import verify_chain
from attestation.snp.machine_rules import SnpPlatform
from attestation.snp.report import GuestPolicy, PlatformInfo
from attestation.snp.roots import AMD_ROOT_KEYS, root_key_id
from attestation.snp.vek import parse_vek

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AT = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
VIRTEE, DSTACK = "virtee/sev", "Dstack-TEE/dstack"


def virtee(shared: Path) -> Path:
    folder = shared / "samples" / "virtee__sev/tests/certs_data"
    if not folder.is_dir():
        pytest.skip("the samples of virtee/sev are not there")
    return folder


def dstack(shared: Path) -> Path:
    folder = shared / "samples" / "Dstack-TEE__dstack/dstack"
    if not folder.is_dir():
        pytest.skip("the samples of dstack are not there")
    return folder


def ders(pem: bytes) -> list[bytes]:
    found = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem.decode("latin1"), re.DOTALL)
    return [ssl.PEM_cert_to_DER_cert(item.replace("\\n", "\n")) for item in found]


@pytest.fixture
def milan(shared: Path) -> tuple[bytes, SnpCollateral]:
    folder = virtee(shared)
    report = bytes.fromhex((folder / "report_milan.hex").read_text().strip())
    chain = (folder / "cert_chain_milan").read_bytes()
    return report, SnpCollateral.from_kds((folder / "vcek_milan.der").read_bytes(), chain, None)


@pytest.fixture
def milan_v3(shared: Path) -> tuple[bytes, SnpCollateral]:
    folder = dstack(shared) / "dstack-attest/tests"
    report = (folder / "sev_snp_attestation.bin").read_bytes()[4:1188]  # after the container's version and length
    vcek, ask = (ders((folder / f"sev_snp_{name}.pem").read_bytes())[0] for name in ("vcek", "ask"))
    ark = ders((virtee(shared) / "cert_chain_milan").read_bytes())[1]
    return report, SnpCollateral(vcek, ask, ark, None)


def verdict(report: bytes, collateral: SnpCollateral, **rules: Any) -> set[str]:
    checks = judge(
        SnpEvidence(report).encode(),
        collateral.encode(),
        AMD_ROOTS,
        snp_rules(**rules),
        report_data=report[0x50:0x90],
        now=AT,
    )
    return failed(checks)


def words(names: set[str]) -> str:
    return f"refused: {', '.join(sorted(names))}" if names else "accepted"


def test_milan_version_2(milan: tuple[bytes, SnpCollateral], sample_table: Callable[..., None]) -> None:
    source = f"{VIRTEE} tests/certs_data/report_milan.hex"
    names = verdict(*milan)
    expected = {"product", "memory alias check", "revocation"}
    sample_table("SNP report v2, Milan, VCEK", source, words(expected), words(names))
    assert names == expected
    names = verdict(
        *milan,
        products=ALL_PRODUCTS,
        platform=SnpPlatform(require_alias_check=False),
        require_revocation_list=False,
    )
    sample_table("the same, Milan and old firmware allowed", source, "accepted", words(names))
    assert names == set()


def test_milan_version_3(milan_v3: tuple[bytes, SnpCollateral], sample_table: Callable[..., None]) -> None:
    source = f"{DSTACK} dstack-attest/tests/sev_snp_attestation.bin"
    names = verdict(*milan_v3)
    expected = {"product", "revocation"}
    sample_table("SNP report v3, Milan, VCEK", source, words(expected), words(names))
    assert names == expected
    names = verdict(*milan_v3, products=ALL_PRODUCTS, require_revocation_list=False)
    sample_table("the same, Milan allowed", source, "accepted", words(names))
    assert names == set()


def test_the_other_container_holds_the_same_report(shared: Path, milan_v3: tuple[bytes, SnpCollateral]) -> None:
    """Source: Dstack-TEE/dstack verifier/fixtures/sev-snp-attestation.json."""
    value = json.loads((dstack(shared) / "verifier/fixtures/sev-snp-attestation.json").read_text())
    content = bytes.fromhex(value["attestation"])
    assert content[4:1188] == milan_v3[0]
    assert milan_v3[1].ask in ders(content)


def test_what_a_report_says(milan: tuple[bytes, SnpCollateral], milan_v3: tuple[bytes, SnpCollateral]) -> None:
    old, new = parse_report(milan[0]), parse_report(milan_v3[0])
    assert (old.version, new.version) == (2, 3)
    assert old.cpuid is None
    assert new.cpuid == (0x19, 1, 1)
    assert new.product is Product.MILAN
    assert str(old.current_version) == "1.52.4"
    assert str(new.current_version) == "1.55.29"
    assert old.policy.raw == new.policy.raw == GuestPolicy.RESERVED_ONE | GuestPolicy.SMT
    assert not old.platform_info.has(PlatformInfo.ALIAS_CHECK_COMPLETE)
    assert new.platform_info.has(PlatformInfo.ALIAS_CHECK_COMPLETE)
    assert new.report_data.startswith(b"attest-test-fixture-2026")
    assert old.report_id_ma == new.report_id_ma == b"\xff" * 32


def test_a_bit_of_a_real_report_or_key_breaks_it(milan_v3: tuple[bytes, SnpCollateral]) -> None:
    report, collateral = milan_v3
    for offset, name in ((0x90, "report signature"), (0x2A0, "report signature"), (0x187, "report signature")):
        altered = bytearray(report)
        altered[offset] ^= 1
        assert name in verdict(bytes(altered), collateral), offset
    other = bytearray(collateral.vek)
    other[-1] ^= 1
    forged = SnpCollateral(bytes(other), collateral.ask, collateral.ark, None)
    assert verdict(report, forged) == {"certificate chain"}


def test_turins_chain(shared: Path, sample_table: Callable[..., None]) -> None:
    folder = virtee(shared)
    leaf, chain = ((folder / name).read_bytes() for name in ("vcek_turin.der", "cert_chain_turin"))
    found = verify_chain(SnpCollateral.from_kds(leaf, chain, None), AMD_ROOTS, AT)
    seen = f"{found.product}, {found.vek.tcb}, chip id of {len(found.vek.hardware_id)} bytes"
    expected = "Turin, fmc 0, bootloader 0, tee 0, snp 0, microcode 9, chip id of 8 bytes"
    sample_table("VCEK chain, Turin", f"{VIRTEE} tests/certs_data/vcek_turin.der", expected, seen)
    assert seen == expected
    assert found.vek.hardware_id.hex() == "1e550a8ee5cf9f4d"


def test_the_pins_are_the_keys_of_the_chains(shared: Path) -> None:
    for product, name in ((Product.MILAN, "cert_chain_milan"), (Product.TURIN, "cert_chain_turin")):
        ark = ders((virtee(shared) / name).read_bytes())[1]
        assert root_key_id(ark) == AMD_ROOT_KEYS[product]
    assert len(AMD_ROOTS) == 3


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_our_reader_of_certificates_agrees_with_the_library(shared: Path) -> None:
    """As long as the library loads certificates with serial number 0 at all."""
    from cryptography import x509

    for name in ("vcek_milan.der", "vcek_turin.der"):
        data = (virtee(shared) / name).read_bytes()
        ours, theirs = parse_vek(data), x509.load_der_x509_certificate(data)
        assert ours.signed == theirs.tbs_certificate_bytes
        assert ours.signature == theirs.signature
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.begins == theirs.not_valid_before_utc.timestamp()
        assert ours.ends == theirs.not_valid_after_utc.timestamp()
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        assert ours.key.public_bytes(encoding, form) == theirs.public_key().public_bytes(encoding, form)
