"""A key made from a template that the TPM keeps, and quotes by it: the commands that tpm2-tools cannot express.

Spoken to the TPM directly, in one connection, because the kernel's resource manager forgets a key with the connection
that made it. Source: TPM 2.0 Library, part 3, sections 24.1 (TPM2_CreatePrimary), 18.4 (TPM2_Quote), 28.4
(TPM2_FlushContext); part 1, section 18 (headers, and sessions that are an empty password).
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from attestation.errors import CollectionError, EvidenceError
from attestation.tpm import algorithms as alg
from attestation.tpm.keys import HIERARCHIES, MAX_PUBLIC
from attestation.tpm.marshal import Unmarshal, sized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _QUOTE, _FLUSH = 0x131, 0x158, 0x165
_EMPTY_PASSWORD = bytes.fromhex("00000009400000090000000000")
_MAX_RESPONSE = 4096
_HEADER = 10
_SELECT_SIZE = 3


class _Line(Protocol):
    """Somewhere that takes a command and gives the response."""

    def exchange(self, command: bytes) -> bytes:
        """Send a command and wait for its response."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """What a key from a template made.

    Attributes:
        key: TPM2B_PUBLIC.
        quote: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
    """

    key: bytes
    quote: bytes
    signature: bytes


def quote_by_template(tcti: str, template: bytes, which: Sequence[int], extra: bytes) -> Quoted:
    """Make the primary key of a template in the endorsement hierarchy, and quote SHA-256 registers by it.

    Args:
        tcti: The TPM as tpm2-tools name it: ``device:`` and a path, or ``swtpm:path=`` and a socket's path.
        template: TPMT_PUBLIC.
        which: Registers, below 24.
        extra: Up to 32 bytes that the quote carries.

    Raises:
        CollectionError: The TPM is out of reach, is named in a way that is not known here, or refuses a command.
    """
    selected = sum(1 << register for register in which).to_bytes(_SELECT_SIZE, "little")
    with _open(tcti) as line:
        sensitive = sized(sized(b"") + sized(b""))
        made = _command(
            line,
            _CREATE_PRIMARY,
            HIERARCHIES["endorsement"].to_bytes(4, "big") + _EMPTY_PASSWORD,
            sensitive + sized(template) + sized(b"") + bytes(4),
        )
        try:
            handle, parameters = made.take(4), _parameters(made)
            try:
                key = parameters.sized(MAX_PUBLIC)
                scheme = alg.NULL.to_bytes(2, "big")  # the key's own
                selection = (1).to_bytes(4, "big") + alg.SHA256.to_bytes(2, "big") + bytes([_SELECT_SIZE]) + selected
                answer = _command(line, _QUOTE, handle + _EMPTY_PASSWORD, sized(extra) + scheme + selection)
                parameters = _parameters(answer)
                quote = parameters.sized(_MAX_RESPONSE)
                return Quoted(sized(key), quote, parameters.rest())
            finally:
                _command(line, _FLUSH, b"", handle)
        except EvidenceError as error:
            raise CollectionError(f"TPM answers with what is no answer: {error.message}") from None


def _command(line: _Line, code: int, head: bytes, body: bytes) -> Unmarshal:
    """Send one command; what follows the response's header."""
    tag = _SESSIONS if head else _NO_SESSIONS
    size = _HEADER + len(head) + len(body)
    command = tag.to_bytes(2, "big") + size.to_bytes(4, "big") + code.to_bytes(4, "big") + head + body
    try:
        response = line.exchange(command)
    except OSError as error:
        raise CollectionError(f"TPM does not answer: {error.strerror or type(error).__name__}") from None
    if len(response) < _HEADER or int.from_bytes(response[2:6], "big") != len(response):
        raise CollectionError(f"TPM answers with {len(response)} bytes that are no response")
    if (status := int.from_bytes(response[6:10], "big")) != 0:
        raise CollectionError(f"TPM refuses command {code:#x} with {status:#x}", hint="tpm2_rc_decode explains it")
    return Unmarshal(response[_HEADER:], "TPM response")


def _parameters(response: Unmarshal) -> Unmarshal:
    """The parameters before the sessions of a response."""
    return Unmarshal(response.take(response.number(4)), "TPM response")


@contextlib.contextmanager
def _open(tcti: str) -> Iterator[_Line]:
    kind, _, rest = tcti.partition(":")
    try:
        if kind == "device":
            descriptor = os.open(rest, os.O_RDWR | os.O_CLOEXEC)
            try:
                yield _Device(descriptor)
            finally:
                os.close(descriptor)
            return
        if kind == "swtpm" and rest.startswith("path="):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(60)
                connection.connect(rest.removeprefix("path="))
                yield _Socket(connection)
            return
    except OSError as error:
        raise CollectionError(
            f"TPM at {tcti} cannot be opened: {error.strerror}", hint="may this user open it?"
        ) from None
    raise CollectionError(f"TPM at {tcti!r}, expected device:<path> or swtpm:path=<socket>")


class _Device:
    """A character device: one write, one read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def exchange(self, command: bytes) -> bytes:
        """Send a command and wait for its response."""
        os.write(self._descriptor, command)
        return os.read(self._descriptor, _MAX_RESPONSE)


class _Socket:
    """A software TPM's socket: the response says how long it is."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def exchange(self, command: bytes) -> bytes:
        """Send a command and wait for its response."""
        self._connection.sendall(command)
        response = b""
        while len(response) < _HEADER or len(response) < int.from_bytes(response[2:6], "big") <= _MAX_RESPONSE:
            piece = self._connection.recv(_MAX_RESPONSE)
            if not piece:
                break
            response += piece
        return response
