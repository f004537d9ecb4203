"""RA-TLS: mutual TLS whose certificates carry evidence, and the protocol's router around it."""

from attestation.ratls.direct import RatlsDialer, RatlsListener
from attestation.ratls.identity import Identity
from attestation.ratls.peer import Peer
from attestation.ratls.pow import open_pool
from attestation.ratls.routed import RouterDialer, RouterListener

__all__ = ["Identity", "Peer", "RatlsDialer", "RatlsListener", "RouterDialer", "RouterListener", "open_pool"]
