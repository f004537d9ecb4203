"""Certificates of endorsement keys, DER, collateral and evidence: what is read, and that nothing else is."""

from __future__ import annotations

import contextlib
import datetime as dt
from functools import cache

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from snp_support import NOW, REPORT_DATA, pki, world

from attestation import cbor
from attestation.errors import AttestationError, EvidenceError
from attestation.snp import AMD_ROOTS, Product, SnpCollateral, SnpEvidence, Tcb
from attestation.snp.chain import RevokedError, verify_chain
from attestation.snp.der import INTEGER, Der
from attestation.snp.roots import root_key_id
from attestation.snp.table import MAX_TABLE, make_table, parse_table
from attestation.snp.vek import HARDWARE_ID, HARDWARE_ID_SIZES, LEVEL_OIDS, MAX_CERTIFICATE, PRODUCT_NAME, parse_vek

VALID = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2033, 1, 1, tzinfo=dt.UTC))


@cache
def vcek() -> bytes:
    return SnpCollateral.parse(world().collateral()).vek


def tlv(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


def _entry(table: bytes, offset: int) -> bytes:
    """The table's first entry, which says that its certificate is elsewhere."""
    return table[:16] + offset.to_bytes(4, "little") + table[20:24]


# --- DER


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "nothing at byte 0"),
        ("03", "0x03 at byte 0"),
        ("02", "inside an item's head"),
        ("0201", "ends after the data"),
        ("0280", "indefinite"),
        ("028101" + "00", "not the shortest"),
        ("02820001" + "00", "not the shortest"),
        ("0285" + "0000000001" + "00", "indefinite, cut off"),
        ("0282ff", "cut off"),
        ("0200", "empty or not the shortest"),
        ("02020001", "empty or not the shortest"),
        ("0202ffff", "empty or not the shortest"),
    ],
)
def test_der_that_is_not_der(data: str, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        Der(bytes.fromhex(data)).number()


@given(st.integers(-(2**70), 2**70))
def test_integers(value: int) -> None:
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    reader = Der(tlv(INTEGER, value.to_bytes(size, "big", signed=True)))
    assert reader.number() == value
    reader.end()
    assert reader.tag is None


def test_what_is_left_over_is_refused() -> None:
    reader = Der(bytes.fromhex("020100020101"))
    assert reader.number() == 0
    assert bool(reader)
    with pytest.raises(EvidenceError, match="3 bytes after"):
        reader.end()


@given(st.binary(max_size=64))
def test_any_bytes_are_der_or_refused(data: bytes) -> None:
    reader = Der(data)
    try:
        while reader:
            assert reader.tag is not None
            reader.take(reader.tag)
        reader.end()
    except EvidenceError:
        pass


# --- certificates of endorsement keys


def test_a_certificate_with_serial_number_0_is_read() -> None:
    machine = world(product=Product.TURIN)
    found = parse_vek(SnpCollateral.parse(machine.collateral()).vek)
    assert (found.product, found.tcb, found.is_vlek) == (Product.TURIN, machine.tcb, False)
    assert found.hardware_id == machine.chip_id[:8]
    assert found.provider == ""
    clouds = parse_vek(SnpCollateral.parse(world(provider="lab cloud").collateral()).vek)
    assert (clouds.provider, clouds.hardware_id, clouds.is_vlek) == ("lab cloud", b"", True)


@given(st.data())
def test_any_changed_certificate_is_read_or_refused(data: st.DataObject) -> None:
    altered = bytearray(vcek())
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EvidenceError):
        assert parse_vek(bytes(altered)).product in set(Product)


@pytest.mark.parametrize("size", [0, 1, 100, 700])
def test_a_cut_certificate_is_refused(size: int) -> None:
    with pytest.raises(EvidenceError):
        parse_vek(vcek()[:size])


def test_a_certificate_ends_where_it_ends() -> None:
    with pytest.raises(EvidenceError, match="1 bytes after"):
        parse_vek(vcek() + b"\0")
    with pytest.raises(EvidenceError, match="at most"):
        parse_vek(vcek() + bytes(MAX_CERTIFICATE))


def replaced(old: bytes, new: bytes) -> bytes:
    """The certificate with some bytes of the same length exchanged, signature and all left alone."""
    assert len(old) == len(new)
    assert vcek().count(old) == 1
    return vcek().replace(old, new)


def test_extensions_that_say_something_else() -> None:
    name = PRODUCT_NAME[-4:]
    with pytest.raises(EvidenceError, match="product 'Genua' is not known"):
        parse_vek(replaced(b"\x16\x05Genoa", b"\x16\x05Genua"))
    with pytest.raises(EvidenceError, match="expected 0x16"):
        parse_vek(replaced(b"\x16\x05Genoa", b"\x0c\x05Genoa"))
    with pytest.raises(EvidenceError, match="there twice"):
        parse_vek(replaced(LEVEL_OIDS["snp"], LEVEL_OIDS["microcode"]))
    with pytest.raises(EvidenceError, match="patch level snp is missing"):
        parse_vek(replaced(LEVEL_OIDS["snp"], LEVEL_OIDS["snp"][:-1] + b"\x40"))
    with pytest.raises(EvidenceError, match="names both a chip and a cloud, or neither"):
        parse_vek(replaced(HARDWARE_ID, HARDWARE_ID[:-1] + b"\x06"))
    with pytest.raises(EvidenceError, match=r"endorsement key certificate: "):
        parse_vek(replaced(name + b"\x04\x07\x16\x05Genoa", name + b"\x04\x07\x16\x05Turin"))


def test_only_keys_of_the_right_curve() -> None:
    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    leaf = pki(Product.GENOA).ask.endorse(spki, world().tcb, VALID, hardware_id=bytes(63) + b"\1")
    with pytest.raises(EvidenceError, match="not on the curve P-384"):
        parse_vek(leaf)


def test_a_chip_without_an_identifier_is_none() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    for size in (64, 8, 63):
        leaf = pki(Product.GENOA).ask.endorse(key, world().tcb, VALID, hardware_id=bytes(size))
        with pytest.raises(EvidenceError, match=f"hardware id of {size} bytes"):
            parse_vek(leaf)
    wrapped = b"\x04\x40" + b"\7" * 64  # as DER demands and AMD does not write
    leaf = pki(Product.GENOA).ask.endorse(key, world().tcb, VALID, hardware_id=wrapped)
    assert parse_vek(leaf).hardware_id == b"\7" * 64


def test_levels_above_127_have_two_bytes() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    tcb = Tcb.of(Product.MILAN, bootloader=127, snp=128, microcode=255)
    leaf = pki(Product.MILAN).ask.endorse(key, tcb, VALID, hardware_id=b"\7" * 64)
    assert parse_vek(leaf).tcb == tcb


# --- chains


def test_a_chain_of_mixed_products_is_refused() -> None:
    """A signing key of Genoa does not vouch for a Turin key, even where its own signature is right."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    genoa = pki(Product.GENOA)
    tcb = Tcb.of(Product.TURIN, snp=4)
    leaf = genoa.ask.endorse(key, tcb, genoa.valid, hardware_id=b"\7" * HARDWARE_ID_SIZES[Product.TURIN])
    collateral = SnpCollateral(leaf, genoa.ask.der, genoa.ark.der, None)
    with pytest.raises(EvidenceError, match="chain of products Genoa, Genoa and Turin"):
        verify_chain(collateral, frozenset({root_key_id(genoa.ark.der)}), NOW)


def test_a_cloud_key_needs_the_clouds_issuer() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    genoa = pki(Product.GENOA)
    leaf = genoa.ask.endorse(key, world().tcb, genoa.valid, provider="lab cloud")
    trusted = frozenset({root_key_id(genoa.ark.der)})
    with pytest.raises(EvidenceError, match="expected SEV-VLEK-"):
        verify_chain(SnpCollateral(leaf, genoa.ask.der, genoa.ark.der, None), trusted, NOW)


def test_an_endorsement_key_is_no_authority() -> None:
    collateral = SnpCollateral.parse(world().collateral())
    machine = world()
    for swapped in (
        SnpCollateral(collateral.vek, collateral.vek, collateral.ark, None),
        SnpCollateral(collateral.vek, collateral.ark, collateral.ark, None),
        SnpCollateral(collateral.ask, collateral.ask, collateral.ark, None),
        SnpCollateral(collateral.vek, collateral.ask, collateral.ask, None),
    ):
        with pytest.raises(EvidenceError):
            verify_chain(swapped, machine.roots, NOW)


@pytest.mark.parametrize("when", [0.0, -1e18, 1e18, float("nan"), float("inf"), 4e9])
def test_an_odd_clock_refuses(when: float) -> None:
    machine = world()
    with pytest.raises(EvidenceError):
        verify_chain(SnpCollateral.parse(machine.collateral()), machine.roots, when)


@given(st.data())
def test_any_changed_collateral_verifies_to_the_same_or_is_refused(data: st.DataObject) -> None:
    machine = world()
    right = SnpCollateral.parse(machine.collateral())
    name = data.draw(st.sampled_from(["vek", "ask", "ark", "crl"]))
    part = bytearray(getattr(right, name))
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    altered = SnpCollateral(
        **{**{item: getattr(right, item) for item in ("vek", "ask", "ark", "crl")}, name: bytes(part)}
    )
    try:
        found = verify_chain(altered, machine.roots, NOW)
    except EvidenceError:
        return
    assert found.vek.tcb == machine.tcb  # bits that no signature covers: an algorithm's parameters outside of it


def test_a_revocation_list_that_is_none() -> None:
    machine = world()
    right = SnpCollateral.parse(machine.collateral())
    with pytest.raises(RevokedError, match="cannot be read"):
        verify_chain(SnpCollateral(right.vek, right.ask, right.ark, b"\x30\x00"), machine.roots, NOW)


def test_revocation_of_somebody_else_changes_nothing() -> None:
    genoa = pki(Product.GENOA)
    machine = world()
    right = SnpCollateral.parse(machine.collateral())
    dates = tuple(dt.datetime.fromtimestamp(NOW + days * 86400, dt.UTC) for days in (-1, 1))
    crl = genoa.ark.revocation_list([1, 2, 3], (dates[0], dates[1]))
    found = verify_chain(SnpCollateral(right.vek, right.ask, right.ark, crl), machine.roots, NOW)
    assert found.revocation_checked
    assert found.expires_at == pytest.approx(NOW + 86400, abs=1)


def test_the_first_end_counts() -> None:
    machine = world()
    right = SnpCollateral.parse(machine.collateral())
    with_list = verify_chain(right, machine.roots, NOW)
    without = verify_chain(SnpCollateral(right.vek, right.ask, right.ark, None), machine.roots, NOW)
    assert NOW < with_list.expires_at < without.expires_at
    assert (with_list.revocation_checked, without.revocation_checked) == (True, False)


def test_root_keys() -> None:
    der = pki(Product.GENOA).ark.der
    assert len(root_key_id(der)) == 48
    assert root_key_id(der) not in AMD_ROOTS
    with pytest.raises(AttestationError, match="not a certificate"):
        root_key_id(b"nothing")


# --- collateral and evidence as bytes


def test_collateral_goes_to_bytes_and_back() -> None:
    for attack_free in (world(), world(provider="lab cloud")):
        encoded = attack_free.collateral()
        assert SnpCollateral.parse(encoded).encode() == encoded
    none = SnpCollateral(b"a", b"b", b"c", None)
    assert SnpCollateral.parse(none.encode()) == none


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"vek": b"a", "ask": b"b", "ark": b"c"},
        {"vek": b"a", "ask": b"b", "ark": b"c", "crl": None, "more": b""},
        {"vek": b"", "ask": b"b", "ark": b"c", "crl": None},
        {"vek": b"a", "ask": "b", "ark": b"c", "crl": None},
        {"vek": b"a", "ask": b"b", "ark": bytes(MAX_CERTIFICATE + 1), "crl": None},
        {"vek": b"a", "ask": b"b", "ark": b"c", "crl": b""},
        {"vek": b"a", "ask": b"b", "ark": b"c", "crl": bytes(64 * 1024)},
    ],
)
def test_collateral_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(EvidenceError):
        SnpCollateral.parse(cbor.encode(value))


def test_evidence_goes_to_bytes_and_back() -> None:
    encoded = world().evidence(REPORT_DATA)
    assert encoded[0] >> 5 == 5  # a CBOR map: what evidence dispatches on
    shown = SnpEvidence.parse(encoded)
    assert shown.encode() == encoded
    assert set(shown.certificates) == {"vcek", "ask", "ark"}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "tpm"},
        {"more": 1},
        {"report": bytes(1183)},
        {"report": bytes(1185)},
        {"report": "text"},
        {"certificates": []},
        {"certificates": {"pck": b"a"}},
        {"certificates": {"vcek": b""}},
        {"certificates": {"vcek": "text"}},
        {"certificates": {"vcek": bytes(MAX_CERTIFICATE + 1)}},
    ],
)
def test_evidence_of_another_form_is_refused(changes: dict[str, object]) -> None:
    right = {"kind": "snp", "report": bytes(1184), "certificates": {}}
    SnpEvidence.parse(cbor.encode(right))
    with pytest.raises(EvidenceError):
        SnpEvidence.parse(cbor.encode({**right, **changes}))


@given(st.binary(max_size=200))
def test_any_bytes_are_evidence_or_collateral_or_refused(data: bytes) -> None:
    for parse in (SnpEvidence.parse, SnpCollateral.parse, parse_table):
        try:
            parse(data)
        except EvidenceError:
            continue


def test_the_hosts_certificates_have_to_reach_the_root() -> None:
    shown = SnpEvidence.parse(world().evidence(REPORT_DATA))
    assert shown.collateral() is not None
    for name in ("vcek", "ask", "ark"):
        fewer = {key: value for key, value in shown.certificates.items() if key != name}
        assert SnpEvidence(shown.report, fewer).collateral() is None
    renamed = {"vlek" if key == "vcek" else key: value for key, value in shown.certificates.items()}
    assert SnpEvidence(shown.report, renamed).collateral() is None


# --- AMD's service, as the world plays it


@pytest.mark.parametrize("product", list(Product))
def test_the_worlds_service_gives_what_the_world_gives(product: Product) -> None:
    machine = world(product=product)
    size = HARDWARE_ID_SIZES[product]
    names = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
    query = "&".join(f"{names[name]}={level}" for name, level in machine.tcb.levels.items())
    leaf = machine.kds(f"/vcek/v1/{product}/{machine.chip_id[:size].hex()}?{query}")
    chain, crl = machine.kds(f"/vcek/v1/{product}/cert_chain"), machine.kds(f"/vcek/v1/{product}/crl")
    assert leaf is not None
    assert chain is not None
    found = verify_chain(SnpCollateral.from_kds(leaf, chain, crl), machine.roots, NOW)
    assert found.vek.tcb == machine.tcb
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    own = parse_vek(SnpCollateral.parse(machine.collateral()).vek)
    assert found.vek.key.public_bytes(encoding, form) == own.key.public_bytes(encoding, form)
    lower = machine.kds(f"/vcek/v1/{product}/{machine.chip_id[:size].hex()}?snpSPL=1")
    assert lower is not None
    assert parse_vek(lower).key.public_bytes(encoding, form) != own.key.public_bytes(encoding, form)


def test_the_worlds_service_for_a_clouds_key() -> None:
    machine = world(provider="lab cloud")
    leaf, chain = (
        machine.kds("/vlek/v1/Genoa/cert?blSPL=10&snpSPL=26&ucodeSPL=84"),
        machine.kds("/vlek/v1/Genoa/cert_chain"),
    )
    assert leaf is not None
    assert chain is not None
    assert verify_chain(SnpCollateral.from_kds(leaf, chain, None), machine.roots, NOW).vek.provider == "lab cloud"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/vcek/v1/Milan/cert_chain",
        "/vcek/v2/Genoa/cert_chain",
        "/other/v1/Genoa/cert_chain",
        "/vcek/v1/Genoa/" + "00" * 64,
        "/vcek/v1/Genoa/{chip}?blSPL=x",
        "/vcek/v1/Genoa/{chip}?fmcSPL=1",
        "/vcek/v1/Genoa/{chip}?blSPL=256",
        "/vlek/v1/Genoa/cert?blSPL=1",
    ],
)
def test_what_the_service_does_not_have(path: str) -> None:
    machine = world()
    assert machine.kds(path.replace("{chip}", machine.chip_id.hex())) is None


def test_a_chain_of_the_service_is_two_certificates() -> None:
    genoa = pki(Product.GENOA)
    leaf = SnpCollateral.parse(world().collateral()).vek
    for chain in (b"", b"nonsense", genoa.ark.pem, genoa.ask.pem + genoa.ark.pem * 2, bytes(64 * 1024)):
        with pytest.raises(EvidenceError, match="certificate chain"):
            SnpCollateral.from_kds(leaf, chain, None)


# --- the host's table


def test_tables_go_to_bytes_and_back() -> None:
    certificates = {"vcek": b"\x30first", "ask": b"\x30second", "ark": b"\x30third", "crl": b"\x30fourth"}
    table = make_table(certificates)
    assert parse_table(table) == certificates
    assert parse_table(table + bytes(4096)) == certificates  # the kernel gives whole pages
    assert parse_table(b"") == {}
    assert parse_table(bytes(24)) == {}


def test_pem_in_a_table_becomes_der() -> None:
    genoa = pki(Product.GENOA)
    assert parse_table(make_table({"ask": genoa.ask.pem, "ark": genoa.ark.der})) == {
        "ask": genoa.ask.der,
        "ark": genoa.ark.der,
    }
    for broken in (b"-----BEGIN CERTIFICATE-----\n", genoa.ask.pem[:-40], genoa.ask.pem.replace(b"M", b"*", 1)):
        with pytest.raises(EvidenceError, match="PEM"):
            parse_table(make_table({"ask": broken}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[:24], "without its last entry"),
        (lambda table: table[:16] + (0).to_bytes(4, "little") + table[20:], "outside the table"),
        (lambda table: table[:16] + (2**32 - 1).to_bytes(4, "little") + table[20:], "outside the table"),
        (lambda table: table[:20] + (2**32 - 1).to_bytes(4, "little") + table[24:], "outside the table"),
        (lambda table: table[:20] + (0).to_bytes(4, "little") + table[24:], "of 0 bytes"),
        (lambda table: _entry(table, 72) * 2 + table[24:], "twice"),
        (lambda table: (b"\7" * 24) * 40 + table, "more than 32 entries"),
        (lambda table: table + bytes(MAX_TABLE), "at most"),
    ],
)
def test_a_broken_table_is_refused(change: object, words: str) -> None:
    table = make_table({"vcek": b"\x30" + bytes(60)})
    assert callable(change)
    with pytest.raises(EvidenceError, match=words):
        parse_table(change(table))


def test_unknown_entries_are_left_out() -> None:
    table = make_table({"vcek": b"\x30" + bytes(60)})
    assert parse_table(b"\7" * 24 + table[:16] + (72).to_bytes(4, "little") + table[20:]) == {
        "vcek": b"\x30" + bytes(60)
    }
