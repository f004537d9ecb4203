"""Who publishes the reference manifests of a synthetic vendor: root, authorities, a signer for each kind of manifest.

Authorities are those of the published manifests: a root, one for a generation's reference values, one that issues
signers. Signers live two years. An attack on the signer makes another signer; attacks on what is signed are
:meth:`appliance.lab.gpu_world_rim.Manifest.signed`'s.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography import x509

from appliance.lab.gpu_world_attack import RimFault
from appliance.lab.gpu_world_ocsp import Subject
from appliance.lab.gpu_world_pki import Authority, Valid, der, key_usage, name, new_key, ocsp_location
from appliance.lab.gpu_world_rim import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.lab.gpu_world_attack import GpuAttack
    from appliance.lab.gpu_world_ocsp import Responder
    from appliance.lab.gpu_world_rim import Manifest

ROLES = ("driver", "vbios")
_DAY = dt.timedelta(days=1)
_SIGNER_LIFE = 730 * _DAY


class Publisher:
    """Publishes manifests.

    Args:
        founded: When the root's certificate begins.
        now: The present.
        responder: Answers about its certificates; one attack signs a manifest with the responder's key.
        stranger: Makes a signer out of a device's attestation key, for the attack that does.
    """

    def __init__(
        self,
        founded: dt.datetime,
        now: Callable[[], dt.datetime],
        responder: Responder,
        stranger: Callable[[], tuple[Signer, Subject]],
    ) -> None:
        self._now = now
        self._responder = responder
        self._stranger = stranger
        moment = now()
        self._issuers = _issuers(
            Valid(founded, moment + 9000 * _DAY),
            Valid(moment - 900 * _DAY, moment + 2500 * _DAY),
            Valid(moment - 600 * _DAY, moment + 700 * _DAY),
        )
        self._signers: dict[tuple[str, RimFault], tuple[Signer, Subject]] = {}

    @property
    def root(self) -> bytes:
        """Root of manifests, DER."""
        return der(self._issuers[-1].certificate)

    def publish(self, role: str, manifest: Manifest, fault: RimFault, others: Mapping[int, tuple[bytes, ...]]) -> bytes:
        """Sign a manifest, with whatever ``fault`` makes of it.

        Args:
            role: One of :data:`ROLES`.
            manifest: What it says.
            fault: What is wrong with it.
            others: Golden values of the other manifest that a device needs.
        """
        if fault is RimFault.CONFLICTING:
            index = min(others.keys() - manifest.values.keys())
            manifest = replace(manifest, values={**manifest.values, index: others[index]})
        if fault is RimFault.OTHER_VERSION:
            last = "1" if manifest.version.endswith("0") else "0"
            manifest = replace(manifest, version=manifest.version[:-1] + last)
        if fault is RimFault.OTHER_CHIP:
            manifest = replace(manifest, chip="GB100")
        return manifest.signed(self._signer(role, fault)[0], fault)

    def subjects(self, attack: GpuAttack) -> list[Subject]:
        """Every certificate whose revocation can be asked for, with what an attack calls it."""
        issuer, above, root = self._issuers
        return [
            Subject(above.certificate, root, "rim-ca"),
            Subject(issuer.certificate, above, "rim-issuer"),
            *(self._signer(role, attack.rim_fault(role))[1] for role in ROLES),
        ]

    def _signer(self, role: str, fault: RimFault) -> tuple[Signer, Subject]:
        """Who signs the manifests of a role, made when first needed."""
        kind = fault if fault in _SIGNER_FAULTS else RimFault.NONE
        if (role, kind) not in self._signers:
            signer, subject = self._make_signer(kind)
            self._signers[role, kind] = signer, replace(subject, role=role)
        return self._signers[role, kind]

    def _make_signer(self, fault: RimFault) -> tuple[Signer, Subject]:
        issuers = self._issuers
        if fault is RimFault.NOT_A_SIGNER:
            return self._stranger()
        if fault is RimFault.SIGNED_BY_RESPONDER:
            delegate, key = self._responder.delegate(issuers[0], self._now())
            return Signer(key, (delegate, *_certificates(issuers))), Subject(delegate, issuers[0], "")
        if fault is RimFault.SIGNED_BY_AUTHORITY:
            return Signer(issuers[0].key, _certificates(issuers)), Subject(issuers[0].certificate, issuers[1], "")
        if fault is RimFault.FORGED:
            issuers = _issuers(*(issuer.valid for issuer in reversed(issuers)))
        since = self._now() + _SIGNER_AGES.get(fault, -300 * _DAY)
        key = new_key()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage(signs_certificates=False), True),
            (ocsp_location(), False),
        ]
        leaf = issuers[0].issue(name("HCC RIM L4 Signer"), key, Valid(since, since + _SIGNER_LIFE), extensions)
        return Signer(key, (leaf, *_certificates(issuers))), Subject(leaf, issuers[0], "")


def _issuers(root: Valid, reference: Valid, issuing: Valid) -> tuple[Authority, Authority, Authority]:
    """The authorities above a signer, the root last."""
    top = Authority(name("NVIDIA CoRIM signing Root CA", organisation="NVIDIA"), root)
    values = Authority(name("NVIDIA Reference Value GH100 CA"), reference, top)
    return Authority(name("NVIDIA Reference Value L3 GH100 002"), issuing, values, path_length=0), values, top


def _certificates(issuers: tuple[Authority, ...]) -> tuple[x509.Certificate, ...]:
    return tuple(issuer.certificate for issuer in issuers)


_SIGNER_AGES = {RimFault.EXPIRED: -_SIGNER_LIFE - _DAY, RimFault.FUTURE: _DAY}
"""When a signer's certificate begins, from now."""

_SIGNER_FAULTS = frozenset({
    RimFault.FORGED,
    RimFault.NOT_A_SIGNER,
    RimFault.SIGNED_BY_RESPONDER,
    RimFault.SIGNED_BY_AUTHORITY,
    *_SIGNER_AGES,
})  # fmt: skip
