"""Addresses of accounts: the value, its raw form and its friendly form.

In: texts that people, configuration files and peers write. Out: :class:`Address`, which is what every room passes
around. Layout: protocol specification, section 2.9 (friendly form) and the head of section 6 (in cells).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from pytoniq_core.boc.address import Address as CellAddress

from appliance.chain.errors import AddressError

_BOUNCEABLE = 0x11
_NON_BOUNCEABLE = 0x51
_TESTNET = 0x80
_FRIENDLY_CHARACTERS = 48
_RAW = re.compile(r"(-?[0-9]{1,4}):([0-9a-fA-F]{64})", re.ASCII)
_HINT = "expected 48 characters such as UQ… or EQ…, or workchain:64 hexadecimal digits"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An account: ``workchain`` (signed 8 bits) and ``hash`` (32 bytes).

    Raises:
        AddressError: The parts are out of range.
    """

    workchain: int
    hash: bytes

    def __post_init__(self) -> None:
        if not -128 <= self.workchain <= 127:
            raise AddressError(f"workchain {self.workchain} of an address is not a signed 8-bit number")
        if len(self.hash) != 32:
            raise AddressError(f"the hash of an address has {len(self.hash)} bytes, expected 32")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read any form: friendly with whichever flags, or ``workchain:hex``; raises :class:`AddressError`."""
        matched = _RAW.fullmatch(text)
        if matched:
            return cls(int(matched[1]), bytes.fromhex(matched[2]))
        return parse_friendly(text).address

    @classmethod
    def of(cls, address: CellAddress) -> Address:
        """The same account as a pytoniq address; raises :class:`AddressError` for one with an anycast part."""
        if address.anycast is not None:
            raise AddressError("the address has an anycast part, expected none")
        return cls(address.wc, address.hash_part)

    def friendly(self, *, bounceable: bool = False, testnet: bool = False) -> str:
        """The 48-character base64url form (section 2.9)."""
        tag = (_BOUNCEABLE if bounceable else _NON_BOUNCEABLE) | (_TESTNET if testnet else 0)
        body = bytes([tag, self.workchain & 0xFF]) + self.hash
        return base64.urlsafe_b64encode(body + _checksum(body)).decode()

    def raw(self) -> str:
        """The form ``workchain:hex``."""
        return f"{self.workchain}:{self.hash.hex()}"

    def to_cell_address(self) -> CellAddress:
        """The same account for pytoniq's builders."""
        return CellAddress((self.workchain, self.hash))

    def __str__(self) -> str:
        return self.raw()


@dataclass(frozen=True, slots=True)
class FriendlyAddress:
    """What a friendly text says: the account and the two flags of its writer."""

    address: Address
    bounceable: bool
    testnet: bool


def parse_friendly(text: str) -> FriendlyAddress:
    """Read the 48-character form, in either base64 alphabet.

    Raises:
        AddressError: Length, alphabet, tag or checksum are wrong.
    """
    if len(text) != _FRIENDLY_CHARACTERS or not text.isascii():
        raise AddressError(f"an address text has {len(text)} characters, expected 48", hint=_HINT)
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise AddressError("an address text is not base64", hint=_HINT) from error
    body, checksum = data[:34], data[34:]
    if checksum != _checksum(body):
        raise AddressError(
            f"an address text has checksum {checksum.hex()}, expected {_checksum(body).hex()}",
            hint="a character was lost or changed: copy the address again",
        )
    tag = body[0] & ~_TESTNET
    if tag not in {_BOUNCEABLE, _NON_BOUNCEABLE}:
        raise AddressError(f"an address text has tag 0x{body[0]:02x}, expected 0x11 or 0x51 (+0x80)", hint=_HINT)
    workchain = int.from_bytes(body[1:2], "big", signed=True)
    return FriendlyAddress(Address(workchain, body[2:]), tag == _BOUNCEABLE, bool(body[0] & _TESTNET))


def _checksum(body: bytes) -> bytes:
    # CRC-16/XMODEM, which is what the standard library calls crc_hqx with start value 0.
    return binascii.crc_hqx(body, 0).to_bytes(2, "big")
