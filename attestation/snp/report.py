"""The attestation report: 1184 bytes, versions 2 to 5 (SEV-SNP firmware ABI 56860, revision 1.58, table 23).

Version 3 added the CPUID signature, version 5 the mitigation vectors; everything that a version reserves must be zero,
since a bit that is set there means something that this reader does not know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.snp.tcb import product_of_cpu

if TYPE_CHECKING:
    from attestation.snp.tcb import Product

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1
_NUMBER = 72  # r and s: little-endian, zero-extended (56860, "Format for an ECDSA P-384 with SHA-384 signature")
_WITH_CPUID = 3
_WITH_MITIGATIONS = 5


class SigningKey(IntEnum):
    """Which key signed (offset 0x48, bits 4:2)."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """What the owner allows the host to do with the guest (56860, section 4.3): 64 bits.

    Attributes:
        raw: All of them.
    """

    raw: int

    SMT = 1 << 16
    RESERVED_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25
    KNOWN = (1 << 26) - 1

    @property
    def abi(self) -> tuple[int, int]:
        """The lowest firmware ABI version that may run the guest: major and minor."""
        return self.raw >> 8 & 0xFF, self.raw & 0xFF

    def has(self, bit: int) -> bool:
        """Whether a bit is set."""
        return bool(self.raw & bit)


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """What the firmware says of the machine (56860, "PLATFORM_INFO"): 64 bits.

    Attributes:
        raw: All of them.
    """

    raw: int

    SMT_EN = 1 << 0
    TSME_EN = 1 << 1
    ECC_EN = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING_DRAM_EN = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    IOMMU_WRITE_SAFE = 1 << 6
    TIO_EN = 1 << 7
    KNOWN = (1 << 8) - 1

    def has(self, bit: int) -> bool:
        """Whether a bit is set."""
        return bool(self.raw & bit)


@dataclass(frozen=True, slots=True)
class FirmwareVersion:
    """Version of the SEV firmware; it orders as versions do."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """A parsed report; nothing in it is verified yet. TCB versions are raw: their layout is the product's.

    Attributes:
        version: 2 to 5.
        guest_svn: Of the ID block.
        policy: The guest's policy.
        family_id: Of the ID block, 16 bytes.
        image_id: Of the ID block, 16 bytes.
        vmpl: Privilege level that the report was asked from.
        current_tcb: Of the firmware that runs, 8 bytes.
        platform_info: Features of the machine.
        author_key_enabled: Whether ``author_key_digest`` means something.
        mask_chip_key: Whether the host forbids to sign with the chip's key.
        signing_key: Which key signed.
        report_data: What the guest asked for, 64 bytes.
        measurement: Launch digest, 48 bytes.
        host_data: What the host gave at launch, 32 bytes.
        id_key_digest: SHA-384 of the key that signed the ID block, 48 bytes, zeros without.
        author_key_digest: SHA-384 of the key that certified it, 48 bytes, zeros without.
        report_id: Of this guest, 32 bytes.
        report_id_ma: Of its migration agent, 32 bytes; all ones without.
        reported_tcb: What the signing key was derived for, 8 bytes.
        cpuid: Family, model and stepping, ``None`` in version 2.
        chip_id: Of the processor, 64 bytes; zeros if the host masks it.
        committed_tcb: What the firmware cannot go back from, 8 bytes.
        current_version: Of the firmware that runs.
        committed_version: Of the firmware that it cannot go back from.
        launch_tcb: When the guest was launched or imported, 8 bytes.
        launch_mitigations: Mitigation vector at launch, ``None`` before version 5.
        current_mitigations: Mitigation vector now, ``None`` before version 5.
        signature: r and s.
        signed: What the signature is over, 672 bytes.
    """

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: PlatformInfo
    author_key_enabled: bool
    mask_chip_key: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    signature: tuple[int, int]
    signed: bytes

    @property
    def product(self) -> Product | None:
        """The product that the report names, ``None`` in version 2 and for one that is not known here."""
        return product_of_cpu(*self.cpuid[:2]) if self.cpuid else None


def parse_report(data: bytes) -> SnpReport:
    """Read a report.

    Args:
        data: Exactly 1184 bytes.

    Raises:
        EvidenceError: Another length, version or signature algorithm, or reserved bytes that are not zero.
    """
    if len(data) != REPORT_SIZE:
        raise EvidenceError(f"SNP report of {len(data)} bytes, expected {REPORT_SIZE}")
    version, guest_svn, policy = struct.unpack_from("<IIQ", data, 0)
    if version not in VERSIONS:
        raise EvidenceError(f"SNP report of version {version}, expected {VERSIONS[0]} to {VERSIONS[-1]}")
    vmpl, algorithm = struct.unpack_from("<II", data, 0x30)
    if algorithm != ECDSA_P384_SHA384:
        raise EvidenceError(f"SNP report signed by algorithm {algorithm}, expected 1 (ECDSA P-384 with SHA-384)")
    (platform_info,) = struct.unpack_from("<Q", data, 0x40)
    (flags,) = struct.unpack_from("<I", data, 0x48)
    with_cpuid, with_mitigations = version >= _WITH_CPUID, version >= _WITH_MITIGATIONS
    for start, end in (
        (0x4C, 0x50),
        (0x18B if with_cpuid else 0x188, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208 if with_mitigations else 0x1F8, SIGNED_SIZE),
        (SIGNED_SIZE + 2 * _NUMBER, REPORT_SIZE),
    ):
        if any(data[start:end]):
            raise EvidenceError(
                f"SNP report of version {version} with reserved bytes {start:#x} to {end - 1:#x} that are not zero",
                hint="a newer firmware may have given them a meaning that this version does not know",
            )
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=GuestPolicy(policy),
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=vmpl,
        current_tcb=data[0x38:0x40],
        platform_info=PlatformInfo(platform_info),
        author_key_enabled=bool(flags & 1),
        mask_chip_key=bool(flags & 2),
        signing_key=_signing_key(flags),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=data[0x180:0x188],
        cpuid=(data[0x188], data[0x189], data[0x18A]) if with_cpuid else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_version=FirmwareVersion(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_version=FirmwareVersion(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_tcb=data[0x1F0:0x1F8],
        launch_mitigations=int.from_bytes(data[0x1F8:0x200], "little") if with_mitigations else None,
        current_mitigations=int.from_bytes(data[0x200:0x208], "little") if with_mitigations else None,
        signature=(_number(data, SIGNED_SIZE), _number(data, SIGNED_SIZE + _NUMBER)),
        signed=data[:SIGNED_SIZE],
    )


def _signing_key(flags: int) -> SigningKey:
    key = flags >> 2 & 7
    if flags >> 5 or key not in set(SigningKey):
        raise EvidenceError(
            f"SNP report with flags {flags:#x}: reserved bits are set, or the signing key {key} is none that is known"
        )
    return SigningKey(key)


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + _NUMBER], "little")
