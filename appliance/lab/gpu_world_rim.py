"""Reference manifests of a synthetic vendor: SWID tags with golden values, signed as the real ones are.

Structure, namespaces, which indices are active and how many alternatives each has are those of the published
manifests for Hopper (ISO/IEC 19770-2, TCG RIM information model; enveloped signature, canonical XML 1.1, ECDSA with
SHA-384, four certificates). The golden values are made up from the version. Indices count from 0; a report's from 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
from signxml.signer import XMLSigner

from appliance.lab.gpu_world_attack import RimFault
from appliance.lab.gpu_world_report import DIGEST_BYTES, GPU_MEASUREMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
TCG_RIM = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
DRIVER_ALTERNATIVES: Mapping[int, int] = {
    7: 1, 21: 1, 22: 1, 23: 2, 24: 2, 25: 1, 26: 1, 27: 1, 28: 1, 29: 1, 30: 1, 31: 1, 32: 2, 33: 1, 34: 2, 35: 4,
    36: 2, 37: 1, 38: 1, 39: 1, 40: 1,
}  # fmt: skip
"""Active indices of a driver's manifest and how many golden values each has."""
VBIOS_ALTERNATIVES: Mapping[int, int] = {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 4}
"""Active indices of a VBIOS's manifest and how many golden values each has."""
SWITCH_ALTERNATIVES: Mapping[int, int] = dict.fromkeys((*range(7), 8, 10, 11, 14, *range(18, 27)), 1)
"""Active indices of a switch's manifest."""
_ZERO = frozenset({0, 8, 10, 28})
"""Indices of GPUs whose golden value is zero."""


def golden(kind: str, version: str, alternatives: Mapping[int, int]) -> dict[int, tuple[bytes, ...]]:
    """Golden values of a version: alternatives of 48 bytes by index."""
    found = {}
    for index, count in alternatives.items():
        seeds = [f"chrysalis simulated {kind} {version} {index} {number}".encode() for number in range(count)]
        values = tuple(hashlib.sha384(seed).digest() for seed in seeds)
        found[index] = (bytes(DIGEST_BYTES),) if index in _ZERO and kind != "switch" else values
    return found


def switch_rim_id(bios: str) -> str:
    """Name of an NVSwitch's manifest: boards of one kind carry them all."""
    return f"NV_SWITCH_BIOS_5612_0002_890_{bios.replace('.', '')}"


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs manifests: a key and its certificates from the leaf to the root."""

    key: EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says.

    Attributes:
        rim_id: Its name at the service.
        chip: The product.
        version: Of driver or VBIOS.
        values: Golden values by index.
        edition: Kind of product.
        size: How many indices it lists, active or not.
    """

    rim_id: str
    chip: str
    version: str
    values: Mapping[int, Sequence[bytes]]
    edition: str = "GPU"
    size: int = GPU_MEASUREMENTS

    def signed(self, signer: Signer, fault: RimFault = RimFault.NONE) -> bytes:
        """The manifest as XML, signed; with whatever ``fault`` makes of it.

        Faults of its certificates are the caller's: it passes another signer.
        """
        if fault is RimFault.GARBAGE:
            return b"<html><body>Service Unavailable</body>"
        document = etree.fromstring(self.text(fault))
        if fault is RimFault.UNSIGNED:
            return etree.tostring(document)
        root = _sign(document, signer, fault)
        if fault is RimFault.ALTERED:
            entry = next(item for item in root.iter(f"{{{SWID}}}Resource") if item.get("active") == "True")
            entry.set(f"{{{SHA384}}}Hash0", "ab" * DIGEST_BYTES)
        if fault is RimFault.WRAPPED:
            root = self._wrapped(root)
        text: bytes = etree.tostring(root)
        if fault is RimFault.ENTITIES:
            return _ENTITIES + text.replace(b"</ns0:Payload>", b"&j;</ns0:Payload>")
        return text

    def text(self, fault: RimFault = RimFault.NONE) -> str:
        """The manifest before it is signed."""
        entries = []
        for index in range(self.size):
            entries.append(self._entry(index, fault))
            if fault is RimFault.DUPLICATE_INDEX and index == min(self.values):
                entries.append(_resource(index, (b"\xab" * DIGEST_BYTES,), active=True))
        tag = hashlib.sha384(self.rim_id.encode()).hexdigest()
        body = "\n".join(f"        {entry}" for entry in entries)
        chip, maker = self.chip, "NVIDIA Corporation"
        return (
            f'<SoftwareIdentity xmlns="{SWID}" xmlns:ns0="{SWID}" xmlns:ns2="{SHA384}" corpus="false" name="{chip}"'
            f' patch="false" supplemental="false" tagId="{tag}" version="1.0" tagVersion="0">\n'
            f'    <ns0:Entity name="{maker}" role="softwareCreator tagCreator"/>\n'
            f'    <ns0:Meta xmlns:ns1="{TCG_RIM}" colloquialVersion="{self.version}" edition="{self.edition}"'
            f' product="{chip}" revision="r1" PayloadType="direct" ns1:BindingSpec="RIMIM"'
            f' ns1:BindingSpecVersion="1.01" ns1:PlatformManufacturerId="5703"'
            f' ns1:PlatformManufacturerStr="{maker}" ns1:PlatformModel="{chip}"'
            f' ns1:FirmwareManufacturer="{maker}" ns1:FirmwareManufacturerId="5703"/>\n'
            f'    <ns0:Payload xmlns:SHA384="{SHA384}">\n{body}\n    </ns0:Payload>\n</SoftwareIdentity>'
        )

    def _entry(self, index: int, fault: RimFault) -> str:
        found = self.values.get(index)
        active = found is not None and fault is not RimFault.NOTHING_ACTIVE
        claimed = 1_000_000 if fault is RimFault.MANY_ALTERNATIVES and active else None
        return _resource(index, found or (bytes(DIGEST_BYTES),), active=active, claimed=claimed)

    def _wrapped(self, root: etree._Element) -> etree._Element:
        """A manifest with other values around the signed one."""
        other = replace(self, values=dict.fromkeys(self.values, (b"\xab" * DIGEST_BYTES,)))
        around = etree.fromstring(other.text())
        around.append(root)
        return around


def _resource(index: int, values: Sequence[bytes], *, active: bool, claimed: int | None = None) -> str:
    hashes = " ".join(f'ns2:Hash{number}="{value.hex()}"' for number, value in enumerate(values))
    return (
        f'<ns0:Resource type="Measurement" index="{index}" active="{active}"'
        f' alternatives="{claimed or len(values)}" {hashes} name="Measurement_{index}" size="{DIGEST_BYTES}"/>'
    )


def _sign(document: etree._Element, signer: Signer, fault: RimFault) -> etree._Element:
    """Enveloped signature as the vendor's: one reference to the whole, certificates from the leaf to the root."""
    xml = XMLSigner(
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    reference = None
    if fault is RimFault.PARTIAL:
        entity = document.find(f"{{{SWID}}}Entity")
        if entity is not None:
            entity.set("Id", "entity")
        reference = "#entity"
    chain = None if fault is RimFault.BARE_KEY else list(signer.chain)
    return xml.sign(document, key=signer.key, cert=chain, reference_uri=reference)


_ENTITIES = (
    b'<!DOCTYPE SoftwareIdentity [<!ENTITY a "0123456789">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]>\n"
)
