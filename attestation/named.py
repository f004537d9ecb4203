"""The bundle that a certificate names: evidence of a machine as of its certificate, for whoever asked nothing.

A certificate has room for a quote and for one digest. The bundle of that digest, made over a nonce that nobody else
chose, shows what the quote cannot: GPUs, event log, statement. It proves less than one made for the asker's own nonce,
since it is as old as the certificate; admission to anything needs the other.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from attestation.evidence import bundle_digest

if TYPE_CHECKING:
    from attestation.batch import EvidenceMaker
    from attestation.ratls import Identity

NONCE_BYTES = 32


class NamedBundle:
    """Keeps certificate and bundle together.

    Args:
        identity: Whose certificate names it.
        maker: Makes bundles with that identity.

    Attributes:
        bundle: The one that the certificate names; empty before the first.
    """

    def __init__(self, identity: Identity, maker: EvidenceMaker) -> None:
        self._identity = identity
        self._maker = maker
        self.bundle = b""

    async def renew(self) -> None:
        """Make a new bundle, and a certificate that names it.

        Raises:
            AttestationError: There is no evidence now; certificate and bundle stay what they were.
        """
        made = await self._maker.bundle(secrets.token_bytes(NONCE_BYTES))
        await self._identity.refresh(bundle_digest=bundle_digest(made))
        self.bundle = made
