"""What meets bytes from a cloud: the paravisor's report, its runtime data, the instance extension."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.cloud_world_azure import wrapped
from appliance.lab.cloud_world_gcp import INSTANCE, encode_instance
from attestation.azure.hcl import HARDWARE_SIZE, MAX_RUNTIME, parse_hcl, trimmed
from attestation.azure.runtime import parse_runtime
from attestation.errors import EvidenceError
from attestation.gcp.instance import Instance, Security, parse_instance

if TYPE_CHECKING:
    from collections.abc import Callable

HARDWARE = bytes(range(256)) * 4 + bytes(160)
RUNTIME = b'{"keys":[]}'
REPORT = wrapped(HARDWARE, RUNTIME, 2)


def at(offset: int, value: int) -> bytes:
    return REPORT[:offset] + struct.pack("<I", value) + REPORT[offset + 4 :]


class TestReport:
    def test_it_is_read(self) -> None:
        report = parse_hcl(REPORT)
        assert (report.kind, report.hardware, report.runtime, report.version) == ("snp", HARDWARE, RUNTIME, 2)
        assert report.bound == hashlib.sha256(RUNTIME).digest() + bytes(32)

    def test_a_td_report_is_shorter(self) -> None:
        report = parse_hcl(wrapped(HARDWARE[:1024], RUNTIME, 4))
        assert (report.kind, report.hardware) == ("tdx", HARDWARE[:1024])

    def test_zeros_behind_it_are_cut(self) -> None:
        padded = REPORT.ljust(2600, b"\0")
        assert parse_hcl(padded) == parse_hcl(REPORT)
        assert trimmed(padded) == REPORT

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param(b"", "expected at least", id="empty"),
            pytest.param(REPORT[:1235], "expected at least", id="cut in the header"),
            pytest.param(REPORT[:-1], "lengths", id="cut in the runtime data"),
            pytest.param(bytes(9000), "at most", id="too long"),
            pytest.param(b"HCLB" + REPORT[4:], "begins with", id="magic"),
            pytest.param(at(4, 3), "version 3", id="version"),
            pytest.param(at(4, 0), "version 0", id="version 0"),
            pytest.param(at(8, len(REPORT) + 1), "lengths", id="length"),
            pytest.param(at(12, 1), "request 1", id="request"),
            pytest.param(at(16, 1), "status 1", id="status"),
            pytest.param(at(20, 1), "request", id="reserved"),
            pytest.param(at(28, 1), "request", id="reserved, last"),
            pytest.param(at(32 + HARDWARE_SIZE, 7), "lengths", id="inner length"),
            pytest.param(at(32 + HARDWARE_SIZE + 4, 2), "data of 2", id="inner version"),
            pytest.param(at(32 + HARDWARE_SIZE + 8, 1), "kind 1", id="virtualisation-based security"),
            pytest.param(at(32 + HARDWARE_SIZE + 12, 2), "SHA-384", id="another hash"),
            pytest.param(at(32 + HARDWARE_SIZE + 12, 9), "hashed by 9", id="unknown hash"),
            pytest.param(at(32 + HARDWARE_SIZE + 16, 0), "runtime data of 0", id="no runtime data"),
            pytest.param(at(32 + HARDWARE_SIZE + 16, 2**32 - 1), "runtime data of", id="absurd runtime data"),
            pytest.param(REPORT + b"\0\1", "not zero", id="trailing"),
            pytest.param(wrapped(b"\1" * 1100, RUNTIME, 4), "TD report followed", id="behind a TD report"),
        ],
    )
    def test_what_is_none_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(EvidenceError, match=reason):
            parse_hcl(data)

    @given(st.binary(min_size=1, max_size=MAX_RUNTIME), st.integers(0, 500))
    def test_what_was_put_in_comes_out(self, runtime: bytes, padding: int) -> None:
        data = wrapped(HARDWARE, runtime, 2)
        assert parse_hcl(data + bytes(padding)).runtime == runtime

    @given(st.integers(0, len(REPORT) - 1), st.integers(1, 255))
    def test_a_changed_byte_is_refused_or_seen(self, offset: int, flip: int) -> None:
        data = bytearray(REPORT)
        data[offset] ^= flip
        try:
            report = parse_hcl(bytes(data))
        except EvidenceError:
            return
        assert report != parse_hcl(REPORT), "every byte means something"

    @given(st.binary(max_size=2048))
    def test_nothing_else_is_raised(self, data: bytes) -> None:
        for attempt in (data, REPORT[:1236] + data, b"HCLA" + data):
            try:
                parse_hcl(attempt)
            except EvidenceError:
                continue


def base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


NUMBERS = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
KEY = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": base64url(NUMBERS.n)}


def runtime(**changes: Any) -> bytes:
    value = {"keys": [KEY], "vm-configuration": {"tpm-enabled": True}, "user-data": "Ab" * 64, **changes}
    return json.dumps({name: item for name, item in value.items() if item != "left out"}).encode()


class TestRuntimeData:
    def test_it_is_read(self) -> None:
        found = parse_runtime(runtime())
        assert isinstance(found.key, rsa.RSAPublicKey)
        assert (found.key.key_size, found.user_data, found.settings) == (2048, b"\xab" * 64, {"tpm-enabled": True})

    def test_early_paravisors_have_no_user_data(self) -> None:
        assert parse_runtime(runtime(**{"user-data": "left out", "vm-configuration": "left out"})).user_data is None

    def test_other_keys_are_left_alone(self) -> None:
        other = {"kid": "HCLEkPub", "kty": "EC"}
        assert parse_runtime(runtime(keys=[other, KEY])) == parse_runtime(runtime())

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param(b"", "not JSON", id="empty"),
            pytest.param(b"\xff", "not JSON", id="not text"),
            pytest.param(b"[" * 4000, "not JSON", id="deep"),
            pytest.param(b"[]", "not a JSON object", id="a list"),
            pytest.param(b'{"keys": [], "keys": []}', "twice", id="a name twice"),
            pytest.param(b'{"keys": [{"kid": 1, "kid": 2}]}', "twice", id="a name twice inside"),
            pytest.param(b'{"keys": NaN}', "NaN", id="no number"),
            pytest.param(b'{"keys": [], "n": ' + b"9" * 5000 + b"}", "not JSON", id="an endless number"),
            pytest.param(runtime(keys="left out"), "list of at most", id="no keys"),
            pytest.param(runtime(keys=[]), "0 keys", id="not the key"),
            pytest.param(runtime(keys=[KEY, KEY]), "2 keys", id="the key twice"),
            pytest.param(runtime(keys=[KEY] * 9), "list of at most", id="too many keys"),
            pytest.param(runtime(keys=[{**KEY, "kty": "EC"}]), "type 'EC'", id="another kind of key"),
            pytest.param(runtime(keys=[{**KEY, "n": "AQAB"}]), "17 bits", id="a short key"),
            pytest.param(runtime(keys=[{**KEY, "n": 5}]), "base64url", id="a key that is a number"),
            pytest.param(runtime(keys=[{**KEY, "n": KEY["n"] + "="}]), "base64url", id="padded"),
            pytest.param(runtime(keys=[{**KEY, "n": "A"}]), "base64url", id="one character"),
            pytest.param(runtime(keys=[{**KEY, "e": "Ag"}]), "is none", id="an even exponent"),
            pytest.param(runtime(keys=[{**KEY, "e": ""}]), "base64url", id="no exponent"),
            pytest.param(runtime(**{"user-data": "ab"}), "hex of 64", id="short user data"),
            pytest.param(runtime(**{"user-data": "zz" * 64}), "hex of 64", id="user data that is no hex"),
            pytest.param(runtime(**{"user-data": 5}), "hex of 64", id="user data that is a number"),
            pytest.param(runtime(**{"vm-configuration": []}), "not an object", id="settings that are a list"),
            pytest.param(runtime(**{"vm-configuration": {"a": "b" * 300}}), "over 256", id="a long setting"),
            pytest.param(
                runtime(**{"vm-configuration": {str(i): i for i in range(65)}}), "at most 64", id="too many settings"
            ),
        ],
    )
    def test_what_is_none_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(EvidenceError, match=reason):
            parse_runtime(data)

    @given(st.binary(max_size=600))
    def test_nothing_else_is_raised(self, data: bytes) -> None:
        with pytest.raises(EvidenceError):
            parse_runtime(data)

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                                    max_size=3), max_leaves=8),
           st.sampled_from(["keys", "vm-configuration", "user-data"]))  # fmt: skip
    def test_any_json_is_read_or_refused(self, value: Any, name: str) -> None:
        try:
            parse_runtime(runtime(**{name: value}))
        except EvidenceError:
            return


REAL = bytes.fromhex(
    "30590c0d75732d63656e7472616c312d61020600e7af735e9c0c08636f72652d65736f02085a8c6235b897b1850c0a696e7374616e63652d31"
    "a020301ea003020100a1030101ffa2030101ffa303010100a403010100a503010100"
)
"""Of a production machine's certificate that github.com/salrashid123/gcp-vtpm-ek-ak shows (README, Apache-2.0)."""


class TestInstance:
    def test_a_real_one_is_read(self) -> None:
        assert parse_instance(REAL) == Instance(
            zone="us-central1-a",
            project_number=995081019036,
            project_id="core-eso",
            instance_id=6524697943022743941,
            instance_name="instance-1",
            security=Security(production=True, tpm_data_always_encrypted=True),
        )

    def test_without_security_properties_nothing_is_promised(self) -> None:
        bare = bytes((0x30, len(REAL) - 2 - 34)) + REAL[2:-34]
        assert parse_instance(bare).security == Security()

    def test_instances_are_told_apart_by_their_numbers(self) -> None:
        assert parse_instance(encode_instance(INSTANCE)) == INSTANCE
        assert parse_instance(REAL).machine != INSTANCE.machine

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda data: b"", id="empty"),
            pytest.param(lambda data: data[:-1], id="cut"),
            pytest.param(lambda data: data + b"\0", id="trailing"),
            pytest.param(lambda data: data.replace(b"\x0c\x0d", b"\x13\x0d"), id="another string"),
            pytest.param(
                lambda data: data.replace(b"\xa1\x03\x01\x01\xff", b"\xa1\x03\x01\x01\x01"), id="a loose boolean"
            ),
            pytest.param(
                lambda data: data.replace(b"\xa5\x03\x01\x01\x00", b"\xa4\x03\x01\x01\x00"), id="a flag twice"
            ),
            pytest.param(lambda data: data.replace(b"us-central1-a", b"us-central1-\xff"), id="not text"),
            pytest.param(lambda data: data.replace(b"\x02\x06\x00", b"\x02\x06\x80"), id="a negative project"),
            pytest.param(lambda data: bytes(2000), id="too long"),
        ],
    )
    def test_what_is_none_is_refused(self, change: Callable[[bytes], bytes]) -> None:
        parse_instance(REAL)
        with pytest.raises(EvidenceError):
            parse_instance(change(REAL))

    @given(
        st.builds(
            Instance,
            zone=st.text(max_size=100),
            project_number=st.integers(0, 2**63),
            project_id=st.text(max_size=20),
            instance_id=st.integers(0, 2**64 - 1),
            instance_name=st.text(max_size=100),
            security=st.builds(Security, version=st.integers(0, 99), production=st.booleans()),
        )
    )
    def test_what_was_put_in_comes_out(self, instance: Instance) -> None:
        assert parse_instance(encode_instance(instance)) == instance

    @given(st.binary(max_size=200))
    def test_nothing_else_is_raised(self, data: bytes) -> None:
        for attempt in (data, REAL[:40] + data, b"\x30" + bytes((min(len(data), 127),)) + data[:127]):
            try:
                parse_instance(attempt)
            except EvidenceError:
                continue
