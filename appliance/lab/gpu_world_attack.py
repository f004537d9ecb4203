"""Everything that can be wrong with the GPUs of a machine, with their reference manifests or with their revocation.

One field of :class:`GpuAttack` or one member of a fault is one attack; the defaults describe an honest machine, so
that a test and its control differ in one word. Classes are those of the attack list in ``docs/threat-model.md``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

EVERY = "every"
"""Instead of one manifest or certificate: all of them."""


class DeviceFault(enum.Enum):
    """Which device answers in the target's place (class 1)."""

    NONE = enum.auto()
    RELAYED = enum.auto()
    """An honest GPU of another machine, asked with the same nonce."""
    DUPLICATED = enum.auto()
    """The machine's other GPU, asked a second time."""


class ReportFault(enum.Enum):
    """What is wrong with the target's signed report (classes 2 and 13)."""

    NONE = enum.auto()
    REPLAYED = enum.auto()
    """An honest report, made for an earlier nonce."""
    RENAMED = enum.auto()
    """The earlier report with the asked nonce written over its request: the signature covers the old one."""
    BAD_SIGNATURE = enum.auto()
    """One bit of the signature is flipped."""
    OTHER_SIGNER = enum.auto()
    """Signed by a key that the certificate does not name."""
    ALTERED = enum.auto()
    """A measurement is changed after signing."""
    WRONG_FWID = enum.auto()
    """Firmware identity in the report is not the one that the certificate was issued for."""
    UNNAMED_FWID = enum.auto()
    """The certificate names no firmware identity."""
    TRUNCATED = enum.auto()
    """The last byte is missing."""
    TRAILING = enum.auto()
    """A byte follows the signature."""
    LONG_RECORD = enum.auto()
    """The measurement record claims 16 MiB."""
    LONG_BLOCK = enum.auto()
    """A measurement block claims more than the record holds."""
    LONG_OPAQUE = enum.auto()
    """Opaque data claims more than is left."""
    LONG_FIELD = enum.auto()
    """An opaque field claims more than the opaque data holds."""
    TWICE_MEASURED = enum.auto()
    """Two measurement blocks carry one index."""
    TWICE_NAMED = enum.auto()
    """Two opaque fields carry the driver's version."""
    OTHER_MESSAGE = enum.auto()
    """The response is another SPDM message."""


class ChainFault(enum.Enum):
    """What is wrong with the target's certificate chain (class 2)."""

    NONE = enum.auto()
    OTHER_ROOT = enum.auto()
    """The same names under a root of somebody else."""
    NO_PROVISIONER = enum.auto()
    """An intermediate certificate is missing."""
    OTHER_ISSUER = enum.auto()
    """The leaf is signed by a key that the certificate above it does not name."""
    TOO_LONG = enum.auto()
    """A chain of hundreds of certificates."""


class RimFault(enum.Enum):
    """What is wrong with a reference manifest (classes 2 and 13)."""

    NONE = enum.auto()
    MISSING = enum.auto()
    """The vendor published none for this version."""
    EXPIRED = enum.auto()
    """The signer's certificate ended."""
    FUTURE = enum.auto()
    """The signer's certificate has not begun."""
    OTHER_VERSION = enum.auto()
    """A good manifest of another version under this one's name."""
    OTHER_CHIP = enum.auto()
    """A good manifest of the same version for another chip."""
    FORGED = enum.auto()
    """Signed under a root of somebody else."""
    UNSIGNED = enum.auto()
    """Without signature."""
    ALTERED = enum.auto()
    """A golden value is changed after signing."""
    PARTIAL = enum.auto()
    """The signature covers one element, and the golden values lie beside it."""
    WRAPPED = enum.auto()
    """The signed manifest lies inside one with other golden values."""
    BARE_KEY = enum.auto()
    """The signature carries its own key instead of certificates."""
    NOT_A_SIGNER = enum.auto()
    """Signed by a genuine device's attestation key instead of the manifests' signer."""
    SIGNED_BY_RESPONDER = enum.auto()
    """Signed by the key with which the vendor answers about revocation, under the right root."""
    SIGNED_BY_AUTHORITY = enum.auto()
    """Signed by the authority above the signer, whose key is for certificates."""
    DUPLICATE_INDEX = enum.auto()
    """One index has two entries."""
    CONFLICTING = enum.auto()
    """An index of the other manifest is active in this one too, with the same value."""
    NOTHING_ACTIVE = enum.auto()
    """No entry is active: there is nothing to compare."""
    MANY_ALTERNATIVES = enum.auto()
    """An entry claims a million alternatives."""
    ENTITIES = enum.auto()
    """A document type declaration with nested entities."""
    GARBAGE = enum.auto()
    """Not XML."""


class OcspFault(enum.Enum):
    """What is wrong with the answer about a certificate's revocation (class 2)."""

    NONE = enum.auto()
    MISSING = enum.auto()
    REVOKED = enum.auto()
    ON_HOLD = enum.auto()
    UNKNOWN = enum.auto()
    """The responder does not know the certificate."""
    EXPIRED = enum.auto()
    """Its next update has passed."""
    FUTURE = enum.auto()
    """Made after now."""
    ENDLESS = enum.auto()
    """It names no next update."""
    OTHER_CERTIFICATE = enum.auto()
    """A good answer about another certificate."""
    WRONG_SIGNER = enum.auto()
    """Signed by a responder of somebody else, with the same names."""
    NO_PURPOSE = enum.auto()
    """Signed by a certificate of the issuer that is not for revocation."""
    EXPIRED_RESPONDER = enum.auto()
    """The responder's certificate ended."""
    BAD_SIGNATURE = enum.auto()
    """One bit of the signature is flipped."""
    TRY_LATER = enum.auto()
    """The responder says that it is busy."""
    GARBAGE = enum.auto()
    """Not DER."""


class Mode(enum.Enum):
    """How confidential computing is set on the machine's GPUs."""

    ON = enum.auto()
    DEVTOOLS = enum.auto()
    """Debuggers may read the GPU's memory; some of its firmware measures otherwise."""
    OFF = enum.auto()
    """The driver gives no evidence at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAttack:
    """What is wrong; nothing by default.

    Attributes:
        target: Index of the device that the faults of device, report and chain are about: GPUs, then switches.
        device: Which device answers.
        report: What is wrong with its report.
        chain: What is wrong with its certificates.
        mismatched: Indices, as manifests count them, at which it measures something else.
        mode: How confidential computing is set.
        missing: How many GPUs, from the last, are not shown.
        extra: How many GPUs of another machine are shown as well.
        missing_switches: How many switches, from the last, are not shown.
        unlocked: The switches' configuration can still be changed.
        unlinked: The GPUs say that they are not linked, and name no switch.
        rim: What is wrong with the manifest ``rim_of``.
        rim_of: ``driver``, ``vbios`` or :data:`EVERY`.
        ocsp: What is wrong with the answer about ``ocsp_of``.
        ocsp_of: Which certificate: ``identity``, ``provisioner`` or ``device`` of the target's chain, ``rim-ca``,
            ``rim-issuer``, ``driver`` or ``vbios`` of the manifests' chains; or :data:`EVERY`.
    """

    target: int = 0
    device: DeviceFault = DeviceFault.NONE
    report: ReportFault = ReportFault.NONE
    chain: ChainFault = ChainFault.NONE
    mismatched: tuple[int, ...] = ()
    mode: Mode = Mode.ON
    missing: int = 0
    extra: int = 0
    missing_switches: int = 0
    unlocked: bool = False
    unlinked: bool = False
    rim: RimFault = RimFault.NONE
    rim_of: str = "vbios"
    ocsp: OcspFault = OcspFault.NONE
    ocsp_of: str = "device"

    def rim_fault(self, role: str) -> RimFault:
        """What is wrong with the manifest of a role."""
        return self.rim if self.rim_of in {role, EVERY} else RimFault.NONE

    def ocsp_fault(self, role: str) -> OcspFault:
        """What is wrong with the answer about the certificate of a role."""
        return self.ocsp if self.ocsp_of in {role, EVERY} else OcspFault.NONE
