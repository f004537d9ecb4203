"""Fresh evidence over a port of the network: proof of work, mutual RA-TLS, and the evidence query of our extensions.

A gateway answers it before anybody is authorised. A reference peer knows no such query; its certificate speaks alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.config.ports import host_port
from appliance.errors import ErrorCode
from appliance.wire import messages as tl
from appliance.wire.errors import DialError, QueryError, WireError
from appliance.wire.extensions import Extension
from appliance.wire.transport import dial
from attestation.errors import HandshakeError
from attestation.policy import Policy
from attestation.ratls import Identity, RatlsDialer, open_pool
from attestation.readers import NoReader
from attestation.rules import AllOf
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from appliance.wire.base import TLObject
    from appliance.wire.link import Link

EVIDENCE_S: Final = 30.0


class Asking:
    """The asking side of a link: it answers nothing."""

    def link_ready(self, link: Link) -> None:
        """Nothing to prepare."""

    def message_received(self, link: Link, message: TLObject) -> None:
        """Nothing that comes by itself was asked for."""

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """Refuse: this side serves nothing."""
        raise QueryError("this peer only asks for evidence", code=ErrorCode.NOT_READY)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """Whoever waits is told by the link."""


async def ask(target: str, nonce: bytes) -> tuple[bytes, bytes] | None:
    """Connect, judging nobody, and ask for evidence that is judged afterwards.

    Args:
        target: ``host:port``.
        nonce: 32 bytes.

    Returns:
        A bundle and the raw Ed25519 key at the other end; ``None`` of a peer that gives no fresh evidence.

    Raises:
        HandshakeError: No link could be made.
    """
    anybody = Verifier(Policy("not judged", "none", NoReader(), AllOf(())))
    with open_pool() as pool:
        dialer = RatlsDialer(await Identity.create(None), anybody, pool=pool)
        try:
            link = await dial(dialer, Asking(), host_port(target))
        except DialError as error:
            raise HandshakeError(error.message, hint=error.hint) from None
    try:
        key = link.peer.public_key if link.peer is not None else None
        if key is None or Extension.EVIDENCE not in await link.negotiate():
            return None
        answer = await link.query(tl.ChrysalisGetEvidence(nonce), timeout=EVIDENCE_S)
    except QueryError:
        return None
    except WireError as error:
        raise HandshakeError(f"{target} ended the link: {error.message}", hint=error.hint) from None
    finally:
        link.close()
    return answer.bundle, key
