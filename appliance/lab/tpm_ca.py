"""The authorities of a TPM world: a root, one for endorsement keys, and one that certifies attestation keys.

The last is what a cloud or a fleet would run: it is shown an endorsement certificate and an attestation key, makes a
credential that only the TPM with both can open, and certifies the key for whoever knows what was in it. It keeps
nothing but the exchanges that are under way.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.lab.errors import LabError
from attestation.errors import EvidenceError
from attestation.tpm.chain import ATTESTATION_USAGE, ENDORSEMENT_USAGE, verify_chain
from attestation.tpm.credential import make_credential
from attestation.tpm.keys import parse_public, spki

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.tpm.keys import Key

AUTHORITY_LIFE = dt.timedelta(days=30)
KEY_LIFE = dt.timedelta(days=7)
SESSION_S = 120.0
MAX_SESSIONS = 256
_BACKDATE = dt.timedelta(minutes=5)
"""Certificates begin a little before now: a guest's clock may be behind."""

ENDORSEMENT_NAME = "Chrysalis lab endorsement authority"


class Authority:
    """A P-256 key that issues certificates under one name.

    Args:
        name: Common name.
        clock: Unix time.
        issuer: Who certifies it; itself by default.
    """

    def __init__(self, name: str, clock: Callable[[], float], issuer: Authority | None = None) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._clock = clock
        constraints = x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0)
        self.certificate = (issuer or self).issue(
            _subject(name), self.key.public_key(), AUTHORITY_LIFE, constraints, _usage(authority=True)
        )

    @property
    def der(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue(
        self,
        subject: x509.Name,
        key: Key,
        life: dt.timedelta,
        constraints: x509.BasicConstraints,
        usage: x509.KeyUsage,
        *extensions: x509.ExtensionType,
    ) -> x509.Certificate:
        """Certify a key from a little before now on."""
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_subject(self.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + life)
            .add_extension(constraints, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class _Session:
    """One exchange under way: what was in the credential, and whose key it is about."""

    secret: bytes
    key: Key
    machine: bytes
    ends: float


class AttestationCa:
    """Certifies attestation keys of TPMs whose endorsement keys a root vouches for.

    Args:
        root: Root of both kinds of keys.
        endorsements: Authorities between the root and endorsement certificates, DER; TPMs carry the leaf alone.
        clock: Unix time.
    """

    def __init__(
        self, root: Authority, endorsements: tuple[bytes, ...], clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = Authority("Chrysalis lab attestation authority", clock, root)
        self._root = root.der
        self._endorsements = endorsements
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def enrol(self, ek_certificate: bytes, ak_public: bytes) -> tuple[str, bytes]:
        """Begin an exchange.

        Args:
            ek_certificate: DER.
            ak_public: TPM2B_PUBLIC.

        Returns:
            Session and credential, the latter as ``tpm2_activatecredential`` reads it.

        Raises:
            EvidenceError: Not an endorsement certificate of this root, or not an attestation key.
            LabError: Too many exchanges are under way.
        """
        self._forget()
        if len(self._sessions) >= MAX_SESSIONS:
            raise LabError(f"{MAX_SESSIONS} enrolments are under way", hint="try again in two minutes")
        now = self._clock()
        chain = verify_chain((ek_certificate, *self._endorsements), (self._root,), usage=ENDORSEMENT_USAGE, now=now)
        public = parse_public(ak_public)
        if wrong := public.wrong_attributes():
            raise EvidenceError(f"key is no attestation key: {', '.join(wrong)}")
        secret = secrets.token_bytes(32)
        credential = make_credential(chain.key, public.name, secret)
        session = secrets.token_urlsafe(24)
        machine = hashlib.sha256(spki(chain.key)).digest()
        self._sessions[session] = _Session(secret, public.key, machine, now + SESSION_S)
        return session, credential.to_file()

    def activate(self, session: str, secret: bytes) -> tuple[bytes, ...]:
        """End an exchange; one try.

        Returns:
            The key's certificate and this authority's, DER.

        Raises:
            EvidenceError: No such exchange (any more), or another secret.
        """
        self._forget()
        known = self._sessions.pop(session, None)
        if known is None:
            raise EvidenceError("no such enrolment is under way", hint="each is good for one try within two minutes")
        if not hmac.compare_digest(known.secret, secret):
            raise EvidenceError("the secret is not the one in the credential", hint="the key is not in that TPM")
        return self.certify(known.key, known.machine), self._authority.der

    def certify(self, key: Key, machine: bytes, *, life: dt.timedelta = KEY_LIFE) -> bytes:
        """Certify a key without asking anything (what an exchange ends with; alone it is for tests); DER."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "Chrysalis lab attestation key"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, machine.hex()),
            ]
        )
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        purpose = x509.ExtendedKeyUsage([ATTESTATION_USAGE])
        issued = self._authority.issue(subject, key, life, constraints, _usage(authority=False), purpose)
        return issued.public_bytes(serialization.Encoding.DER)

    def _forget(self) -> None:
        now = self._clock()
        for session in [name for name, known in self._sessions.items() if known.ends <= now]:
            del self._sessions[session]


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
