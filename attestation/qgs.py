"""Messages of Intel's quote generation service: a TD report in, a quote out.

Layout: ``QuoteGeneration/quote_wrapper/qgs_msg_lib/inc/qgs_msg_lib.h`` of Intel's
SGXDataCenterAttestationPrimitives, message version 1. A message is a header (u16 major and minor version, u32 type, u32
size of the whole message, u32 error code) and a body, all little-endian; on a stream each is preceded by its size as
big-endian u32 (``QuoteGeneration/quote_wrapper/tdx_attest/tdx_attest.c``).

::

    request, type 0:  header  u32 report size  u32 id list size  report  ids
    answer, type 1:   header  u32 id size      u32 quote size    id      quote
"""

from __future__ import annotations

import struct

from attestation.errors import CollectionError, EvidenceError
from attestation.tdx import MAX_QUOTE

PORT = 4050
"""Where the service listens on the host, by default, for guests' vsock connections."""

REPORT_SIZE = 1024
PREFIX = struct.Struct(">I")
_HEADER = struct.Struct("<HHIII")
_SIZES = struct.Struct("<II")
_MAJOR = 1
_REQUEST = 0
_ANSWER = 1
_HEAD = _HEADER.size + _SIZES.size
MAX_ID = 64
MAX_MESSAGE = _HEAD + MAX_ID + MAX_QUOTE
"""Longest message, in bytes."""

_HINTS = {
    0xE011: "the platform is not registered with Intel: register it, or ask the provisioning cache of the site",
    0x12001: "the service's own log on the host says more; a platform that is not registered looks like this too",
    0x12004: "the service speaks another version of the protocol",
    0x12006: "the service does not take this report",
}
"""What helps, by error code (``qgs_msg_lib.h``, ``sgx_dcap_quoteverify`` for 0xE011)."""


def encode_request(report: bytes) -> bytes:
    """A request for a quote over a TD report of 1024 bytes, without the stream's prefix.

    Raises:
        CollectionError: Another size.
    """
    if len(report) != REPORT_SIZE:
        raise CollectionError(f"TD report of {len(report)} bytes, expected {REPORT_SIZE}")
    return _HEADER.pack(_MAJOR, 0, _REQUEST, _HEAD + len(report), 0) + _SIZES.pack(len(report), 0) + report


def decode_request(data: bytes) -> bytes:
    """The TD report of a request.

    Raises:
        EvidenceError: Not a request.
    """
    report, ids, error = _decode(data, _REQUEST)
    if error or len(report) != REPORT_SIZE or len(ids) > MAX_ID:
        raise EvidenceError(f"request with a report of {len(report)} bytes, expected {REPORT_SIZE}")
    return report


def encode_answer(quote: bytes, identifier: bytes = b"") -> bytes:
    """An answer that carries a quote and, if the request named several, the key identifier that was chosen."""
    size = _HEAD + len(identifier) + len(quote)
    return _HEADER.pack(_MAJOR, 0, _ANSWER, size, 0) + _SIZES.pack(len(identifier), len(quote)) + identifier + quote


def encode_refusal(code: int) -> bytes:
    """An answer that carries an error code (not 0) instead of a quote."""
    return _HEADER.pack(_MAJOR, 0, _ANSWER, _HEAD, code) + _SIZES.pack(0, 0)


def decode_answer(data: bytes) -> bytes:
    """The quote of an answer.

    Raises:
        EvidenceError: Not an answer.
        CollectionError: An answer that refuses, with its code.
    """
    identifier, quote, error = _decode(data, _ANSWER)
    if error:
        raise CollectionError(f"quote generation service refused with {error:#x}", hint=_HINTS.get(error, ""))
    if len(identifier) > MAX_ID or not 0 < len(quote) <= MAX_QUOTE:
        raise EvidenceError(f"answer with a quote of {len(quote)} bytes, expected 1 to {MAX_QUOTE}")
    return quote


def _decode(data: bytes, expected: int) -> tuple[bytes, bytes, int]:
    """Both parts of the body and the error code."""
    if not _HEAD <= len(data) <= MAX_MESSAGE:
        raise EvidenceError(f"message of {len(data)} bytes, expected {_HEAD} to {MAX_MESSAGE}")
    major, _, kind, size, error = _HEADER.unpack_from(data)
    if major != _MAJOR or kind != expected or size != len(data):
        raise EvidenceError(
            f"message of version {major}, type {kind} and {size} bytes, expected {_MAJOR}, {expected} and {len(data)}"
        )
    first, second = _SIZES.unpack_from(data, _HEADER.size)
    if _HEAD + first + second != len(data):
        raise EvidenceError(f"message of {len(data)} bytes, its lengths add up to {_HEAD + first + second}")
    return data[_HEAD : _HEAD + first], data[_HEAD + first :], error
