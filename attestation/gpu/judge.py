"""The judgement of one device's evidence: bytes and pinned roots in, checks and (if every one passes) claims out.

What is verified: that a device whose key NVIDIA certified, running the firmware that its certificate names, signed a
report over exactly this nonce; that driver and VBIOS of the report are the ones whose signed manifests are at hand;
and that every measurement which a manifest speaks of has one of its values. What a set of devices has to be is the
rules' business (:mod:`attestation.gpu.rules`). Nothing here fetches, and nothing raises: what cannot be read is a
failed check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.errors import EvidenceError
from attestation.gpu import rim
from attestation.gpu.chain import device_identity, load_pem, verify_path
from attestation.gpu.claims import CC_MODE_INDEX, GpuClaims, multi_gpu_of, own_pdi, peers_of
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.fwid import certified_fwid
from attestation.gpu.manifests import Wanted
from attestation.gpu.measurements import compare
from attestation.gpu.revocation import Revocation
from attestation.gpu.spdm import Opaque, parse_report
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.gpu.chain import DeviceIdentity, Path
    from attestation.gpu.evidence import Kind
    from attestation.gpu.memory import Memory
    from attestation.gpu.rim import Manifest
    from attestation.gpu.roots import GpuRoots
    from attestation.gpu.spdm import SpdmReport

__all__ = ["CHIPS", "DeviceJudgement", "GpuClaims", "judge_device"]

CHIPS: Final[Mapping[str, tuple[str, str]]] = {"GH100": ("gpu", "hopper"), "LS_10": ("switch", "ls10")}
"""Chips whose evidence is verified here: what they are and of which architecture, by the certificate's name."""

BLACKWELL_PREFIX: Final = "GB"
_BLACKWELL: Final = (
    "Blackwell's evidence is recognised and not accepted: none of its manifests and no measurement of a genuine device "
    "has been verified against each other here; use Hopper, or the vendor's verifier"
)
_CHAIN: Final = "a chain to the pinned device root"


@dataclass(frozen=True, slots=True)
class DeviceJudgement:
    """What was found out about one device.

    Attributes:
        claims: What the evidence says, ``None`` unless every check passed.
        checks: All checks in the order they were made.
        expires_at: Unix time after which certificates or OCSP responses have to be looked at again.
    """

    claims: GpuClaims | None
    checks: tuple[Check, ...]
    expires_at: float

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


def judge_device(
    evidence: bytes,
    *,
    nonce: bytes,
    roots: GpuRoots,
    rims: Mapping[str, bytes],
    ocsp: Mapping[bytes, bytes],
    now: float,
    index: int = 0,
    require_ocsp: bool = True,
    memory: Memory | None = None,
) -> DeviceJudgement:
    """Judge one device.

    Args:
        evidence: :class:`attestation.gpu.evidence.DeviceEvidence`, encoded.
        nonce: The 32 bytes that the device had to be asked with.
        roots: Pinned roots of devices and manifests.
        rims: Manifests by id.
        ocsp: OCSP responses, DER, by SHA-256 of the certificate.
        now: Unix time at which certificates and responses have to hold: the time of the evidence.
        index: Place of the device in the bundle.
        require_ocsp: Whether a certificate without a response fails; else it is listed as unchecked. A response that
            is there is judged either way.
        memory: Remembers what does not depend on time; without it every signature is verified.

    Returns:
        Claims if every check passed, and the checks.
    """
    judge = _Judge(nonce, roots, rims, Revocation(ocsp, now, require_ocsp, memory), now, memory)
    try:
        shown = DeviceEvidence.parse(evidence)
        report = parse_report(shown.report)
    except EvidenceError as error:
        judge.fail("gpu evidence", error, "an SPDM 1.1 measurement report and its certificates")
        return DeviceJudgement(None, tuple(judge.checks), math.inf)
    return judge.judge(shown, report, index)


@dataclass(slots=True)
class _Judge:
    """One judgement as it is made; every method adds checks, in the order in which a person would ask."""

    nonce: bytes
    roots: GpuRoots
    rims: Mapping[str, bytes]
    revocation: Revocation
    now: float
    memory: Memory | None
    checks: list[Check] = field(default_factory=list)
    expires: list[float] = field(default_factory=lambda: [math.inf])

    def judge(self, shown: DeviceEvidence, report: SpdmReport, index: int) -> DeviceJudgement:
        claims = None
        path = self._chain(shown)
        if path is not None:
            identity = self._identity(path)
            self._signature(path, report)
            self._nonce(report)
            if identity is not None and self._architecture(shown, identity):
                fwid = self._fwid(path, report, identity)
                claims = self._state(shown, report, path, identity, fwid=fwid, index=index)
        accepted = claims if all(check.passed for check in self.checks) else None
        return DeviceJudgement(accepted, tuple(self.checks), min(self.expires))

    def fail(self, name: str, error: EvidenceError, expected: str) -> None:
        self._add(name, False, error.message, expected, error.hint)

    def _add(self, name: str, passed: bool, seen: str, expected: str, hint: str = "") -> None:
        self.checks.append(Check(name, passed, seen, expected, hint, why=_WHY[name]))

    def _chain(self, shown: DeviceEvidence) -> Path | None:
        try:
            path = verify_path(load_pem(shown.chain), self.roots.device, self.now, self.memory)
        except EvidenceError as error:
            self.fail("gpu certificate chain", error, _CHAIN)
            return None
        self.expires.append(path.expires_at)
        self._add("gpu certificate chain", True, f"under root {path.root_key_id.hex()[:16]}", _CHAIN)
        self._revocation("gpu certificate revocation", path, device=True)
        return path

    def _revocation(self, name: str, path: Path, *, device: bool) -> None:
        found = self.revocation.check(path, device=device)
        self.expires.append(found.expires_at)
        self.checks.extend(found.checks(name, _WHY["gpu certificate revocation"]))

    def _identity(self, path: Path) -> DeviceIdentity | None:
        try:
            identity = device_identity(path)
        except EvidenceError as error:
            self.fail("gpu identity", error, "a device certificate that names the chip")
            return None
        self._add("gpu identity", True, f"{identity.model}, device {identity.device_id.hex()[:16]}", "a device")
        return identity

    def _signature(self, path: Path, report: SpdmReport) -> None:
        half = len(report.signature) // 2
        numbers = (int.from_bytes(report.signature[:half], "big"), int.from_bytes(report.signature[half:], "big"))
        seen = "checked"
        try:
            path.key.verify(encode_dss_signature(*numbers), report.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            seen = "a signature that the certified key did not make"
        except EvidenceError as error:
            seen = error.message
        hint = "the report was altered, or belongs to another device than the certificates"
        self._add("gpu signature", seen == "checked", seen, "the certified key signed request and response", hint)

    def _nonce(self, report: SpdmReport) -> None:
        hint = "a replay: the report answers another request, or was made at another place in the list of devices"
        self._add("gpu nonce", report.nonce == self.nonce, report.nonce.hex(), self.nonce.hex(), hint)

    def _architecture(self, shown: DeviceEvidence, identity: DeviceIdentity) -> bool:
        known = CHIPS.get(identity.chip)
        expected = "; ".join(f"{kind} {name} ({chip})" for chip, (kind, name) in CHIPS.items())
        hint = ""
        if known is None:
            hint = _BLACKWELL if identity.chip.startswith(BLACKWELL_PREFIX) else f"chip {identity.chip} is not known"
        elif known != (shown.kind, shown.architecture):
            expected, hint = " ".join(known), "the certificates speak of another kind of device than the evidence"
        seen = f"{shown.kind} {shown.architecture}, certified as {identity.chip}"
        self._add("gpu architecture", not hint, seen, expected, hint)
        return not hint

    def _fwid(self, path: Path, report: SpdmReport, identity: DeviceIdentity) -> bytes:
        expected = "the firmware that the certificate was made for"
        try:
            fwid = certified_fwid(path.leaf, path.certificates[1])
        except EvidenceError as error:
            self.fail("gpu firmware id", error, expected)
            return b""
        stated = report.opaque.get(Opaque.FWID)
        if stated is None:
            only = f"{fwid.hex()[:16]} in the certificate; this report does not repeat it"
            self._add("gpu firmware id", CHIPS[identity.chip][0] == "switch", only, expected)
        else:
            hint = "the report was made by other firmware than its certificate"
            self._add("gpu firmware id", stated == fwid, stated.hex()[:32], fwid.hex()[:32], hint)
        return fwid

    def _state(
        self,
        shown: DeviceEvidence,
        report: SpdmReport,
        path: Path,
        identity: DeviceIdentity,
        *,
        fwid: bytes,
        index: int,
    ) -> GpuClaims | None:
        try:
            driver, vbios = report.text(Opaque.DRIVER_VERSION), rim.vbios_version(report)
            peers = peers_of(report, shown.kind)
            ids = _ids(report, shown.kind)
        except EvidenceError as error:
            self.fail("gpu report", error, "a report that says driver, VBIOS and board")
            return None
        stated = own_pdi(report.opaque, shown.kind)
        if stated is not None:
            right = stated == identity.pdi != b""
            self._add("gpu link identity", right, stated.hex(), identity.pdi.hex() or "a certified one")
        named = (("driver", driver), ("vbios", vbios)) if shown.kind == "gpu" else (("bios", vbios),)
        found = [
            self._manifest(Wanted(label, name, version, identity.chip))
            for (label, version), name in zip(named, ids, strict=True)
        ]
        manifests = [manifest for manifest in found if manifest is not None]
        if len(manifests) < len(found):
            return None
        compared = compare(report, manifests)
        self.checks.extend(compared.checks(_WHY["gpu measurements"]))
        measured = CC_MODE_INDEX in compared.matched
        return GpuClaims(
            index=index,
            kind=shown.kind,
            architecture=shown.architecture,
            device_id=identity.device_id,
            model=identity.model,
            driver=driver,
            vbios=vbios,
            fwid=fwid,
            pdi=identity.pdi,
            peers=peers,
            cc_mode=measured,
            devtools_mode=not measured,
            multi_gpu=multi_gpu_of(report),
            locked=_locked(report) if shown.kind == "switch" else None,
            unchecked=compared.unchecked,
            root_key_id=path.root_key_id,
        )

    def _manifest(self, wanted: Wanted) -> Manifest | None:
        manifest, check = wanted.judge(self.rims.get(wanted.name), self.roots.rim, self.now, self.memory)
        self.checks.append(check)
        if manifest is None:
            return None
        self.expires.append(manifest.path.expires_at)
        self._revocation(f"{check.name} revocation", manifest.path, device=False)
        return manifest if check.passed else None


def _ids(report: SpdmReport, kind: Kind) -> tuple[str, ...]:
    """Names of the manifests that a report of this kind has to name; what it leaves out must not change them."""
    ids = rim.rim_ids(report)
    if len(ids) != (2 if kind == "gpu" else 1):
        raise EvidenceError(f"report that names manifests {', '.join(ids)}, which are not those of a {kind}")
    return ids


def _locked(report: SpdmReport) -> bool:
    return int.from_bytes(report.opaque.get(Opaque.LOCK_SWITCH_STATUS, b""), "little") == 1


_WHY: Final[Mapping[str, str]] = {
    "gpu evidence": "Without a report there is nothing that says which GPU will see the request.",
    "gpu certificate chain": "Only NVIDIA's own root says that the signer is a genuine device.",
    "gpu certificate revocation": "A certificate can be withdrawn after a flaw or a leak, long before it expires.",
    "gpu identity": "Each device has one key for life: it tells one GPU from another.",
    "gpu signature": "The device's signature is what makes the report more than the host's word.",
    "gpu nonce": "A report over another nonce was made for somebody else, or at another time.",
    "gpu architecture": "Rules and reference values belong to one kind of chip.",
    "gpu firmware id": "The signing key exists only while this firmware runs; other firmware has another key.",
    "gpu report": "Driver, VBIOS and board decide which references belong to the device.",
    "gpu link identity": "Switches name GPUs by this identifier, so it has to be the certified one.",
    "gpu measurements": "A GPU that measures as its maker published runs that software, with debugging off.",
}
