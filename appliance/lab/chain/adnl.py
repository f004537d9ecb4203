"""The server's end of ADNL over TCP, without I/O: bytes in, payloads out.

In: what the socket delivers, in any pieces. Out: decrypted payloads, and framed bytes to send. Layout: TON, ``adnl/
adnl-ext-connection.cpp``: a 256-byte handshake (key identifier, client key, SHA-256 and ciphertext of 160 random
bytes), then packets of length, nonce, payload and SHA-256, all in one AES-256-CTR stream a direction.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.lab.chain.config import key_id
from appliance.lab.chain.errors import AdnlError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HANDSHAKE_BYTES = 256
MAX_PACKET_BYTES = 1 << 24
"""As the reference: larger packets end the connection."""

_FIELD_PRIME = 2**255 - 19
_NONCE_BYTES = 32
_HASH_BYTES = 32
_SESSION_BYTES = 160


class AdnlServer:
    """One connection. Feed it what arrives; send what it frames.

    Args:
        key: The server's key, which clients know.
        max_packet: Largest accepted packet in bytes.
    """

    def __init__(self, key: Ed25519PrivateKey, *, max_packet: int = MAX_PACKET_BYTES) -> None:
        self._key = key
        self._max_packet = max_packet
        self._encrypted = bytearray()
        self._plain = bytearray()
        self._receiving: CipherContext | None = None
        self._sending: CipherContext | None = None

    @property
    def ready(self) -> bool:
        """Whether the handshake is done; the server must then send an empty packet."""
        return self._sending is not None

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer: the payloads that are complete. Raises :class:`AdnlError`, for good."""
        if self._receiving is None:
            self._encrypted += data
            if len(self._encrypted) < HANDSHAKE_BYTES:
                return []
            receiving = self._handshake(bytes(self._encrypted[:HANDSHAKE_BYTES]))
            data, self._encrypted = bytes(self._encrypted[HANDSHAKE_BYTES:]), bytearray()
        else:
            receiving = self._receiving
        self._plain += receiving.update(data)
        return self._packets()

    def frame(self, payload: bytes) -> bytes:
        """The bytes that carry one payload."""
        if self._sending is None:
            msg = "nothing can be sent before the handshake"
            raise ValueError(msg)
        body = os.urandom(_NONCE_BYTES) + payload
        body += hashlib.sha256(body).digest()
        return self._sending.update(struct.pack("<I", len(body)) + body)

    def _packets(self) -> list[bytes]:
        found = []
        while len(self._plain) >= 4:
            length = int.from_bytes(self._plain[:4], "little")
            if not _NONCE_BYTES + _HASH_BYTES <= length <= self._max_packet:
                raise AdnlError(f"a packet of {length} bytes, expected 64 to {self._max_packet}")
            if len(self._plain) < 4 + length:
                break
            body = bytes(self._plain[4 : 4 + length])
            del self._plain[: 4 + length]
            if hashlib.sha256(body[:-_HASH_BYTES]).digest() != body[-_HASH_BYTES:]:
                raise AdnlError("a packet whose hash is wrong")
            found.append(body[_NONCE_BYTES:-_HASH_BYTES])
        return found

    def _handshake(self, packet: bytes) -> CipherContext:
        public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        if not hmac.compare_digest(packet[:32], key_id(public_key)):
            raise AdnlError("a handshake for another server's key")
        digest = packet[64:96]
        secret = _shared_secret(self._key, packet[32:64])
        session = _cipher(secret[:16] + digest[16:32], digest[:4] + secret[20:32]).update(packet[96:])
        if len(session) != _SESSION_BYTES or hashlib.sha256(session).digest() != digest:
            raise AdnlError("a handshake whose hash is wrong")
        self._sending = _cipher(session[:32], session[64:80])
        self._receiving = _cipher(session[32:64], session[80:96])
        return self._receiving


def _cipher(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(counter)).encryptor()


def _shared_secret(key: Ed25519PrivateKey, peer: bytes) -> bytes:
    """X25519 between two Ed25519 keys, converted as RFC 7748 relates the curves."""
    scalar = hashlib.sha512(key.private_bytes_raw()).digest()[:32]
    y = int.from_bytes(peer, "little") & ((1 << 255) - 1)
    if y >= _FIELD_PRIME or y == 1:
        raise AdnlError("a handshake with a key that is no point")
    u = (1 + y) * pow(1 - y, -1, _FIELD_PRIME) % _FIELD_PRIME
    try:
        public = X25519PublicKey.from_public_bytes(u.to_bytes(32, "little"))
        return X25519PrivateKey.from_private_bytes(scalar).exchange(public)
    except ValueError as error:  # a point of small order
        raise AdnlError("a handshake with a key of small order") from error
