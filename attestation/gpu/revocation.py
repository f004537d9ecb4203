"""Whether the certificates of a verified chain still stand: OCSP responses in, one check (or two) out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.gpu.chain import fingerprint, name_of
from attestation.gpu.ocsp import asked, check_response
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.gpu.chain import Path
    from attestation.gpu.memory import Memory


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one chain.

    Attributes:
        asked: How many certificates a responder knows.
        problem: The first that does not stand, in words, empty if none.
        hint: What to do about it.
        missing: Certificates without a response.
        expires_at: Unix time at which the first response ends.
        required: Whether a missing response fails.
    """

    asked: int
    problem: str
    hint: str
    missing: tuple[str, ...]
    expires_at: float
    required: bool

    def checks(self, name: str, why: str) -> tuple[Check, ...]:
        """One check; a second, unchecked one for certificates that nobody was asked about."""
        expected = "every certificate good by a fresh OCSP response"
        seen = self.problem or f"{self.asked - len(self.missing)} of {self.asked} certificates good"
        lost = ", ".join(self.missing)
        if not self.missing or self.problem:
            return (Check(name, not self.problem, seen, expected, self.hint, why=why),)
        if self.required:
            hint = "the machine staples responses; let it, or fetch them"
            return (Check(name, False, f"no response about {lost}", expected, hint, why=why),)
        left_out = Check(name, True, f"no response about {lost}", "by policy: unchecked", checked=False, why=why)
        if len(self.missing) == self.asked:
            return (left_out,)
        return (Check(name, True, seen, expected, why=why), left_out)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The responses at hand.

    Attributes:
        responses: DER by SHA-256 of the certificate.
        now: Unix time.
        required: Whether a certificate without a response fails.
        memory: Remembers signatures; without it every one is verified.
    """

    responses: Mapping[bytes, bytes] = field(repr=False)
    now: float
    required: bool
    memory: Memory | None = field(default=None, repr=False)

    def check(self, path: Path, *, device: bool) -> Standing:
        """Look at every certificate of a chain that a responder knows."""
        pairs = list(asked(path.certificates, device=device))
        problem, hint, missing, expires = "", "", [], math.inf
        for certificate, issuer in pairs:
            name = name_of(certificate.subject)
            response = self.responses.get(fingerprint(certificate))
            if response is None:
                missing.append(name)
                continue
            try:
                answer = check_response(response, certificate, issuer, self.now, memory=self.memory)
            except EvidenceError as error:
                problem, hint = problem or f"{name}: {error.message}", hint or error.hint
                continue
            expires = min(expires, answer.expires_at)
            if not answer.good and not problem:
                words = f"{answer.status}, {answer.reason}" if answer.reason else answer.status
                problem, hint = f"{name} is {words}", answer.hint
        return Standing(len(pairs), problem, hint, tuple(missing), expires, self.required)
