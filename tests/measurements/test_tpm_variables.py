"""Variable stores and secure boot: what firmware derives, what it measures, and stores that are none."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import struct
from uuid import UUID

import measure_support as images
import ovmf_support as ovmf
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.secure_boot import SecureBootKeys
from measurements import authenticode, secure_boot, variable_store
from measurements.errors import ArtefactError
from measurements.variable_store import (
    GLOBAL,
    IMAGE_SECURITY,
    SECURE_BOOT_ENABLE,
    SHA256,
    X509,
    SignatureEntry,
    VariableStore,
    parse_store,
    signatures,
    variable_data,
)

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
KEYS = SecureBootKeys.new(NOW)
OTHERS = SecureBootKeys.new(NOW)
OF_DATA = bytes.fromhex("300f06092a864886f70d010701a0020400")
"""A ContentInfo of type ``data`` (RFC 5652, section 4) where a signature is expected."""


def enrolled(keys: SecureBootKeys = KEYS) -> VariableStore:
    """A store as a host leaves it that enrolled keys of its own."""
    return parse_store(ovmf.store(*((item.vendor, item.name, item.data) for item in keys.variables())))


def digest(vendor: UUID, name: str, value: bytes) -> bytes:
    return hashlib.sha256(variable_data(vendor, name, value)).digest()


@pytest.mark.parametrize("authenticated", [True, False])
def test_variables_are_read(authenticated: bool) -> None:
    store = parse_store(ovmf.store((GLOBAL, "PK", b"pk"), (GLOBAL, "Lang", b""), authenticated=authenticated))
    assert {name: item.data for (_, name), item in store.variables.items()} == {"PK": b"pk", "Lang": b""}
    assert store.data(GLOBAL, "PK") == b"pk"
    assert store.data(IMAGE_SECURITY, "PK") == b""
    assert store.variables[GLOBAL, "PK"].attributes == 7


def test_deleted_variables_are_none_and_one_that_is_being_replaced_holds() -> None:
    written = ((GLOBAL, "a", b"old"), (GLOBAL, "a", b"new"), (GLOBAL, "b", b"kept"), (GLOBAL, "c", b"gone"))
    store = parse_store(ovmf.store(*written, states=(0x3E, 0x3F, 0x3E, 0x3C)))
    assert {name: item.data for (_, name), item in store.variables.items()} == {"a": b"new", "b": b"kept"}
    with pytest.raises(ArtefactError, match="two variables a"):
        parse_store(ovmf.store(*written, states=(0x3F, 0x3F, 0x3E, 0x3C)))


def test_a_machine_that_ran_is_seen_in_its_variables() -> None:
    assert not parse_store(ovmf.store((GLOBAL, "Lang", b"en"))).booted
    assert parse_store(ovmf.store((GLOBAL, "Boot0000", b"x"))).booted
    assert not parse_store(ovmf.store((UUID(int=1), "Boot0000", b"x"))).booted


@pytest.mark.parametrize(
    ("variables", "enforced"),
    [
        ((), False),
        (((GLOBAL, "PK", b"pk"),), True),
        (((GLOBAL, "PK", b"pk"), (SECURE_BOOT_ENABLE, "SecureBootEnable", b"\1")), True),
        (((GLOBAL, "PK", b"pk"), (SECURE_BOOT_ENABLE, "SecureBootEnable", b"\0")), False),
        (((SECURE_BOOT_ENABLE, "SecureBootEnable", b"\1"),), False),
    ],
)
def test_secure_boot_is_derived_as_firmware_does(
    variables: tuple[tuple[UUID, str, bytes], ...], enforced: bool
) -> None:
    store = parse_store(ovmf.store(*variables))
    assert store.secure_boot is enforced
    first = secure_boot.policy(store, known=True)[0]
    assert first.digest == digest(GLOBAL, "SecureBoot", b"\1" if enforced else b"\0")
    assert secure_boot.policy(store, known=False)[0].digest == digest(GLOBAL, "SecureBoot", b"")


def test_the_variables_of_secure_boot_are_measured_in_order() -> None:
    store = parse_store(ovmf.store((IMAGE_SECURITY, "dbt", b"t"), (GLOBAL, "PK", b"pk"), (IMAGE_SECURITY, "db", b"d")))
    events = secure_boot.policy(store, known=True)
    assert [event.name for event in events] == [
        f"variable {name}" for name in ("SecureBoot", "PK", "KEK", "db", "dbx", "dbt")
    ]
    assert events[1].digest == digest(GLOBAL, "PK", b"pk")
    assert events[4].digest == digest(IMAGE_SECURITY, "dbx", b"")
    assert [len(secure_boot.policy(parse_store(ovmf.store()), known=known)) for known in (True, False)] == [5, 5]


def test_variable_data_has_firmwares_layout() -> None:
    assert variable_data(GLOBAL, "PK", b"\1\2") == GLOBAL.bytes_le + struct.pack("<QQ", 2, 2) + b"P\0K\0\1\2"


def test_who_vouches_for_a_signed_image_is_measured() -> None:
    image = KEYS.sign(images.uki())
    event = secure_boot.authority(enrolled(), image)
    assert event.digest == digest(IMAGE_SECURITY, "db", KEYS.entry)
    with pytest.raises(ArtefactError, match="1 certificates that no entry of db vouches for"):
        secure_boot.authority(enrolled(OTHERS), image)
    with pytest.raises(ArtefactError, match="0 certificates"):
        secure_boot.authority(enrolled(), images.uki())


def test_contents_are_what_events_are_digests_of() -> None:
    """Other banks hash the same bytes."""
    contents = secure_boot.policy_contents(enrolled(), known=True)
    events = secure_boot.policy(enrolled(), known=True)
    assert [hashlib.sha256(content).digest() for _, content in contents] == [event.digest for event in events]
    image = KEYS.sign(images.uki())
    content = secure_boot.authority_content(enrolled(), image)
    assert hashlib.sha256(content).digest() == secure_boot.authority(enrolled(), image).digest


def test_the_first_entry_that_vouches_is_measured() -> None:
    listed = ovmf.signature_list(X509, b"no certificate") + ovmf.signature_list(X509, KEYS.certificate)
    store = parse_store(ovmf.store((IMAGE_SECURITY, "db", listed)))
    event = secure_boot.authority(store, KEYS.sign(images.uki()))
    assert event.digest == digest(IMAGE_SECURITY, "db", b"o" * 16 + KEYS.certificate)


def test_an_unsigned_image_may_be_listed_by_its_digest() -> None:
    image = images.uki()
    listed = ovmf.signature_list(SHA256, bytes(32), authenticode.digest(image))
    store = parse_store(ovmf.store((IMAGE_SECURITY, "db", listed)))
    event = secure_boot.authority(store, image)
    assert event.digest == digest(IMAGE_SECURITY, "db", b"o" * 16 + authenticode.digest(image))
    with pytest.raises(ArtefactError, match="vouches"):
        secure_boot.authority(store, images.uki({".osrel": b"ID=other\n"}))


def test_an_image_that_is_revoked_is_not_predicted() -> None:
    """By its digest or by its signer's certificate; an entry about something else changes nothing."""
    image = KEYS.sign(images.uki())
    listed = (IMAGE_SECURITY, "db", ovmf.signature_list(X509, KEYS.certificate))
    for other in (ovmf.signature_list(SHA256, bytes(32)), ovmf.signature_list(X509, OTHERS.certificate)):
        secure_boot.authority(parse_store(ovmf.store(listed, (IMAGE_SECURITY, "dbx", other))), image)
    revoked = ovmf.signature_list(SHA256, authenticode.digest(image)), ovmf.signature_list(X509, KEYS.certificate)
    for entry in revoked:
        with pytest.raises(ArtefactError, match="an entry of dbx revokes"):
            secure_boot.authority(parse_store(ovmf.store(listed, (IMAGE_SECURITY, "dbx", entry))), image)


def test_a_certificate_with_an_unknown_kind_of_key_vouches_for_nothing() -> None:
    """It is passed over as one that cannot be read is; the next entry counts."""
    plain = b"\x06\x03\x2b\x65\x70"  # id-Ed25519, RFC 8410
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unknown")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    made = made.not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1))
    odd = made.sign(key, None).public_bytes(Encoding.DER).replace(plain, plain[:-1] + b"\x01")
    listed = ovmf.signature_list(X509, odd) + ovmf.signature_list(X509, KEYS.certificate)
    image = KEYS.sign(images.uki())
    event = secure_boot.authority(parse_store(ovmf.store((IMAGE_SECURITY, "db", listed))), image)
    assert event.digest == digest(IMAGE_SECURITY, "db", b"o" * 16 + KEYS.certificate)


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        (struct.pack("<IHH", 16, 0x200, 0x0EF1) + bytes(8), "of kind 0xef1"),
        (struct.pack("<IHH", 17, 0x200, 2) + bytes(8), "17 bytes in a table of 16"),
        (struct.pack("<IHH", 16, 0x200, 2) + bytes(8), "signature cannot be read"),
        (struct.pack("<IHH", 25, 0x200, 2) + OF_DATA, "signature cannot be read"),
    ],
)
def test_signatures_that_are_none_are_refused(certificate: bytes, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        secure_boot.authority(enrolled(), images.uki(certificate=certificate))


def test_signature_databases_are_read() -> None:
    listed = ovmf.signature_list(SHA256, b"a" * 32, b"b" * 32) + ovmf.signature_list(X509, b"certificate")
    assert signatures(listed) == (
        SignatureEntry(SHA256, b"o" * 16 + b"a" * 32),
        SignatureEntry(SHA256, b"o" * 16 + b"b" * 32),
        SignatureEntry(X509, b"o" * 16 + b"certificate"),
    )
    assert signatures(b"") == ()
    with pytest.raises(ArtefactError, match="more than 8192 entries"):
        signatures(ovmf.signature_list(SHA256, *(b"a" * 4 for _ in range(variable_store.MAX_SIGNATURES + 1))))
    for bad in (listed[:-1], listed + b"more", listed[:24] + b"\0\0\0\0" + listed[28:], listed[:20] + b"\xff" * 12):
        with pytest.raises(ArtefactError, match="signature"):
            signatures(bad)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (b"", "do not begin with a variable store"),
        (ovmf.firmware(), "do not begin with a variable store"),
        (ovmf.store()[:90], "ends inside its header"),
        (ovmf.store()[:-1], r"variable store of \d+ bytes in a file"),
        (ovmf.store()[:92] + b"\0" + ovmf.store()[93:], "state 0x0 0xfe"),
        (ovmf.store()[:72] + b"y" + ovmf.store()[73:], "of format"),
        (
            ovmf.store((GLOBAL, "PK", b""))[:140] + b"\xff\xff\xff" + ovmf.store((GLOBAL, "PK", b""))[143:],
            "that ends at",
        ),
        (
            ovmf.store(*((GLOBAL, f"v{n}", b"") for n in range(variable_store.MAX_VARIABLES + 1))),
            "more than 4096 variables",
        ),
    ],
)
def test_what_is_no_store_is_refused(store: bytes, message: str) -> None:
    assert parse_store(ovmf.store((GLOBAL, "PK", b""))).variables  # the control
    with pytest.raises(ArtefactError, match=message):
        parse_store(store)


def test_a_variable_that_was_never_written_to_its_end_is_none() -> None:
    good = ovmf.store((GLOBAL, "PK", b"pk"))
    never = good[: 100 + 2] + b"\xff" + good[103 : 100 + 36] + b"\xff" * 8 + good[100 + 44 :]
    assert parse_store(never).variables == {}


@given(st.integers(16, 260), st.binary(min_size=1, max_size=8))
def test_damaged_stores_raise_the_declared_error_alone(offset: int, patch: bytes) -> None:
    good = ovmf.store((GLOBAL, "PK", b"pk"), (IMAGE_SECURITY, "db", ovmf.signature_list(SHA256, b"a" * 32)))
    with contextlib.suppress(ArtefactError):
        store = parse_store(good[:offset] + patch + good[offset + len(patch) :])
        secure_boot.policy(store, known=True)
        signatures(store.data(IMAGE_SECURITY, "db"))


@given(st.binary(max_size=200))
def test_noise_is_no_database(noise: bytes) -> None:
    with contextlib.suppress(ArtefactError):
        signatures(noise)
    with contextlib.suppress(ArtefactError):
        parse_store(ovmf.store()[:100] + noise.ljust(256, b"\xff"))
