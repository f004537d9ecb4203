"""Key files: a 32-byte Ed25519 seed in base64, readable by its owner alone.

In: a path. Out: a key, or an error that says what is wrong with the file. Keys are made by ``chrysalis … keygen`` and
never silently: a program whose key file is missing says so.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SEED_BYTES = 32
MAX_FILE_BYTES = 4096


def read_secret(path: Path, what: str) -> bytes:
    """The bytes of a secret file, without surrounding white space.

    Raises:
        ConfigError: It is missing, empty, too large, or others can read it.
    """
    try:
        with path.open("rb") as handle:
            mode = stat.S_IMODE(os.fstat(handle.fileno()).st_mode)
            data = handle.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}", hint="make it with the command's keygen") from None
    if mode & 0o077:
        raise ConfigError(f"{what} {path} has mode {mode:04o}, expected 0600", hint=f"chmod 600 {path}")
    if not 0 < len(data) <= MAX_FILE_BYTES:
        raise ConfigError(f"{what} {path} has {len(data)} bytes, expected 1 to {MAX_FILE_BYTES}")
    return data.strip()


def read_key(path: Path, what: str = "key file") -> Ed25519PrivateKey:
    """The key in a file.

    Raises:
        ConfigError: As :func:`read_secret`, or it does not hold 32 bytes in base64.
    """
    try:
        seed = base64.b64decode(read_secret(path, what), validate=True)
    except binascii.Error:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigError(
            f"{what} {path} does not hold {SEED_BYTES} bytes in base64", hint="make another with the command's keygen"
        )
    return Ed25519PrivateKey.from_private_bytes(seed)


def write_secret(path: Path, data: bytes) -> None:
    """Write a new secret file with mode 0600; an existing one is never overwritten.

    Raises:
        ConfigError: It exists, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="a key is never overwritten; move it away first") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def new_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write its seed.

    Raises:
        ConfigError: As :func:`write_secret`.
    """
    seed = secrets.token_bytes(SEED_BYTES)
    write_secret(path, base64.b64encode(seed))
    return Ed25519PrivateKey.from_private_bytes(seed)
