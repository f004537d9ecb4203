"""The configuration volume: a plain ustar archive on a read-only block device, no file system of the host's.

Exactly these members, in this order, each a regular file: ``measured.toml``, ``owner.toml``, ``host.toml`` and, where
the node wallet pays for payouts, ``gas.key``. Two zero blocks end the archive; zeros follow to the end of the device.
Layout: POSIX.1-1988 ustar, IEEE Std 1003.1-2017, pax, section "ustar Interchange Format". The writer uses one form only
(mode 0400, owner 0, time 0) and the reader takes that form only, so that a text has one volume and a volume one text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.boot.errors import GuestConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXTS: Final = ("measured.toml", "owner.toml", "host.toml")
GAS_KEY: Final = "gas.key"
MEMBERS: Final = (*TEXTS, GAS_KEY)
MAX_TEXT_BYTES: Final = 256 * 1024
MAX_KEY_BYTES: Final = 4096
BLOCK: Final = 512
ALIGNMENT: Final = 4096
MAX_VOLUME_BYTES: Final = 4 * 1024 * 1024
"""A device may be larger, but nothing behind this is looked at, and it is refused."""


def pack(members: Mapping[str, bytes]) -> bytes:
    """Make a volume.

    Args:
        members: Contents by name; the three texts, and the gas key or not.

    Returns:
        The archive, padded with zeros to a multiple of 4096 bytes.

    Raises:
        GuestConfigError: A text is missing, a name unknown, or a content out of bounds.
    """
    unknown = set(members) - set(MEMBERS)
    missing = set(TEXTS) - set(members)
    if unknown or missing:
        raise GuestConfigError(
            f"a configuration volume holds {sorted(members)}, expected {', '.join(TEXTS)} and perhaps {GAS_KEY}"
        )
    out = bytearray()
    for name in MEMBERS:
        if name in members:
            content = members[name]
            _bound(name, len(content))
            out += _header(name, len(content)) + content + bytes(-len(content) % BLOCK)
    out += bytes(2 * BLOCK)
    return bytes(out) + bytes(-len(out) % ALIGNMENT)


def parse(data: bytes) -> dict[str, bytes]:
    """Read a volume: all of it, to the last zero.

    Raises:
        GuestConfigError: Anything but what :func:`pack` writes, followed by zeros.
    """
    if len(data) > MAX_VOLUME_BYTES:
        raise GuestConfigError(f"configuration volume of more than {MAX_VOLUME_BYTES} bytes")
    members: dict[str, bytes] = {}
    at = 0
    for name in MEMBERS:
        header = data[at : at + BLOCK]
        if name == GAS_KEY and header == bytes(BLOCK):
            break
        size = _size(name, header)
        at += BLOCK
        end = at + size
        padded = end + -size % BLOCK
        if padded > len(data) or data[end:padded].strip(b"\0"):
            raise GuestConfigError(f"configuration volume: {name} is cut off or followed by something else than zeros")
        members[name] = data[at:end]
        at = padded
    if len(data) < at + 2 * BLOCK or data[at:].strip(b"\0"):
        raise GuestConfigError(
            "configuration volume: something else than zeros behind the last member",
            hint=f"it holds exactly {', '.join(MEMBERS)}: make it with chrysalis vm launch",
        )
    return members


def _size(name: str, header: bytes) -> int:
    """The size in a member's header, which must be the one header that this member can have."""
    digits = header[124:135]
    if len(header) != BLOCK or len(digits) != 11 or not digits.isdigit() or any(digit > ord("7") for digit in digits):
        raise GuestConfigError(f"configuration volume: no member {name} where it belongs", hint=_HINT)
    size = int(digits, 8)
    _bound(name, size)
    if header != _header(name, size):
        raise GuestConfigError(f"configuration volume: the header of {name} is not the expected one", hint=_HINT)
    return size


def _bound(name: str, size: int) -> None:
    limit = MAX_KEY_BYTES if name == GAS_KEY else MAX_TEXT_BYTES
    if not 0 < size <= limit:
        raise GuestConfigError(f"configuration volume: {name} has {size} bytes, expected 1 to {limit}")


_HINT: Final = f"a ustar archive of exactly {', '.join(MEMBERS)}, in this order, mode 0400, owner 0, time 0"


def _header(name: str, size: int) -> bytes:
    """One ustar header block: name, mode, uid, gid, size, mtime, checksum, type, magic, device numbers."""
    head = bytearray(BLOCK)
    head[0 : len(name)] = name.encode("ascii")
    head[100:108] = b"0000400\0"
    head[108:116] = b"0000000\0"
    head[116:124] = b"0000000\0"
    head[124:136] = b"%011o\0" % size
    head[136:148] = b"00000000000\0"
    head[148:156] = b"        "
    head[156:157] = b"0"
    head[257:265] = b"ustar\x0000"
    head[329:337] = b"0000000\0"
    head[337:345] = b"0000000\0"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)
