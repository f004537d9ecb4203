"""The quoting service's protocol: report data in, quote out, over any byte stream.

Request: ``CQR1`` and 64 bytes of report data. Answer: one status byte (0 quote, 1 error), u32 little-endian length,
then the quote or a short UTF-8 reason. A connection carries any number of exchanges, one at a time.
"""

from __future__ import annotations

import struct
from typing import Protocol

from attestation.errors import CollectionError
from attestation.tdx import MAX_QUOTE

REQUEST_SIZE = 68
ANSWER_HEAD = struct.Struct("<BI")
_MAGIC = b"CQR1"
_MAX_REASON = 1024


class Reader(Protocol):
    """The part of ``asyncio.StreamReader`` that is used."""

    async def readexactly(self, n: int, /) -> bytes:
        """Read exactly ``n`` bytes or raise ``asyncio.IncompleteReadError``."""


def encode_request(report_data: bytes) -> bytes:
    """Encode a request for a quote over 64 bytes."""
    if len(report_data) != 64:
        raise CollectionError(f"report data of {len(report_data)} bytes, expected 64")
    return _MAGIC + report_data


def decode_request(data: bytes) -> bytes:
    """Return the report data of a request.

    Raises:
        CollectionError: Not a request.
    """
    if len(data) != REQUEST_SIZE or not data.startswith(_MAGIC):
        raise CollectionError("not a request for a quote")
    return data[len(_MAGIC) :]


def encode_answer(quote: bytes) -> bytes:
    """Encode an answer that carries a quote."""
    return ANSWER_HEAD.pack(0, len(quote)) + quote


def encode_refusal(reason: str) -> bytes:
    """Encode an answer that carries a reason instead of a quote."""
    text = reason.encode()[:_MAX_REASON]
    return ANSWER_HEAD.pack(1, len(text)) + text


async def read_answer(reader: Reader) -> bytes:
    """Read one answer.

    Returns:
        The quote.

    Raises:
        CollectionError: The service refused, or what it sent is not an answer.
    """
    status, length = ANSWER_HEAD.unpack(await reader.readexactly(ANSWER_HEAD.size))
    limit = MAX_QUOTE if status == 0 else _MAX_REASON
    if status > 1 or length > limit:
        raise CollectionError(f"quoting service answered with status {status} and {length} bytes, at most {limit}")
    body = await reader.readexactly(length)
    if status:
        raise CollectionError(f"quoting service refused: {body.decode(errors='replace')}")
    return body
