"""Machines of a synthetic SEV-SNP world, what can be wrong with them, and the reports that their firmware writes."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.snp.report import ECDSA_P384_SHA384, REPORT_SIZE, SIGNED_SIZE, GuestPolicy, PlatformInfo, SigningKey
from attestation.snp.tcb import Product, Tcb

CPUS = {Product.MILAN: (0x19, 0x01, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 0x02, 1)}
"""Family, model and stepping of one processor of each product."""

LEVELS = {
    Product.MILAN: {"bootloader": 4, "snp": 27, "microcode": 219},
    Product.GENOA: {"bootloader": 10, "snp": 26, "microcode": 84},
    Product.TURIN: {"fmc": 1, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 73},
}
"""Patch levels of a healthy machine; plausible, not AMD's word."""

OLD_LEVELS = {product: {**levels, "snp": 1, "microcode": 8} for product, levels in LEVELS.items()}
"""Patch levels of a machine that nobody updated."""

NO_AGENT = b"\xff" * 32
FIRMWARE = struct.pack("<BBB", 40, 55, 1)  # build, minor, major


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpMachine:
    """A healthy production machine.

    Attributes:
        product: Its processor's product line.
        version: Of its reports, 2 to 5.
        provider: The cloud whose key signs; empty where the chip's does.
        measurement: Launch digest, 48 bytes.
        host_data: 32 bytes.
        policy: Of the guest.
        platform_info: Of the machine.
        id_key_digest: 48 bytes.
        host_certificates: Whether its host keeps certificates for it.
    """

    product: Product = Product.GENOA
    version: int = 3
    provider: str = ""
    measurement: bytes = field(default_factory=lambda: hashlib.sha384(b"chrysalis simulated SNP image").digest())
    host_data: bytes = bytes(32)
    policy: int = GuestPolicy.RESERVED_ONE | GuestPolicy.SMT
    platform_info: int = PlatformInfo.SMT_EN | PlatformInfo.ECC_EN | PlatformInfo.ALIAS_CHECK_COMPLETE
    id_key_digest: bytes = bytes(48)
    host_certificates: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpAttack:
    """What is wrong with a machine, its report or its certificates; one field an attack.

    Attributes:
        debug_policy: The host may debug the guest.
        migration_policy: A migration agent may be bound to the guest.
        migration_agent: One is.
        unknown_policy_bit: The policy has a bit that nobody knows.
        vmpl: The report is asked from this privilege level.
        aliases_unchecked: Memory was not checked for aliases (BadRAM).
        unknown_platform_bit: Platform info has a bit that nobody knows.
        outdated_tcb: The machine was never updated, and AMD certifies just that.
        inflated_tcb: The firmware claims a higher patch level than the one its key is certified for.
        uncommitted_tcb: The host can go back to old firmware.
        old_launch: The guest was launched under old firmware.
        disguise: The report says that the processor is of this product.
        claims_cloud_key: The report says that a cloud's key signed it, where the chip's did.
        masked_chip: The host hides the chip's identifier.
        other_chip_certificate: The certificate is another chip's.
        foreign_chain: Every certificate is of another world with the same names.
        foreign_issuer: Between the right root and the right key stands another world's signing key.
        expired_certificate: The key's certificate ended.
        revoked_issuer: The root revoked the signing key's certificate.
        stale_crl: The revocation list ended.
        future_crl: The revocation list begins later.
        forged_crl: Another root signed the revocation list.
        missing_crl: There is no revocation list.
        forged_signature: Somebody else's key signed the report.
        altered_measurement: The launch digest was changed after signing.
        other_image: Another image was launched.
        other_configuration: The host gave the digest of another configuration.
        stranger_id_key: A stranger signed the ID block.
        replay: The report answers another request.
        reserved_bytes: The firmware sets bytes that the version reserves.
        cut: So many bytes are missing at the report's end.
        trailing: So many bytes follow the report.
    """

    debug_policy: bool = False
    migration_policy: bool = False
    migration_agent: bool = False
    unknown_policy_bit: bool = False
    vmpl: int = 0
    aliases_unchecked: bool = False
    unknown_platform_bit: bool = False
    outdated_tcb: bool = False
    inflated_tcb: bool = False
    uncommitted_tcb: bool = False
    old_launch: bool = False
    disguise: Product | None = None
    claims_cloud_key: bool = False
    masked_chip: bool = False
    other_chip_certificate: bool = False
    foreign_chain: bool = False
    foreign_issuer: bool = False
    expired_certificate: bool = False
    revoked_issuer: bool = False
    stale_crl: bool = False
    future_crl: bool = False
    forged_crl: bool = False
    missing_crl: bool = False
    forged_signature: bool = False
    altered_measurement: bool = False
    other_image: bool = False
    other_configuration: bool = False
    stranger_id_key: bool = False
    replay: bool = False
    reserved_bytes: bool = False
    cut: int = 0
    trailing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What one machine's firmware writes reports from.

    Attributes:
        machine: As it was ordered.
        attack: What is wrong with it.
        chip_id: 64 bytes.
        tcb: The certified patch level.
    """

    machine: SnpMachine
    attack: SnpAttack
    chip_id: bytes
    tcb: Tcb

    def report(self, report_data: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        """A signed report.

        Args:
            report_data: 64 bytes.
            key: Signs it; P-384.
        """
        attack = self.attack
        content = bytearray(self._content(bytes(64) if attack.replay else report_data))
        if attack.reserved_bytes:
            content[0x290] = 1
        signer = ec.generate_private_key(ec.SECP384R1()) if attack.forged_signature else key
        numbers = decode_dss_signature(signer.sign(bytes(content), ec.ECDSA(hashes.SHA384())))
        signature = b"".join(number.to_bytes(72, "little") for number in numbers)
        if attack.altered_measurement:
            content[0x90] ^= 1
        whole = bytes(content) + signature.ljust(REPORT_SIZE - SIGNED_SIZE, b"\0")
        return whole[: REPORT_SIZE - attack.cut] + bytes(attack.trailing)

    def _content(self, report_data: bytes) -> bytes:
        machine, attack = self.machine, self.attack
        healthy, old = self.tcb.raw, Tcb.of(machine.product, **OLD_LEVELS[machine.product]).raw
        claimed = replace(self.tcb, raw=healthy[:-1] + bytes((healthy[-1] + 1,))).raw
        cpu = CPUS[attack.disguise or machine.product] if machine.version >= 3 else (0, 0, 0)
        by_cloud = bool(machine.provider) or attack.claims_cloud_key
        stranger = hashlib.sha384(b"a stranger").digest()
        mitigations = 1 if machine.version >= 5 else 0
        parts = (
            struct.pack("<IIQ", machine.version, 0, machine.policy | self._policy()),
            bytes(32),  # family and image id
            struct.pack("<II", attack.vmpl, ECDSA_P384_SHA384),
            claimed if attack.inflated_tcb else healthy,
            struct.pack("<Q", self._platform()),
            struct.pack("<II", (SigningKey.VLEK if by_cloud else SigningKey.VCEK) << 2, 0),
            report_data,
            hashlib.sha384(b"another image").digest() if attack.other_image else machine.measurement,
            hashlib.sha256(b"another configuration").digest() if attack.other_configuration else machine.host_data,
            stranger if attack.stranger_id_key else machine.id_key_digest,
            bytes(48),  # author key
            hashlib.sha256(self.chip_id).digest(),  # report id
            hashlib.sha256(b"an agent").digest() if attack.migration_agent else NO_AGENT,
            claimed if attack.inflated_tcb else healthy,
            bytes(cpu) + bytes(21),
            bytes(64) if attack.masked_chip else self.chip_id,
            old if attack.uncommitted_tcb else healthy,
            FIRMWARE + bytes(1) + FIRMWARE + bytes(1),
            old if attack.old_launch else healthy,
            struct.pack("<QQ", mitigations, mitigations),
            bytes(152),
        )
        return b"".join(parts)

    def _policy(self) -> int:
        attack = self.attack
        return (
            GuestPolicy.DEBUG * attack.debug_policy
            | GuestPolicy.MIGRATE_MA * attack.migration_policy
            | (1 << 40) * attack.unknown_policy_bit
        )

    def _platform(self) -> int:
        info = self.machine.platform_info | (1 << 40) * self.attack.unknown_platform_bit
        return info & ~PlatformInfo.ALIAS_CHECK_COMPLETE if self.attack.aliases_unchecked else info
