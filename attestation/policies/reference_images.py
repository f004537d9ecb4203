"""The image hashes of a release: a manifest's register sets in, what a root contract has to list out. Pure.

An image hash covers the image *and* the measured configuration it was launched with, which no manifest knows: one
release has one hash for each set of registers and each configuration. Which registers enter it, by platform:

=========  =============================================================  ==============================================
platform   of the manifest                                                of the configuration
=========  =============================================================  ==============================================
``tdx``    MRTD, RTMR0, RTMR1, RTMR2; RTMR3 and owner fields if stated     MRCONFIGID: its digest and 16 zero bytes
``snp``    measurement                                                    HOST_DATA: its digest
``tpm``    PCR 4, 9, 11, 12                                               PCR 14: one extension with its event's digest
``azure``  measurement (of the paravisor), PCR 4, 9, 11, 12                PCR 14, as above
``gcp``    PCR 4, 9, 11, 12; the four of ``tdx`` on machines that have it  PCR 14, as above; MRCONFIGID is zero there
=========  =============================================================  ==============================================

RTMR3 is zero where a set states none: the guest extends it with nothing. MROWNER and MROWNERCONFIG are zero, as every
production policy demands. The hashes are those that a verifier computes from evidence (:mod:`attestation.claims`,
:mod:`attestation.tpm.references`, :mod:`attestation.azure.references`, :mod:`attestation.gcp.references`;
protocol specification, section 5.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation import claims
from attestation.azure import references as azure
from attestation.errors import EvidenceError
from attestation.gcp import references as gcp
from attestation.snp.reader import PLATFORM as SNP
from attestation.tpm import references as tpm
from measurements.tpm import configuration_register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from measurements.manifest import Manifest, Registers

_TDX_NEEDED = ("mrtd", "rtmr0", "rtmr1", "rtmr2")
_TDX_ZERO = ("mrowner", "mrownerconfig", "rtmr3")
_SHA384 = 48
_SHA256 = 32


@dataclass(frozen=True, slots=True)
class Configuration:
    """A measured configuration that machines are launched with.

    Attributes:
        name: For people, such as the name of its file.
        digest: ``MeasuredConfig.digest()``, 32 bytes; ``None`` for a launch that names none.
    """

    name: str
    digest: bytes | None


UNBOUND = Configuration("no configuration", None)
"""A launch that names none: MRCONFIGID and HOST_DATA are zero. Register 14 of a TPM never is that."""


@dataclass(frozen=True, slots=True)
class ReferenceImages:
    """What a release's machines will be known as.

    Attributes:
        hashes: Image hash (32 bytes) to the places it is for: platform, way to boot, shape, configuration.
        left_out: Place to the reason why no hash could be computed for it.
    """

    hashes: Mapping[bytes, tuple[str, ...]]
    left_out: Mapping[str, str]


def image_hashes(manifest: Manifest, configurations: Sequence[Configuration] = (UNBOUND,)) -> ReferenceImages:
    """Compute every image hash of a release.

    Args:
        manifest: The release.
        configurations: What its machines are launched with.

    Returns:
        The hashes, and the places that have none, with the reason.
    """
    hashes: dict[bytes, list[str]] = {}
    left_out: dict[str, str] = {}
    for registers in manifest.registers:
        for configuration in configurations:
            place = f"{registers.platform}, {registers.boot} boot, shape {registers.shape}, {configuration.name}"
            try:
                found = image_hash(registers, configuration)
            except EvidenceError as error:
                left_out[place] = error.message
            else:
                hashes.setdefault(found, []).append(place)
    return ReferenceImages({value: tuple(places) for value, places in hashes.items()}, left_out)


def image_hash(registers: Registers, configuration: Configuration) -> bytes:
    """The image hash of one set under one configuration, 32 bytes.

    Raises:
        EvidenceError: A register that enters it is missing, has another length, or says another configuration; or the
            set leaves open which image runs, so that listing the hash would admit any.
    """
    if not registers.decides_image:
        raise EvidenceError("its registers leave open which image runs: a machine with another one would be listed too")
    values = _Values({name: bytes.fromhex(text) for name, text in registers.values.items()}, configuration)
    match registers.platform:
        case "tdx":
            return claims.image_hash(values.tdx(bound=True))
        case "snp":
            parts = {"measurement": values.get("measurement", _SHA384), "host_data": values.bound("host_data", _SHA256)}
            return claims.platform_image_hash(SNP, parts)
        case "tpm":
            return tpm.image_hash(values.pcrs())
        case "azure":
            return azure.image_hash(values.get("measurement", _SHA384), values.pcrs())
        case "gcp":
            quoted = claims.image_hash(values.tdx(bound=False)) if values.has_tdx else None
            return gcp.image_hash(values.pcrs(gcp.IDENTITY_REGISTERS), quoted)
        case other:
            raise EvidenceError(f"no image hash is defined for machines of {other}")


@dataclass(frozen=True, slots=True)
class _Values:
    """One register set together with a configuration."""

    registers: Mapping[str, bytes]
    configuration: Configuration

    @property
    def has_tdx(self) -> bool:
        return any(name in self.registers for name in _TDX_NEEDED)

    def get(self, name: str, size: int) -> bytes:
        value = self.registers.get(name)
        if value is None:
            raise EvidenceError(f"the manifest states no {name} for it, and the image hash covers that")
        if len(value) != size:
            raise EvidenceError(f"{name} has {len(value)} bytes, expected {size}")
        return value

    def bound(self, name: str, size: int) -> bytes:
        """What carries the configuration's digest: zeros after it, or zeros alone."""
        return self._agreed(name, (self.configuration.digest or b"").ljust(size, b"\0"))

    def pcrs(self, identity: Sequence[int] = tpm.IDENTITY_REGISTERS) -> dict[int, bytes]:
        digest = self.configuration.digest
        found = {register: self.get(f"pcr{register}", _SHA256) for register in identity if register != 14}
        if digest is None:
            if "pcr14" not in self.registers:
                raise EvidenceError("PCR 14 holds the measured configuration, and none is named")
            return {**found, 14: self.get("pcr14", _SHA256)}
        return {**found, 14: self._agreed("pcr14", configuration_register(digest))}

    def tdx(self, *, bound: bool) -> bytes:
        """The 384 bytes of :func:`attestation.claims.image_hash`."""
        values = {name: self.get(name, _SHA384) for name in _TDX_NEEDED}
        for name in (*_TDX_ZERO, "mrconfigid"):
            values[name] = self.get(name, _SHA384) if name in self.registers else bytes(_SHA384)
        if bound:
            values["mrconfigid"] = self.bound("mrconfigid", _SHA384)
        order = ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        return b"".join(values[name] for name in order)

    def _agreed(self, name: str, wanted: bytes) -> bytes:
        """The configuration's value, unless the manifest states another one."""
        stated = self.registers.get(name, wanted)
        if self.configuration.digest is None:
            return stated
        if stated != wanted:
            raise EvidenceError(f"the manifest states {name} {stated.hex()}, the configuration makes it {wanted.hex()}")
        return wanted
