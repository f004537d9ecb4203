"""The paravisor's runtime data: JSON in, the vTPM's attestation key, the guest's own data and the host's settings out.

Source: OpenHCL, ``openhcl_attestation_protocol/src/igvm_attest/get.rs`` (``RuntimeClaims``). ``keys`` are JSON Web
Keys, ``vm-configuration`` is what the host asked for, ``user-data`` is the hex of 64 bytes that the guest wrote into NV
index 0x01400002, zeros where it wrote none; early paravisors have no such field.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from cryptography.hazmat.primitives.asymmetric import rsa

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_NAME = "HCLAkPub"
USER_DATA_SIZE = 64
MAX_KEYS = 8
MAX_SETTINGS = 64
MAX_TEXT = 256
_MIN_BITS, _MAX_BITS = 2048, 4096
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,1024}")
_HEX = re.compile(rf"[0-9A-Fa-f]{{{2 * USER_DATA_SIZE}}}")

Setting: TypeAlias = "str | int | bool | None"


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """What the runtime data says.

    Attributes:
        key: The vTPM's attestation key.
        user_data: What the guest had put in, 64 bytes; ``None`` in the reports of early paravisors.
        settings: The machine's configuration by name, as the host gave it.
    """

    key: rsa.RSAPublicKey
    user_data: bytes | None
    settings: Mapping[str, Setting]


def parse_runtime(data: bytes) -> RuntimeData:
    """Read runtime data.

    Raises:
        EvidenceError: Not JSON of this shape, a name twice in one object, no key of the vTPM or more than one.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"runtime data that is not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise EvidenceError("runtime data that is not a JSON object")
    keys = value.get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise EvidenceError(f"runtime data without a list of at most {MAX_KEYS} keys")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == KEY_NAME]
    if len(named) != 1:
        raise EvidenceError(f"runtime data with {len(named)} keys called {KEY_NAME}, expected 1")
    return RuntimeData(_key(named[0]), _user_data(value.get("user-data")), _settings(value.get("vm-configuration")))


def _key(value: dict[str, Any]) -> rsa.RSAPublicKey:
    if value.get("kty") != "RSA":
        raise EvidenceError(f"attestation key of type {str(value.get('kty'))[:32]!r} in runtime data, expected RSA")
    modulus, exponent = _number(value.get("n")), _number(value.get("e"))
    if not _MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
        raise EvidenceError(f"attestation key of {modulus.bit_length()} bits, expected {_MIN_BITS} to {_MAX_BITS}")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise EvidenceError(f"attestation key in runtime data that is none: {error}") from None


def _number(value: object) -> int:
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise EvidenceError("attestation key in runtime data without a number in base64url")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
    except binascii.Error:
        raise EvidenceError("attestation key in runtime data with a number that is not base64url") from None


def _user_data(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise EvidenceError(f"user data in runtime data that is not the hex of {USER_DATA_SIZE} bytes")
    return bytes.fromhex(value)


def _settings(value: object) -> dict[str, Setting]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_SETTINGS:
        raise EvidenceError(f"machine's configuration in runtime data is not an object of at most {MAX_SETTINGS} names")
    found: dict[str, Setting] = {}
    for name, setting in value.items():
        if not isinstance(setting, str | int | bool | None):
            continue  # no setting that a rule asks for has another type
        if len(name) > MAX_TEXT or (isinstance(setting, str) and len(setting) > MAX_TEXT):
            raise EvidenceError(f"machine's configuration in runtime data with a text over {MAX_TEXT} characters")
        found[name] = setting
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise EvidenceError("runtime data with a name twice in one object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise EvidenceError(f"runtime data with {name}, which is not JSON")
