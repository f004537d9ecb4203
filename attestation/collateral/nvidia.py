"""Reference manifests from NVIDIA's RIM service: a name in, the signed XML document out.

The service answers ``GET v1/rim/{id}`` with JSON: ``id``, ``rim`` (base64), ``sha256`` (hex) and dates. The document is
signed; the digest only tells a broken transfer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from attestation.collateral.errors import MalformedAnswerError
from attestation.collateral.exchange import Address, Question
from attestation.collateral.keeper import Wanted
from attestation.errors import CollateralError
from attestation.staple import MAX_RIM, MAX_RIM_ID

if TYPE_CHECKING:
    from attestation.collateral.keeper import Keeper
    from attestation.collateral.web import WebClient

_MAX_ANSWER: Final = MAX_RIM * 4 // 3 + 16 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MISSING: Final = (
    "404: NVIDIA publishes no reference values under this name: the driver or the VBIOS is too new, too old or a "
    "partner's; install a version that has a manifest"
)


class RimService:
    """NVIDIA's RIM service, or a cache of it.

    Args:
        url: Its address, with or without ``/v1/rim``; None uses what is kept alone.
        client: Asks.
        keeper: Keeps what was fetched.
    """

    def __init__(self, url: str | None, client: WebClient, keeper: Keeper) -> None:
        self._host = Address.parse(url).host if url else ""
        self._url = (url or "").rstrip("/").removesuffix("/v1/rim")
        self._client = client
        self._keeper = keeper

    async def get(self, rim_id: str) -> bytes:
        """Fetch a manifest.

        Raises:
            CollateralError: No such name, the service is out of reach, refuses, or sends what cannot be a manifest.
        """
        if len(rim_id) > MAX_RIM_ID or not _ID.fullmatch(rim_id):
            raise CollateralError(
                f"reference manifest {rim_id!r:.80}, expected a name of letters, digits, '.', '_', '-'"
            )

        async def fetch() -> bytes:
            question = Question(
                f"{self._url}/v1/rim/{rim_id}",
                f"reference manifest {rim_id}",
                _MAX_ANSWER,
                accept="application/json",
                missing=_MISSING,
            )
            return _document((await self._client.ask(question)).body, rim_id)

        return await self._keeper.get(Wanted("rim", rim_id, self._host, fetch if self._url else None))


def _document(body: bytes, rim_id: str) -> bytes:
    try:
        answer = json.loads(body)
        name, text, digest = answer["id"], answer["rim"], answer.get("sha256")
        document = base64.b64decode(text, validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise MalformedAnswerError(
            f"answer for reference manifest {rim_id} is not a JSON object with id and rim: {type(error).__name__}"
        ) from None
    if name != rim_id:
        raise MalformedAnswerError(f"asked for reference manifest {rim_id}, got {name!r:.80}")
    if not 0 < len(document) <= MAX_RIM:
        raise MalformedAnswerError(f"reference manifest {rim_id} of {len(document)} bytes, expected 1 to {MAX_RIM}")
    if digest is not None and str(digest).lower() != hashlib.sha256(document).hexdigest():
        raise MalformedAnswerError(
            f"reference manifest {rim_id} is not the one whose digest came with it", hint="a broken transfer: try again"
        )
    return document
