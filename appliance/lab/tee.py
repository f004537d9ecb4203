"""A synthetic TDX world: a root of its own, machines under it, their quotes and their collateral.

Quotes have the real layout and verify with the real verifier under :attr:`SyntheticTdx.root_der`, so every
check of production runs; the event log leads to the quoted registers. Each run makes a new root. :class:`Faults` says
what is wrong with machine, collateral, log or quote; :meth:`SyntheticTdx.neighbour` is a second machine.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

from appliance.lab import tee_pki as pki
from appliance.lab import tee_statements as statements
from appliance.lab.tee_faults import Faults
from appliance.lab.tee_log import Boot, boot
from appliance.lab.tee_service import serve, start
from attestation.errors import CollectionError
from attestation.tdx import ECDSA_P256, FIELDS, INTEL_QE_VENDOR, MAX_QUOTE, TEE_TYPE_TDX, BodyType, TdAttribute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from appliance.lab.tee_faults import QuoteForm
    from attestation.tdx_log import RuntimeEvent

__all__ = ["DEFAULT_REGISTERS", "Faults", "SyntheticTdx", "serve", "start"]


DEFAULT_REGISTERS: dict[str, bytes] = {
    "tee_tcb_svn": bytes((6, 1, statements.MODULE_SVN)) + bytes(13),
    "mr_seam": hashlib.sha384(b"chrysalis simulated TDX module").digest(),
    "td_attributes": (1 << TdAttribute.SEPT_VE_DISABLE).to_bytes(8, "little"),
    "xfam": (0x602E7).to_bytes(8, "little"),
    "mr_td": hashlib.sha384(b"chrysalis simulated firmware").digest(),
    **boot(Faults()).registers,
}
"""Registers of the simulated machine that are not zero; a healthy production TD has the same attributes."""

_HEAD = struct.Struct("<HHIHH16s20s")
_UNKNOWN_BODY = 9


@dataclass(slots=True)
class _Keys:
    """Everything of one machine that signs; ``vouched`` is the key its quoting enclave names."""

    pck: EllipticCurvePrivateKey = field(default_factory=pki.new_key)
    attestation: EllipticCurvePrivateKey = field(default_factory=pki.new_key)
    qe_auth: bytes = field(default_factory=lambda: os.urandom(32))
    vouched: bytes = b""

    def __post_init__(self) -> None:
        self.vouched = pki.raw_public(self.attestation)


@dataclass(frozen=True, slots=True)
class Vendor:
    """Root, authorities and kind of platform, which all machines of one world share."""

    root: pki.Authority
    platform: pki.Authority
    tcb_key: EllipticCurvePrivateKey
    tcb_certificate: x509.Certificate
    fmspc: bytes
    qe_signer: bytes

    @classmethod
    def new(cls, now: float) -> Vendor:
        """A new world."""
        born = statements.utc(now).replace(microsecond=0) - dt.timedelta(days=400)
        valid = (born, born + dt.timedelta(days=5000))
        root = pki.Authority(pki.ROOT_NAME, valid=valid, path_length=1)
        platform = pki.Authority(pki.PLATFORM_NAME, valid=valid, issuer=root)
        key = pki.new_key()
        fmspc = b"\x00\xc0\x6f" + os.urandom(3)
        return cls(root, platform, key, root.issue(pki.TCB_NAME, key), fmspc, os.urandom(32))


class SyntheticTdx:
    """A world with one machine, or with several under one root (:meth:`neighbour`).

    Args:
        faults: What is wrong with it.
        registers: Registers of the machine, over those that it measured; the log does not know of them.
        runtime: What its guest extends RTMR3 with, and logs.
        clock: Unix time; certificates begin a day before it.
        vendor: Another machine's, to be under the same root.
        booted: What it measured and the log that it shows; without it that of the default machine.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        registers: dict[str, bytes] | None = None,
        runtime: Sequence[RuntimeEvent] = (),
        clock: Callable[[], float] = time.time,
        vendor: Vendor | None = None,
        booted: Boot | None = None,
    ) -> None:
        self.faults = faults = faults or Faults()
        self._given = dict(registers or {})
        self._clock = clock
        self._vendor = vendor or Vendor.new(clock())
        self._booted = booted
        booted = booted or boot(faults, runtime)
        self.log = booted.shown
        self.registers = {**DEFAULT_REGISTERS, **booted.registers, **_wrong(faults), **self._given}
        self.ppid = os.urandom(16)
        self._runtime = tuple(runtime)
        self._keys = _Keys()
        self._pck_certificate = self._vendor.platform.issue(
            pki.PCK_NAME,
            self._keys.pck,
            sgx_extension=pki.sgx_extension(
                ppid=self.ppid,
                component_svns=statements.COMPONENT_SVNS,
                pce_svn=statements.PCE_SVN,
                pce_id=bytes(2),
                fmspc=self.fmspc,
                sgx_type=faults.sgx_type,
                platform_instance_id=os.urandom(16),
                dynamic_platform=faults.dynamic_platform,
                cached_keys=faults.cached_keys,
                smt_enabled=faults.smt_enabled,
            ),
        )

    def neighbour(self) -> SyntheticTdx:
        """Another machine of the same kind, image and vendor, with keys and a PPID of its own.

        It can do all that this one can, so it stands for whoever holds a leaked key or an interposer on a memory bus.
        """
        return SyntheticTdx(
            self.faults,
            registers=self._given,
            runtime=self._runtime,
            clock=self._clock,
            vendor=self._vendor,
            booted=self._booted,
        )

    @property
    def fmspc(self) -> bytes:
        """The kind of platform, 6 bytes."""
        return self._vendor.fmspc

    @property
    def root_der(self) -> bytes:
        """The root certificate of this world."""
        return self._vendor.root.certificate.public_bytes(serialization.Encoding.DER)

    def event_log(self) -> bytes:
        """The machine's event log as bundles carry it."""
        return self.log.encode()

    def quote(self, report_data: bytes, *, body: BodyType | None = None, **registers: bytes) -> bytes:
        """A signed quote.

        Args:
            report_data: 64 bytes.
            body: Makes a version 5 quote with that body; version 4 (body 1.0) without it.
            **registers: Values by name of :data:`attestation.tdx.TD15_FIELDS`, over the machine's.

        Raises:
            CollectionError: If a register is unknown or has another length.
        """
        values = {**self.registers, **registers, "report_data": report_data}
        if body is None and self.faults.service_td:
            body = BodyType.TD_1_5
        layout = FIELDS[body or BodyType.TD_1_0]
        if body is BodyType.TD_1_5:
            values.setdefault("tee_tcb_svn2", values["tee_tcb_svn"])
        parts = []
        for name, size in layout:
            value = values.pop(name, bytes(size))
            if len(value) != size:
                raise CollectionError(f"register {name} of {len(value)} bytes, expected {size}")
            parts.append(value)
        if values:
            raise CollectionError(f"registers {sorted(values)} are not in this body")
        form = self.faults.quote_form
        version = 6 if form == "unknown version" else 5 if body is not None or form == "unknown body" else 4
        tee = 0 if form == "sgx" else TEE_TYPE_TDX
        head = _HEAD.pack(version, ECDSA_P256, tee, 0, 0, INTEL_QE_VENDOR, bytes(20))
        content = b"".join(parts)
        if version == 5:
            kind = _UNKNOWN_BODY if form == "unknown body" else body or BodyType.TD_1_0
            content = struct.pack("<HI", kind, len(content)) + content
        signed = head + content
        signature = self._signature_data(signed)
        whole = signed + struct.pack("<I", len(signature)) + signature
        return _spoiled(whole, form)

    def swap_attestation_key(self) -> None:
        """Sign quotes from now on with a key that no quoting enclave vouches for (an attack).

        The enclave's report keeps naming the old key.
        """
        self._keys.attestation = pki.new_key()

    def collateral_json(self) -> bytes:
        """Everything a verifier needs besides the quote, in the JSON form of ``dcap_qvl.QuoteCollateralV3``."""
        faults = self.faults
        issued = statements.utc(self._clock() - faults.collateral_age_s).replace(microsecond=0)
        following = issued + dt.timedelta(seconds=faults.collateral_lifetime_s)
        tcb_info = statements.tcb_info(faults, faults.collateral_fmspc or self.fmspc, issued, following, self._clock())
        qe_identity = statements.qe_identity(faults, self._vendor.qe_signer, issued, following, self._clock())
        dates = (issued, following)
        numbered = faults.numbered_crls
        platform_serial = self._vendor.platform.certificate.serial_number
        pck_serial = self._pck_certificate.serial_number
        revoked = [pck_serial] if faults.revoke_pck else []
        pck_crl = self._vendor.platform.revocation_list(revoked, dates=dates, numbered=numbered)
        tcb_chain = pki.pem(self._vendor.tcb_certificate, self._vendor.root.certificate)
        tcb_signer = pki.new_key() if faults.forge_tcb_info else self._vendor.tcb_key
        return json.dumps(
            {
                "pck_crl_issuer_chain": pki.pem(self._vendor.platform.certificate, self._vendor.root.certificate),
                "root_ca_crl": self._vendor.root.revocation_list(
                    [platform_serial] if faults.revoke_platform_ca else [], dates=dates, numbered=numbered
                ).hex(),
                "pck_crl": "" if faults.missing_crl else pck_crl.hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": pki.raw_sign(tcb_signer, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": tcb_chain,
                "qe_identity": qe_identity,
                "qe_identity_signature": pki.raw_sign(self._vendor.tcb_key, qe_identity.encode()).hex(),
            }
        ).encode()

    def _signature_data(self, signed: bytes) -> bytes:
        key = self._keys.attestation
        report = (
            bytes((3, 3, 0x19, 0x1B, 4, 0xFF))
            + bytes(10)  # CPUSVN
            + bytes(4 + 28)
            + bytes.fromhex("1500000000000000e700000000000000")  # attributes: production enclave, its XFRM
            + hashlib.sha256(b"chrysalis simulated quoting enclave").digest()
            + bytes(32)
            + self._vendor.qe_signer
            + bytes(96)
            + struct.pack("<HH", 2, statements.QE_ISV_SVN)
            + bytes(60)
            + hashlib.sha256(self._keys.vouched + self._keys.qe_auth).digest()
            + bytes(32)
        )
        chain = (
            pki.pem(self._pck_certificate, self._vendor.platform.certificate, self._vendor.root.certificate).encode()
            + b"\0"
        )
        certification = (
            report
            + pki.raw_sign(self._keys.pck, report)
            + struct.pack("<H", len(self._keys.qe_auth))
            + self._keys.qe_auth
            + struct.pack("<HI", 5, len(chain))  # 5: PCK certificate chain
            + chain
        )
        return (
            pki.raw_sign(key, signed)
            + pki.raw_public(key)
            + struct.pack("<HI", 6, len(certification))  # 6: QE report certification data
            + certification
        )


def _wrong(faults: Faults) -> dict[str, bytes]:
    """Registers that are not as in a healthy machine."""
    wrong = {"td_attributes": faults.attributes(1 << TdAttribute.SEPT_VE_DISABLE)}
    if faults.service_td:
        wrong["mr_service_td"] = hashlib.sha384(b"chrysalis simulated migration agent").digest()
    if faults.unsigned_module:
        wrong["mr_signer_seam"] = hashlib.sha384(b"chrysalis simulated module vendor").digest()
    return wrong


def _spoiled(quote: bytes, form: QuoteForm) -> bytes:
    if form == "truncated":
        return quote[:-1]
    if form == "trailing":
        return quote + b"\x01"
    if form == "padded":
        return quote.ljust(8000, b"\0")
    return quote.ljust(MAX_QUOTE + 1, b"\0") if form == "long" else quote
