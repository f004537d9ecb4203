"""What is wrong with a synthetic TDX machine, its collateral, its event log or its quotes: a field for each attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attestation.tdx import TdAttribute

QuoteForm = Literal["whole", "truncated", "trailing", "padded", "sgx", "unknown body", "unknown version", "long"]
"""How the bytes of a quote are spoiled; ``padded`` is what some machines send and no attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with the world; the defaults describe a healthy one. Times are seconds.

    Attributes:
        tcb_status: Status that the TCB info gives to the machine's level.
        advisories: Advisory ids of that level.
        newer_level_age_s: When not ``None``, a newer level that is UpToDate exists for so long.
        qe_status: Status that the QE identity gives to the quoting enclave.
        module_status: Status that the TCB info gives to the TDX module.
        collateral_age_s: How long ago collateral was issued; negative for collateral from the future.
        collateral_lifetime_s: From issue to next update.
        revoke_pck: The machine's certificate is on the revocation list.
        revoke_platform_ca: The intermediate authority is on the root's list.
        numbered_crls: Whether revocation lists carry CRLNumber and the authority key identifier.
        missing_crl: Collateral comes without the list of revoked machines.
        collateral_fmspc: FMSPC the TCB info speaks of, when it is another one.
        forge_tcb_info: TCB info is signed by a key outside the chain.
        sgx_type: Kind of platform in the PCK certificate.
        dynamic_platform: Flag in the PCK certificate.
        cached_keys: Flag in the PCK certificate.
        smt_enabled: Flag in the PCK certificate.
        debug: The TD runs in debug mode.
        migratable: The TD may be migrated.
        service_td: A service TD is bound to the TD (MRSERVICETD; makes quotes with a 1.5 body).
        flipped: Further bits of TDATTRIBUTES that are not as in a healthy TD.
        unsigned_module: The TDX module is not Intel's (MRSIGNERSEAM).
        log_rewritten: Types and data of all events in the log are others; digests are not touched.
        log_edited: The log shows another kernel than was started.
        log_cut: The log leaves out the last event of firmware.
        log_foreign: The log is another machine's, whole and consistent in itself.
        duplicate_separator: Firmware's end was measured twice, and the log says so.
        no_exit_boot_services: Boot services were never left, and the log says so.
        unlogged_extend: A program extended RTMR3 without the log.
        hostile_acpi: The host handed over other ACPI tables, and the log says so.
        quote_form: How the bytes of quotes are spoiled.
    """

    tcb_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    newer_level_age_s: float | None = None
    qe_status: str = "UpToDate"
    module_status: str = "UpToDate"
    collateral_age_s: float = 3600.0
    collateral_lifetime_s: float = 30 * 86400.0
    revoke_pck: bool = False
    revoke_platform_ca: bool = False
    numbered_crls: bool = True
    missing_crl: bool = False
    collateral_fmspc: bytes | None = None
    forge_tcb_info: bool = False
    sgx_type: int = 1
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt_enabled: bool = True
    debug: bool = False
    migratable: bool = False
    service_td: bool = False
    flipped: tuple[TdAttribute, ...] = ()
    unsigned_module: bool = False
    log_rewritten: bool = False
    log_edited: bool = False
    log_cut: bool = False
    log_foreign: bool = False
    duplicate_separator: bool = False
    no_exit_boot_services: bool = False
    unlogged_extend: bool = False
    hostile_acpi: bool = False
    quote_form: QuoteForm = "whole"

    def attributes(self, healthy: int) -> bytes:
        """TDATTRIBUTES of the TD, 8 bytes."""
        bits = set(self.flipped)
        bits |= {TdAttribute.DEBUG} if self.debug else set()
        bits |= {TdAttribute.MIGRATABLE} if self.migratable else set()
        return (healthy ^ sum(1 << bit for bit in bits)).to_bytes(8, "little")
