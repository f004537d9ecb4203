"""The TPM's structures: real ones of a cloud, edges of every field, and noise."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.tpm import algorithms as alg
from attestation.tpm.attest import Signature, parse_quote, parse_signature
from attestation.tpm.evidence import MAX_EVIDENCE, is_tpm_evidence, parse_evidence
from attestation.tpm.keys import ATTESTATION_KEY, parse_public
from attestation.tpm.logs import BootLogs, SystemEvent
from attestation.tpm.marshal import MAX_STRUCTURE, sized
from attestation.tpm.references import TpmReference, image_hash
from measurements.errors import EventLogError

if TYPE_CHECKING:
    from pathlib import Path

    from tpm_support import Made

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP384R1())
GOOD = sum(bit for bit, wanted in ATTESTATION_KEY.items() if wanted)


def number(value: int, size: int = 2) -> bytes:
    return value.to_bytes(size, "big")


def rsa_public(
    *, bits: int = 2048, exponent: int = 0, modulus: int | None = None, scheme: bytes | None = None
) -> bytes:
    """TPM2B_PUBLIC of an RSA signing key."""
    value = RSA_KEY.public_key().public_numbers().n if modulus is None else modulus
    unique = sized(value.to_bytes((value.bit_length() + 7) // 8, "big"))
    chosen = number(alg.RSASSA) + number(alg.SHA256) if scheme is None else scheme
    head = number(alg.RSA) + number(alg.SHA256) + number(GOOD, 4) + sized(b"")
    return sized(head + number(alg.NULL) + chosen + number(bits) + number(exponent, 4) + unique)


def ecc_public(*, curve: int = 4, x: int | None = None, name_algorithm: int = 0xC) -> bytes:
    """TPM2B_PUBLIC of a P-384 signing key."""
    numbers = EC_KEY.public_key().public_numbers()
    head = number(alg.ECC) + number(name_algorithm) + number(GOOD, 4) + sized(b"")
    scheme = number(alg.NULL) + number(alg.ECDSA) + number(0xC)
    point = sized((numbers.x if x is None else x).to_bytes(48, "big")) + sized(numbers.y.to_bytes(48, "big"))
    return sized(head + scheme + number(curve) + number(alg.NULL) + point)


def test_an_azure_machines_quote(shared: Path) -> None:
    """Source: github.com/kinvolk/azure-cvm-tooling, az-cvm-vtpm/test: signature, statement, registers, key."""
    folder = shared / "samples/kinvolk__azure-cvm-tooling/az-cvm-vtpm/test"
    raw = (folder / "quote.bin").read_bytes()
    signature, message, registers = raw[8:264], raw[272:394], [raw[i : i + 32] for i in range(402, len(raw), 32)]
    quote = parse_quote(message)
    assert quote.extra == b"challenge"
    assert quote.selection == ((alg.SHA256, tuple(range(24))),)
    assert quote.digest == hashlib.sha256(b"".join(registers)).digest()
    assert (quote.clock.milliseconds, quote.clock.resets, quote.clock.restarts, quote.clock.safe) == (
        3131573,
        3,
        0,
        True,
    )
    key = serialization.load_pem_public_key((folder / "akpub.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    parsed = parse_signature(number(alg.RSASSA) + number(alg.SHA256) + sized(signature))
    assert parsed.holds(key, message)
    assert not parsed.holds(key, message[:-1] + b"\0")


def test_keys_have_the_names_that_their_public_areas_give() -> None:
    for data, key, hashed in ((rsa_public(), RSA_KEY, "sha256"), (ecc_public(), EC_KEY, "sha384")):
        public = parse_public(data)
        assert public.key == key.public_key()
        assert public.name == data[4:6] + hashlib.new(hashed, data[2:]).digest()
        assert public.wrong_attributes() == ()
        for handle, name in ((0x40000001, "owner"), (0x40000007, "null"), (0x4000000B, "endorsement"), (0x1, "")):
            qualified = data[4:6] + hashlib.new(hashed, handle.to_bytes(4, "big") + public.name).digest()
            assert public.hierarchy(qualified) == name


def test_signatures_of_every_scheme_that_is_read() -> None:
    message = b"statement"
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    r, s = utils.decode_dss_signature(EC_KEY.sign(message, ec.ECDSA(hashes.SHA384())))
    made = {
        "rsassa": number(alg.RSASSA) + number(0xB) + sized(RSA_KEY.sign(message, padding.PKCS1v15(), hashes.SHA256())),
        "rsapss": number(alg.RSAPSS) + number(0xB) + sized(RSA_KEY.sign(message, pss, hashes.SHA256())),
        "ecdsa": number(alg.ECDSA) + number(0xC) + sized(r.to_bytes(48, "big")) + sized(s.to_bytes(48, "big")),
    }
    for name, data in made.items():
        right, wrong = (EC_KEY, RSA_KEY) if name == "ecdsa" else (RSA_KEY, EC_KEY)
        assert parse_signature(data).holds(right.public_key(), message), name
        assert not parse_signature(data).holds(right.public_key(), b"other"), name
        assert not parse_signature(data).holds(wrong.public_key(), message), name
        with pytest.raises(EvidenceError, match="trailing"):
            parse_signature(data + b"\0")
    assert not Signature(alg.ECDSA, alg.SHA256, b"").holds(RSA_KEY.public_key(), message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside"),
        (rsa_public()[:-1], "ends inside"),
        (rsa_public() + b"\0", "trailing"),
        (sized(rsa_public()[2:] + b"\0"), "trailing"),
        (sized(bytes(1025)), "at most 1024"),
        (bytes(MAX_STRUCTURE + 1), "at most"),
        (sized(number(8) + rsa_public()[4:]), "type 0x0008"),
        (rsa_public()[:4] + number(4) + rsa_public()[6:], "hash algorithm 0x0004"),
        (rsa_public(bits=1024, modulus=2**1023 + 1), "1024 bits"),
        (rsa_public(bits=4096), "2048 bits, stated as 4096"),
        (rsa_public(bits=8192, modulus=2**4095 + 1), "stated as 8192"),
        (rsa_public(exponent=2), "RSA key that is none"),
        (ecc_public(curve=0x10), "curve 0x0010"),
        (ecc_public(x=1), "elliptic-curve key that is none"),
    ],
)
def test_public_areas_that_are_none(data: bytes, message: str) -> None:
    assert parse_public(rsa_public(scheme=number(alg.NULL))).scheme == alg.NULL  # the control
    with pytest.raises(EvidenceError, match=message):
        parse_public(data)


def test_quotes_that_are_none(made: Made) -> None:
    good = made.evidence.quote
    assert parse_quote(good).selection
    selection = good.index(b"\0\x0b\3")
    bad = {
        "TPM_GENERATED": b"\0" + good[1:],
        "expected a quote": good[:4] + b"\x80\x17" + good[6:],
        "trailing": good + b"\0",
        "ends inside": good[:-1],
        "at most 68": good[:6] + number(69) + good[8:],
        "flag of 2": good[: selection - 13] + b"\2" + good[selection - 12 :],
        "9 banks": good[: selection - 4] + number(9, 4) + good[selection:],
        "selection of 5": good[: selection + 2] + b"\5" + good[selection + 3 :],
    }
    for message, data in bad.items():
        with pytest.raises(EvidenceError, match=message):
            parse_quote(data)


def test_logs_that_are_none() -> None:
    good = {"firmware": b"", "system": [[14, bytes(32), "text"]]}
    assert BootLogs.from_plain(good).system == (SystemEvent(14, bytes(32), "text"),)
    assert BootLogs.decode(BootLogs.from_plain(good).encode()) == BootLogs.from_plain(good)
    with pytest.raises(EventLogError):
        BootLogs.from_plain(good).replay()
    for bad in (
        None,
        {},
        {**good, "more": 1},
        {**good, "firmware": "text"},
        {**good, "firmware": bytes(2**20 + 1)},
        {**good, "system": {}},
        {**good, "system": [[14, bytes(32), "text"]] * 513},
        {**good, "system": [[True, bytes(32), "text"]]},
        {**good, "system": [[-1, bytes(32), "text"]]},
        {**good, "system": [[14, bytes(31), "text"]]},
        {**good, "system": [[14, bytes(32), "x" * 201]]},
        {**good, "system": [[14, bytes(32)]]},
        {**good, "system": ["text"]},
    ):
        with pytest.raises(EvidenceError):
            BootLogs.from_plain(bad)


def test_identity_and_references_want_their_registers() -> None:
    registers = {register: bytes([register]) * 32 for register in range(16)}
    identity = {register: registers[register] for register in (4, 9, 11, 12, 14)}
    assert image_hash(registers) == image_hash(identity)
    for register in identity:
        assert image_hash({**identity, register: bytes(32)}) != image_hash(identity)
        with pytest.raises(EvidenceError, match=f"pcr{register}"):
            image_hash({key: value for key, value in identity.items() if key != register})
    assert TpmReference("r", identity).differing({**registers, 9: bytes(32)}) == (9,)
    for wrong in ({4: bytes(32)}, {**identity, 0: bytes(32)}, {**identity, 4: b""}):
        with pytest.raises(EvidenceError, match="reference 'r'"):
            TpmReference("r", wrong)


def test_the_form_of_evidence_tells_its_kind(made: Made) -> None:
    assert is_tpm_evidence(made.certificate_form)
    assert is_tpm_evidence(b"\xa0")
    for other in (b"", b"\4\0\2\0", b"\5\0\2\0"):
        assert not is_tpm_evidence(other)
    with pytest.raises(EvidenceError, match="at most"):
        parse_evidence(bytes(MAX_EVIDENCE + 1))


@given(st.binary(max_size=200), st.integers(0, 120))
def test_noise_raises_the_declared_error_alone(noise: bytes, offset: int) -> None:
    """Noise alone, and structures that are right up to an offset."""
    for parse, good in ((parse_public, ecc_public()), (parse_public, rsa_public()), (parse_signature, _SIGNATURE),
                        (parse_quote, _QUOTE), (parse_evidence, b"\xa8"), (BootLogs.decode, b"\xa2")):  # fmt: skip
        for data in (noise, good[:offset] + noise, good[:offset] + noise + good[offset + len(noise) :]):
            with contextlib.suppress(EvidenceError):
                parse(data)


_SIGNATURE = number(alg.ECDSA) + number(alg.SHA256) + sized(bytes(32)) + sized(b"\1" * 32)
_QUOTE = (
    bytes.fromhex("ff5443478018") + sized(bytes(34)) + sized(bytes(32)) + bytes(17) + bytes(8)
    + number(1, 4) + bytes.fromhex("000b03ffff00") + sized(bytes(32))
)  # fmt: skip
_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**40) | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=9),
    max_leaves=12,
)


@given(_TREES, st.sampled_from(["kind", "version", "quote", "signature", "key", "chain", "registers", "logs"]))
def test_maps_with_a_wrong_value_raise_the_declared_error_alone(value: object, field: str) -> None:
    good = {
        "kind": "tpm",
        "version": 1,
        "quote": b"q",
        "signature": b"s",
        "key": b"k",
        "chain": [b"c"],
        "registers": [bytes(32)] * 16,
        "logs": {"firmware": b"", "system": []},
    }
    assert parse_evidence(cbor.encode(good)).encode() == cbor.encode(good)
    with contextlib.suppress(EvidenceError):
        data = cbor.encode({**good, field: value})
        assert parse_evidence(data).encode() == data
