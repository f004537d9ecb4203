"""A synthetic TDX world: a root of its own, machines under it, their quotes and their collateral.

Quotes have the real layout and verify with the real verifier under :attr:`SyntheticTdx.root_der`, so every
check of production runs. Each run makes a new root. :class:`Faults` says what is wrong with machine or collateral.
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
from appliance.lab.tee_service import serve, start
from appliance.lab.tee_statements import Faults
from attestation.errors import CollectionError
from attestation.tdx import FIELDS, INTEL_QE_VENDOR, BodyType

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["DEFAULT_REGISTERS", "Faults", "SyntheticTdx", "serve", "start"]


DEFAULT_REGISTERS: dict[str, bytes] = {
    "tee_tcb_svn": bytes((6, 1, statements.MODULE_SVN)) + bytes(13),
    "mr_seam": hashlib.sha384(b"chrysalis simulated TDX module").digest(),
    "td_attributes": (1 << 28).to_bytes(8, "little"),
    "xfam": (0x602E7).to_bytes(8, "little"),
    "mr_td": hashlib.sha384(b"chrysalis simulated firmware").digest(),
    "rtmr0": hashlib.sha384(b"chrysalis simulated machine").digest(),
    "rtmr1": hashlib.sha384(b"chrysalis simulated kernel").digest(),
    "rtmr2": hashlib.sha384(b"chrysalis simulated command line").digest(),
}
"""Registers of the simulated machine that are not zero; a healthy production TD has the same attributes."""


@dataclass(slots=True)
class _Keys:
    """Everything of one machine that signs; ``vouched`` is the key its quoting enclave names."""

    pck: EllipticCurvePrivateKey = field(default_factory=pki.new_key)
    attestation: EllipticCurvePrivateKey = field(default_factory=pki.new_key)
    qe_auth: bytes = field(default_factory=lambda: os.urandom(32))
    vouched: bytes = b""

    def __post_init__(self) -> None:
        self.vouched = pki.raw_public(self.attestation)


class SyntheticTdx:
    """A world with one machine.

    Args:
        faults: What is wrong with it.
        registers: Registers of the machine, over :data:`DEFAULT_REGISTERS`.
        clock: Unix time; certificates begin a day before it.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        registers: dict[str, bytes] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.faults = faults or Faults()
        self.registers = {**DEFAULT_REGISTERS, **(registers or {})}
        self.fmspc = b"\x00\xc0\x6f" + os.urandom(3)
        self.ppid = os.urandom(16)
        self._clock = clock
        self._keys = _Keys()
        born = statements.utc(clock()).replace(microsecond=0) - dt.timedelta(days=400)
        valid = (born, born + dt.timedelta(days=5000))
        self._root = pki.Authority(pki.ROOT_NAME, valid=valid, path_length=1)
        self._platform = pki.Authority(pki.PLATFORM_NAME, valid=valid, issuer=self._root)
        self._tcb_key = pki.new_key()
        self._tcb_certificate = self._root.issue(pki.TCB_NAME, self._tcb_key)
        self._pck_certificate = self._platform.issue(
            pki.PCK_NAME,
            self._keys.pck,
            sgx_extension=pki.sgx_extension(
                ppid=self.ppid,
                component_svns=statements.COMPONENT_SVNS,
                pce_svn=statements.PCE_SVN,
                pce_id=bytes(2),
                fmspc=self.fmspc,
                sgx_type=self.faults.sgx_type,
                platform_instance_id=os.urandom(16),
                dynamic_platform=self.faults.dynamic_platform,
                cached_keys=self.faults.cached_keys,
                smt_enabled=self.faults.smt_enabled,
            ),
        )
        self._qe_signer = os.urandom(32)

    @property
    def root_der(self) -> bytes:
        """The root certificate of this world."""
        return self._root.certificate.public_bytes(serialization.Encoding.DER)

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
        head = struct.pack("<HHIHH16s20s", 4 if body is None else 5, 2, 0x81, 0, 0, INTEL_QE_VENDOR, bytes(20))
        content = b"".join(parts)
        if body is not None:
            content = struct.pack("<HI", body, len(content)) + content
        signed = head + content
        signature = self._signature_data(signed)
        return signed + struct.pack("<I", len(signature)) + signature

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
        qe_identity = statements.qe_identity(faults, self._qe_signer, issued, following, self._clock())
        dates = (issued, following)
        numbered = faults.numbered_crls
        platform_serial = self._platform.certificate.serial_number
        pck_serial = self._pck_certificate.serial_number
        tcb_chain = pki.pem(self._tcb_certificate, self._root.certificate)
        tcb_signer = pki.new_key() if faults.forge_tcb_info else self._tcb_key
        return json.dumps(
            {
                "pck_crl_issuer_chain": pki.pem(self._platform.certificate, self._root.certificate),
                "root_ca_crl": self._root.revocation_list(
                    [platform_serial] if faults.revoke_platform_ca else [], dates=dates, numbered=numbered
                ).hex(),
                "pck_crl": self._platform.revocation_list(
                    [pck_serial] if faults.revoke_pck else [], dates=dates, numbered=numbered
                ).hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": pki.raw_sign(tcb_signer, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": tcb_chain,
                "qe_identity": qe_identity,
                "qe_identity_signature": pki.raw_sign(self._tcb_key, qe_identity.encode()).hex(),
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
            + self._qe_signer
            + bytes(96)
            + struct.pack("<HH", 2, statements.QE_ISV_SVN)
            + bytes(60)
            + hashlib.sha256(self._keys.vouched + self._keys.qe_auth).digest()
            + bytes(32)
        )
        chain = pki.pem(self._pck_certificate, self._platform.certificate, self._root.certificate).encode() + b"\0"
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
