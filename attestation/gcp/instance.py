"""What Google writes into a vTPM's certificate about the instance that it belongs to: certificate in, values out.

The extension's value, DER (google/go-tpm-tools, ``server/verify.go``; google/go-attestation's users name the flags)::

    SEQUENCE {
        zone             UTF8String,
        projectNumber    INTEGER,
        projectId        UTF8String,
        instanceId       INTEGER,
        instanceName     UTF8String,
        security     [0] EXPLICIT SEQUENCE {
            securityVersion              [0] EXPLICIT INTEGER OPTIONAL,
            production                   [1] EXPLICIT BOOLEAN OPTIONAL,
            tpmDataAlwaysEncrypted       [2] EXPLICIT BOOLEAN OPTIONAL,
            suspendResumeAlwaysDisabled  [3] EXPLICIT BOOLEAN OPTIONAL,
            vmtdAlwaysDisabled           [4] EXPLICIT BOOLEAN OPTIONAL,
            alwaysInYarn                 [5] EXPLICIT BOOLEAN OPTIONAL
        } OPTIONAL
    }
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1

from attestation import cbor
from attestation.certificates import read_whole
from attestation.errors import EvidenceError

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21")
MAX_EXTENSION = 1024
MAX_TEXT = 128
_MAX_NUMBER = 2**64
_DOMAIN = "gcp instance v1"


@asn1.sequence
class SecurityWire:
    """The security properties as they are encoded."""

    security_version: Annotated[int | None, asn1.Explicit(0)]
    production: Annotated[bool | None, asn1.Explicit(1)]
    tpm_data_always_encrypted: Annotated[bool | None, asn1.Explicit(2)]
    suspend_resume_always_disabled: Annotated[bool | None, asn1.Explicit(3)]
    vmtd_always_disabled: Annotated[bool | None, asn1.Explicit(4)]
    always_in_yarn: Annotated[bool | None, asn1.Explicit(5)]


@asn1.sequence
class InstanceWire:
    """The extension's value as it is encoded."""

    zone: str
    project_number: int
    project_id: str
    instance_id: int
    instance_name: str
    security: Annotated[SecurityWire | None, asn1.Explicit(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What Google promises about the instance's host; a flag that is not there promises nothing.

    Attributes:
        version: Of the host's security, 0 if not said.
        production: The instance runs on production hosts.
        tpm_data_always_encrypted: The vTPM's state is never kept in the clear.
        suspend_resume_always_disabled: The instance cannot be suspended.
        vmtd_always_disabled: As the extension has it; its meaning is not published.
        always_in_yarn: As the extension has it; its meaning is not published.
    """

    version: int = 0
    production: bool = False
    tpm_data_always_encrypted: bool = False
    suspend_resume_always_disabled: bool = False
    vmtd_always_disabled: bool = False
    always_in_yarn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance by everything that Google calls it.

    Attributes:
        zone: For example ``us-central1-a``.
        project_number: The project, for ever.
        project_id: The project, as people know it.
        instance_id: The instance, for ever.
        instance_name: The instance, as people know it.
        security: What is promised about its host.
    """

    zone: str
    project_number: int
    project_id: str
    instance_id: int
    instance_name: str
    security: Security = field(default_factory=Security)

    @property
    def machine(self) -> bytes:
        """Identifier of the instance, 32 bytes: of project and instance number, which are never given again."""
        return hashlib.sha256(cbor.encode([_DOMAIN, self.project_number, self.instance_id])).digest()


def parse_instance(value: bytes) -> Instance:
    """Read the extension's value.

    Raises:
        EvidenceError: Not this layout, something follows it, or a value is out of bounds.
    """
    if len(value) > MAX_EXTENSION:
        raise EvidenceError(f"instance extension of {len(value)} bytes, at most {MAX_EXTENSION} are read")
    try:
        found = asn1.decode_der(InstanceWire, value)
    except ValueError as error:
        raise EvidenceError(f"instance extension that cannot be read: {str(error)[:120]}") from None
    said = found.security
    numbers = (found.project_number, found.instance_id, said.security_version or 0 if said else 0)
    texts = (found.zone, found.project_id, found.instance_name)
    if any(not 0 <= number < _MAX_NUMBER for number in numbers) or any(len(text) > MAX_TEXT for text in texts):
        raise EvidenceError(f"instance extension with a number beyond 64 bits or a text over {MAX_TEXT} characters")
    security = Security()
    if said is not None:
        security = Security(
            version=said.security_version or 0,
            production=bool(said.production),
            tpm_data_always_encrypted=bool(said.tpm_data_always_encrypted),
            suspend_resume_always_disabled=bool(said.suspend_resume_always_disabled),
            vmtd_always_disabled=bool(said.vmtd_always_disabled),
            always_in_yarn=bool(said.always_in_yarn),
        )
    return Instance(
        zone=found.zone,
        project_number=found.project_number,
        project_id=found.project_id,
        instance_id=found.instance_id,
        instance_name=found.instance_name,
        security=security,
    )


def instance_of(der: bytes) -> Instance:
    """The instance that a certificate names.

    Raises:
        EvidenceError: No certificate, or one without the extension, or as :func:`parse_instance`.
    """
    certificate = read_whole(partial(x509.load_der_x509_certificate, der))
    try:
        value = certificate.extensions.get_extension_for_oid(EXTENSION).value
    except x509.ExtensionNotFound:
        raise EvidenceError(
            "attestation key's certificate names no instance", hint="Google's name one since 2020"
        ) from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise EvidenceError("instance extension that the library takes for another")
    return parse_instance(value.value)
