"""Reference integrity manifests (RIMs): NVIDIA's signed lists of the measurements that a driver or a VBIOS leads to.

A RIM is a SWID tag (ISO/IEC 19770-2, TCG RIM information model 1.01) with an enveloped XML signature (ECDSA-SHA384):
``Meta`` says product and version, each ``Resource`` of the ``Payload`` an index and the digests of which a measurement
has to equal one. Indices count from 0, SPDM's from 1. The names of the files say what they belong to::

    NV_GPU_DRIVER_GH100_<driver>                                    the driver, Hopper
    NV_GPU_CC_DRIVER_<chip>_<driver>                                the driver, later chips
    NV_GPU_VBIOS_<project>_<project sku>_<chip sku>_<vbios>         the VBIOS
    NV_SWITCH_BIOS_5612_0002_890_<bios>                             an NVSwitch's BIOS

Nothing of a manifest is returned unless its signature held, and only what the signature covers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attestation.errors import EvidenceError
from attestation.gpu.chain import check_path_dates
from attestation.gpu.rim_xml import NS_SHA384, NS_SWID, signed_tag
from attestation.gpu.spdm import Opaque, SpdmReport, parse_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxml.etree import _Element

    from attestation.gpu.chain import Path
    from attestation.gpu.memory import Memory

DIGEST_SIZE: Final = 48
MAX_ALTERNATIVES: Final = 64
MAX_INDEX: Final = 252
_HOPPER: Final = "GH100"
_SWITCH_BOARD: Final = "5612_0002_890"
"""Project, SKU and chip SKU of the HGX board's switches, which their reports do not say."""

_ID_PART: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A verified manifest.

    Attributes:
        version: Version of the driver or VBIOS it is for.
        product: The chip, for example ``GH100``.
        golden: The allowed digests by index, from 0; what the manifest marks inactive is not in it.
        path: The signer's chain.
    """

    version: str
    product: str
    golden: Mapping[int, tuple[bytes, ...]]
    path: Path


def read_rim(data: bytes, roots: tuple[bytes, ...], now: float, memory: Memory | None = None) -> Manifest:
    """Verify a manifest and read it.

    Args:
        data: The XML document.
        roots: Roots of manifests, DER.
        now: Unix time at which the signer's certificates have to be valid.
        memory: Remembers manifests; without it every one is verified and read.

    Raises:
        EvidenceError: It is no manifest, is not signed under a root, or says something twice or not at all.
    """
    if memory is None:
        return _read(data, roots, now, None)
    manifest = memory.manifest(lambda: _read(data, roots, now, memory), data, *roots)
    check_path_dates(manifest.path.certificates, now)
    return manifest


def _read(data: bytes, roots: tuple[bytes, ...], now: float, memory: Memory | None) -> Manifest:
    tag, path = signed_tag(data, roots, now, memory)
    meta = _only(tag, "Meta")
    return Manifest(
        version=_attribute(meta, "colloquialVersion"),
        product=_attribute(meta, "product"),
        golden=golden_of(tag),
        path=path,
    )


def golden_of(tag: _Element) -> Mapping[int, tuple[bytes, ...]]:
    """The active reference values of a tag by index.

    Raises:
        EvidenceError: Not one payload, no active resource, an index that comes twice, a value that is no SHA-384
            digest, or a number of alternatives that is not the number of values.
    """
    resources: dict[int, _Element] = {}
    for item in _only(tag, "Payload"):
        if item.tag != f"{{{NS_SWID}}}Resource" or item.get("type") != "Measurement":
            raise EvidenceError(
                f"manifest payload with an element {str(item.tag)[-40:]!r}, expected measurements alone"
            )
        index = _number(item, "index", range(MAX_INDEX + 1))
        if index in resources:
            raise EvidenceError(f"manifest with index {index} twice")
        resources[index] = item
    found: dict[int, tuple[bytes, ...]] = {}
    for index, item in resources.items():
        values = _digests(item, index)
        active = _attribute(item, "active")
        if active not in {"True", "False"}:
            raise EvidenceError(f"manifest index {index} is neither active nor inactive: {active!r}")
        if active == "True":
            found[index] = values
    if not found:
        raise EvidenceError("manifest without an active measurement")
    return found


def rim_ids(report: bytes | SpdmReport) -> tuple[str, ...]:
    """Names of the manifests that a report needs: the driver's and the VBIOS's for a GPU, the BIOS's for a switch.

    Raises:
        EvidenceError: The report is none, or a field that the names are made of is missing or odd.
    """
    parsed = parse_report(report) if isinstance(report, bytes) else report
    vbios = vbios_version(parsed).replace(".", "").upper()
    if Opaque.DRIVER_VERSION not in parsed.opaque:
        return (f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{_part(vbios, 'BIOS version')}",)
    chip = parsed.text(Opaque.CHIP_INFO)
    prefix = f"NV_GPU_CC_DRIVER_{_part(chip, 'chip')}" if chip else f"NV_GPU_DRIVER_{_HOPPER}"
    names = [
        _part(parsed.text(field).strip().upper(), field.name.lower())
        for field in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU)
    ]
    return (
        f"{prefix}_{_part(parsed.text(Opaque.DRIVER_VERSION), 'driver version')}",
        f"NV_GPU_VBIOS_{'_'.join(names)}_{_part(vbios, 'VBIOS version')}",
    )


def vbios_version(report: SpdmReport) -> str:
    """The VBIOS version as it is printed, for example ``96.00.9F.00.01``.

    A GPU reports 8 bytes, little-endian: the upper word last, then one byte of the lower one; a switch reports text.

    Raises:
        EvidenceError: The field is missing or of another length.
    """
    if Opaque.DRIVER_VERSION not in report.opaque:
        return report.text(Opaque.VBIOS_VERSION)
    raw = report.opaque.get(Opaque.VBIOS_VERSION, b"")
    if len(raw) != 8:
        raise EvidenceError(f"VBIOS version of {len(raw)} bytes, expected 8")
    digits = raw[3::-1] + raw[4:5]
    return ".".join(f"{byte:02X}" for byte in digits)


def _only(tag: _Element, name: str) -> _Element:
    found = [item for item in tag if item.tag == f"{{{NS_SWID}}}{name}"]
    if len(found) != 1:
        raise EvidenceError(f"manifest with {len(found)} elements {name}, expected one")
    return found[0]


def _digests(item: _Element, index: int) -> tuple[bytes, ...]:
    count = _number(item, "alternatives", range(1, MAX_ALTERNATIVES + 1))
    prefix = f"{{{NS_SHA384}}}Hash"
    given = {name for name in map(str, item.attrib) if name.startswith(prefix)}
    names = [f"{prefix}{number}" for number in range(count)]
    if given != set(names):
        raise EvidenceError(f"manifest index {index} has {len(given)} SHA-384 values, announced are {count}")
    _number(item, "size", range(DIGEST_SIZE, DIGEST_SIZE + 1))
    try:
        values = tuple(bytes.fromhex(_attribute(item, name)) for name in names)
    except ValueError:
        raise EvidenceError(f"manifest index {index} with a value that is not hexadecimal") from None
    if any(len(value) != DIGEST_SIZE for value in values):
        raise EvidenceError(f"manifest index {index} with a value that is not {DIGEST_SIZE} bytes")
    return values


def _number(item: _Element, name: str, allowed: range) -> int:
    text = _attribute(item, name)
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) not in allowed:
        raise EvidenceError(f"manifest with {name} {text[:20]!r}, expected {allowed[0]} to {allowed[-1]}")
    return int(text)


def _attribute(item: _Element, name: str) -> str:
    value = item.get(name)
    if not value or len(value) > 256:
        raise EvidenceError(f"manifest without {name.rpartition('}')[2]}, or with one that is too long")
    return str(value)


def _part(text: str, what: str) -> str:
    if not _ID_PART.fullmatch(text):
        raise EvidenceError(f"{what} {text[:32]!r} in a device report cannot be part of a manifest's name")
    return text
