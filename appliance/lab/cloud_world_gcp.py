"""A Google of our own: an authority that certifies vTPM keys with the instance's name in them, and its machines.

Each world makes new roots. A machine is described by what it booted; an attack is one field of :class:`GcpAttack`, and
with none of them set the evidence is an honest machine's.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from appliance.lab.paper_tpm import PaperTpm
from appliance.lab.tpm_ca import AUTHORITY_LIFE, Authority
from attestation.gcp.evidence import GcpEvidence
from attestation.gcp.instance import EXTENSION, Instance, InstanceWire, Security, SecurityWire
from attestation.tpm.evidence import qualifying_data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.lab.paper_tpm import Booted
    from appliance.lab.tee import SyntheticTdx
    from attestation.tpm.evidence import TpmEvidence
    from attestation.tpm.keys import Key

ISSUER_ADDRESS = "http://ca.lab.invalid/intermediate.crt"
ROOT_ADDRESS = "http://ca.lab.invalid/root.crt"
"""Where certificates here say that their issuers' are published; nobody serves them but :attr:`GcpWorld.published`."""

KEY_LIFE = dt.timedelta(days=20)
INSTANCE = Instance(
    zone="us-central1-a",
    project_number=700000000001,
    project_id="lab-project",
    instance_id=4000000000000000001,
    instance_name="worker-1",
    security=Security(version=1, production=True, tpm_data_always_encrypted=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpAttack:
    """What is wrong with the evidence; one field an attack.

    Attributes:
        foreign_root: The key is certified under an authority of the attacker's own, with the same names.
        endorsement_certificate: The certificate is one of an endorsement key: it does not sign.
        other_certificate: The certificate is another machine's.
        no_instance: The certificate names no instance.
        test_instance: The certificate says that the instance is not a production one.
        other_vtpm: The quote is another machine's vTPM's.
        unrestricted_key: The certified key signs whatever it is given.
        replayed: The vTPM's quote was made for another question.
        register_altered: A register is shown with another value than was quoted.
        log_altered: The log leaves an event out.
        td_of_another: The TDX quote was made for another question: another machine's.
        td_missing: No TDX quote is shown.
    """

    foreign_root: bool = False
    endorsement_certificate: bool = False
    other_certificate: bool = False
    no_instance: bool = False
    test_instance: bool = False
    other_vtpm: bool = False
    unrestricted_key: bool = False
    replayed: bool = False
    register_altered: bool = False
    log_altered: bool = False
    td_of_another: bool = False
    td_missing: bool = False


class GcpWorld:
    """One run's Google and a machine there; it is a platform, too, whose evidence bundles can carry.

    Args:
        booted: What its machine booted.
        tdx: The processor under it; ``None`` for a machine that is no TDX guest.
        instance: What the machine is called.
        ecc: Whether its vTPM's key is on P-256.
        attack: What is wrong.
        clock: Unix time.
    """

    name = "gcp"

    def __init__(
        self,
        booted: Booted,
        tdx: SyntheticTdx | None,
        *,
        instance: Instance = INSTANCE,
        ecc: bool = False,
        attack: GcpAttack | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._attack = attack or GcpAttack()
        self._clock = clock
        self._tdx = tdx
        self._ecc = ecc
        self._booted = booted
        self._instance = instance
        self._root = Authority("EK/AK CA Root", clock)
        self._issuer = _intermediate(self._root, clock)
        self.vtpm = PaperTpm(booted.logs, ecc=ecc, restricted=not self._attack.unrestricted_key)
        self._chain = self._certified()

    @property
    def roots(self) -> tuple[bytes, ...]:
        """What a policy has to trust to take this world's machines, DER."""
        return (self._root.der,)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates of the machine's key, root included, DER."""
        return self._chain

    @property
    def published(self) -> Mapping[str, bytes]:
        """Certificates of the authorities by the addresses where certificates say they are, DER."""
        return {ISSUER_ADDRESS: self._issuer.der, ROOT_ADDRESS: self._root.der}

    def certify(self, key: Key) -> bytes:
        """What Google writes into an NV index of a vTPM with this attestation key, DER."""
        return self._leaf(self._issuer, key)

    def evidence(self, report_data: bytes, *, fresh: bool = True) -> bytes:
        """What the machine shows for 64 bytes of report data; without ``fresh`` the form for certificates."""
        attack = self._attack
        asked = bytes(64) if attack.replayed else report_data
        signing = self._other() if attack.other_vtpm else self.vtpm
        tpm = signing.evidence(qualifying_data(asked), self._chain, with_logs=fresh)
        quote = None
        if self._tdx is not None and not attack.td_missing:
            quote = self._tdx.quote(bytes(64) if attack.td_of_another else report_data)
        return GcpEvidence(tpm=self._spoiled(tpm), tdx=quote).encode()

    async def collect(self, report_data: bytes) -> bytes:
        """As :meth:`evidence` for certificates: a platform's way to ask."""
        return self.evidence(report_data, fresh=False)

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """As :meth:`evidence`: a platform's way to ask."""
        return self.evidence(report_data)

    def _spoiled(self, tpm: TpmEvidence) -> TpmEvidence:
        if self._attack.other_vtpm:
            return replace(tpm, key=self.vtpm.public)
        if self._attack.register_altered:
            shown = bytearray(tpm.registers[4])
            shown[0] ^= 1
            return replace(tpm, registers=(*tpm.registers[:4], bytes(shown), *tpm.registers[5:]))
        if self._attack.log_altered and tpm.logs is not None:
            return replace(tpm, logs=replace(tpm.logs, system=()))
        return tpm

    def _other(self) -> PaperTpm:
        return PaperTpm(self._booted.logs, ecc=self._ecc)

    def _certified(self) -> tuple[bytes, ...]:
        root, issuer = self._root, self._issuer
        if self._attack.foreign_root:
            root = Authority(root.name, self._clock)
            issuer = _intermediate(root, self._clock)
        vtpm = self._other() if self._attack.other_certificate else self.vtpm
        return self._leaf(issuer, vtpm.key), issuer.der, root.der

    def _leaf(self, issuer: Authority, key: Key) -> bytes:
        attack, named = self._attack, self._instance
        if attack.test_instance:
            named = replace(named, security=replace(named.security, production=False))
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.LOCALITY_NAME, named.zone),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Google Compute Engine"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, named.project_id),
                x509.NameAttribute(NameOID.COMMON_NAME, str(named.instance_id)),
            ]
        )
        extensions: list[x509.ExtensionType] = [_published_at(ISSUER_ADDRESS)]
        if not attack.no_instance:
            extensions.append(x509.UnrecognizedExtension(EXTENSION, encode_instance(named)))
        issued = issuer.issue(
            subject,
            key,
            KEY_LIFE,
            x509.BasicConstraints(ca=False, path_length=None),
            _usage(signs=not attack.endorsement_certificate),
            *extensions,
        )
        return issued.public_bytes(serialization.Encoding.DER)


def encode_instance(instance: Instance) -> bytes:
    """The extension's value for an instance, DER."""
    said = instance.security
    return asn1.encode_der(
        InstanceWire(
            zone=instance.zone,
            project_number=instance.project_number,
            project_id=instance.project_id,
            instance_id=instance.instance_id,
            instance_name=instance.instance_name,
            security=SecurityWire(
                security_version=said.version,
                production=said.production,
                tpm_data_always_encrypted=said.tpm_data_always_encrypted,
                suspend_resume_always_disabled=said.suspend_resume_always_disabled,
                vmtd_always_disabled=said.vmtd_always_disabled,
                always_in_yarn=said.always_in_yarn,
            ),
        )
    )


def _intermediate(root: Authority, clock: Callable[[], float]) -> Authority:
    """An authority under the root whose certificate says where the root's is published."""
    authority = Authority("EK/AK CA Intermediate", clock, root)
    plain = authority.certificate
    authority.certificate = root.issue(
        plain.subject,
        authority.key.public_key(),
        AUTHORITY_LIFE,
        plain.extensions.get_extension_for_class(x509.BasicConstraints).value,
        plain.extensions.get_extension_for_class(x509.KeyUsage).value,
        _published_at(ROOT_ADDRESS),
    )
    return authority


def _published_at(address: str) -> x509.AuthorityInformationAccess:
    location = x509.UniformResourceIdentifier(address)
    return x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
