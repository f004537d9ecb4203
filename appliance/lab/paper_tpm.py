"""A TPM on paper: an attestation key, registers and the log that led to them, and quotes of the real layout.

What a cloud's vTPM shows, without a TPM to run: description in, structures out. The key lies in this process: nothing
that rests on it means anything beyond a test. Layout: TPM 2.0 Library, part 2, sections 10.12, 11.3 and 12.2.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.tpm import algorithms as alg
from attestation.tpm.attest import MAGIC, TYPE_QUOTE
from attestation.tpm.evidence import REGISTERS, TpmEvidence
from attestation.tpm.keys import ATTESTATION_KEY, HIERARCHIES, Attribute
from attestation.tpm.logs import BootLogs, SystemEvent
from attestation.tpm.marshal import sized
from measurements.tpm import RESET, configuration_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from measurements.tpm import TpmPrediction

RSA_BITS = 2048
_P256 = 3
_SELECT_SIZE = 3
_EV_EFI = 0x80000006
_USER_WITH_AUTH, _NO_DICTIONARY_LOCK = 1 << 6, 1 << 10
_ATTRIBUTES = sum(bit for bit, wanted in ATTESTATION_KEY.items() if wanted) | _USER_WITH_AUTH | _NO_DICTIONARY_LOCK
_FIRMWARE = (
    (0, hashlib.sha256(b"firmware").digest()),
    (2, hashlib.sha256(bytes(4)).digest()),
    (7, hashlib.sha256(b"secure boot").digest()),
)
"""What every machine here measures besides its image."""


class PaperTpm:
    """One TPM.

    Args:
        logs: What its registers were extended with.
        ecc: Whether its key is on P-256 rather than RSA.
        restricted: Whether the key signs nothing but the TPM's own statements, as an attestation key has to.
    """

    def __init__(self, logs: BootLogs, *, ecc: bool = False, restricted: bool = True) -> None:
        self.logs = logs
        self.private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
            ec.generate_private_key(ec.SECP256R1()) if ecc else rsa.generate_private_key(65537, RSA_BITS)
        )
        self._attributes = _ATTRIBUTES if restricted else _ATTRIBUTES & ~Attribute.RESTRICTED

    @property
    def key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """The public attestation key."""
        return self.private.public_key()

    @property
    def registers(self) -> dict[int, bytes]:
        """SHA-256 registers 0 to 15 by the logs."""
        return {**dict.fromkeys(REGISTERS, RESET), **self.logs.replay()}

    @property
    def public(self) -> bytes:
        """TPM2B_PUBLIC of the attestation key."""
        key = self.key
        if isinstance(key, rsa.RSAPublicKey):
            kind, scheme = alg.RSA, alg.RSASSA
            modulus = key.public_numbers().n.to_bytes(RSA_BITS // 8, "big")
            rest = struct.pack(">HI", RSA_BITS, 0) + sized(modulus)
        else:
            kind, scheme = alg.ECC, alg.ECDSA
            point = key.public_numbers()
            coordinates = (sized(value.to_bytes(32, "big")) for value in (point.x, point.y))
            rest = struct.pack(">HH", _P256, alg.NULL) + b"".join(coordinates)
        head = struct.pack(">HHI", kind, alg.SHA256, self._attributes) + sized(b"")
        return sized(head + struct.pack(">HHH", alg.NULL, scheme, alg.SHA256) + rest)

    def quote(self, extra: bytes) -> tuple[bytes, bytes]:
        """Quote registers 0 to 15.

        Returns:
            TPMS_ATTEST and TPMT_SIGNATURE.
        """
        name = struct.pack(">H", alg.SHA256) + hashlib.sha256(self.public[2:]).digest()
        signer = hashlib.sha256(HIERARCHIES["endorsement"].to_bytes(4, "big") + name).digest()
        digest = hashlib.sha256(b"".join(self.registers[register] for register in REGISTERS)).digest()
        selected = sum(1 << register for register in REGISTERS).to_bytes(_SELECT_SIZE, "little")
        message = (
            struct.pack(">IH", MAGIC, TYPE_QUOTE)
            + sized(struct.pack(">H", alg.SHA256) + signer)
            + sized(extra)
            + struct.pack(">QIIBQ", 90_000, 3, 0, 1, 0x2016051100162800)
            + struct.pack(">IHB", 1, alg.SHA256, _SELECT_SIZE)
            + selected
            + sized(digest)
        )
        return message, self._sign(message)

    def evidence(self, extra: bytes, chain: tuple[bytes, ...], *, with_logs: bool) -> TpmEvidence:
        """What the machine's platform would put together."""
        message, signature = self.quote(extra)
        registers = self.registers
        return TpmEvidence(
            quote=message,
            signature=signature,
            key=self.public,
            chain=chain,
            registers=tuple(registers[register] for register in REGISTERS),
            logs=self.logs if with_logs else None,
        )

    def _sign(self, message: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            value = self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
            return struct.pack(">HH", alg.RSASSA, alg.SHA256) + sized(value)
        pair = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
        return struct.pack(">HH", alg.ECDSA, alg.SHA256) + b"".join(sized(part.to_bytes(32, "big")) for part in pair)


@dataclass(frozen=True, slots=True)
class Booted:
    """What a machine booted, and so what its registers hold.

    Attributes:
        prediction: Of the image.
        measured_config: Digest of the measured configuration, 32 bytes.
        added: Events that no honest machine has, after the others.
    """

    prediction: TpmPrediction
    measured_config: bytes
    added: tuple[SystemEvent, ...] = ()

    @property
    def logs(self) -> BootLogs:
        """The logs of such a boot: firmware and image in one, the measured configuration in the other."""
        image = ((register, event.digest) for register, events in self.prediction.events.items() for event in events)
        configuration = SystemEvent(14, configuration_digest(self.measured_config), "measured configuration")
        return BootLogs(firmware_log((*_FIRMWARE, *image)), (configuration, *self.added))

    @property
    def registers(self) -> Mapping[int, bytes]:
        """SHA-256 registers 0 to 15."""
        return {**dict.fromkeys(REGISTERS, RESET), **self.logs.replay()}


def firmware_log(events: Iterable[tuple[int, bytes]]) -> bytes:
    """A log of firmware in one SHA-256 bank, of registers and digests (TCG PC Client Firmware Profile, 10.4)."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HHB", alg.SHA256, 32, 0)
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(head)) + head
    for register, digest in events:
        log += struct.pack("<IIIH", register, _EV_EFI, 1, alg.SHA256) + digest + struct.pack("<I", 0)
    return log
