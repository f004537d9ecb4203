"""The rules about the machine under an SEV-SNP guest: its guest policy, features, privilege and patch levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.rules import Finding, one, short
from attestation.snp.report import GuestPolicy, PlatformInfo
from attestation.snp.tcb import Product, Tcb
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Subject

_NO_AGENT = frozenset({bytes(32), b"\xff" * 32})
_NOTHING = "no verified report"
_UNCHECKED = "by policy: unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpGuestPolicy:
    """What the guest's owner lets the host do, bit by bit.

    Attributes:
        min_abi: Lowest firmware ABI version that the guest may be run by, major and minor; ``None`` for any.
        allow_smt: Whether the host may use simultaneous multithreading.
        allow_cxl: Whether the host may put memory or devices on CXL.
        require_single_socket: Whether the guest is kept on one socket.
        require_aes_256: Whether memory has to be encrypted with AES-256-XTS.
        require_rapl_disabled: Whether power readings have to be off, which leak what is computed.
        require_ciphertext_hiding: Whether the host has to be kept from reading encrypted memory.
        require_no_page_swap: Whether the host is kept from moving and swapping pages.
    """

    min_abi: tuple[int, int] | None = None
    allow_smt: bool = True
    allow_cxl: bool = False
    require_single_socket: bool = False
    require_aes_256: bool = False
    require_rapl_disabled: bool = False
    require_ciphertext_hiding: bool = False
    require_no_page_swap: bool = False

    def appraise(self, subject: Subject) -> Finding:
        """Look at every bit; what the policy leaves open is listed."""
        if subject.snp is None:
            return one("guest policy", False, _NOTHING, "a production guest's policy")
        policy = subject.snp.report.policy
        return Finding(
            (
                _forbidden("debug policy", policy.has(GuestPolicy.DEBUG),
                           "the host may read and write the guest's memory",
                           "a guest that may be debugged has no secrets from its host"),
                _forbidden("migration policy", policy.has(GuestPolicy.MIGRATE_MA),
                           "a migration agent may take the guest, memory and all, to another machine",
                           "whoever controls the agent gets the guest's memory"),
                _optional("smt policy", policy.has(GuestPolicy.SMT), allowed=self.allow_smt,
                          why="threads of one core share caches that leak"),
                _optional("cxl policy", policy.has(GuestPolicy.CXL_ALLOW), allowed=self.allow_cxl,
                          why="memory outside the processor's own channels is easier to reach"),
                _demanded("single socket policy", policy.has(GuestPolicy.SINGLE_SOCKET),
                          required=self.require_single_socket, why="traffic between sockets leaves the chip"),
                _demanded("memory cipher policy", policy.has(GuestPolicy.MEM_AES_256_XTS),
                          required=self.require_aes_256, why="it says which cipher protects the guest's memory"),
                _demanded("power readings policy", policy.has(GuestPolicy.RAPL_DIS),
                          required=self.require_rapl_disabled, why="power readings leak what is computed"),
                _demanded("ciphertext hiding policy", policy.has(GuestPolicy.CIPHERTEXT_HIDING_DRAM),
                          required=self.require_ciphertext_hiding, why="changes of ciphertext leak what is computed"),
                _demanded("page swap policy", policy.has(GuestPolicy.PAGE_SWAP_DISABLE),
                          required=self.require_no_page_swap, why="moving pages lets a host watch which are used"),
                self._abi(policy),
                Check(
                    "policy bits",
                    policy.has(GuestPolicy.RESERVED_ONE) and policy.raw & ~GuestPolicy.KNOWN == 0,
                    f"{policy.raw:#x}",
                    f"bit 17 and none above {GuestPolicy.KNOWN.bit_length() - 1}",
                    "a bit that this version does not know may allow the host more",
                    why="a permission that nobody here understands cannot be judged harmless",
                ),
            )
        )  # fmt: skip

    def _abi(self, policy: GuestPolicy) -> Check:
        seen = "{}.{}".format(*policy.abi)
        why = "it keeps the guest from being run by older firmware"
        if self.min_abi is None:
            return Check("firmware abi policy", True, seen, _UNCHECKED, checked=False, why=why)
        wanted = "at least {}.{}".format(*self.min_abi)
        return Check("firmware abi policy", policy.abi >= self.min_abi, seen, wanted, why=why)


@dataclass(frozen=True, slots=True)
class SnpPrivilege:
    """The report was asked from privilege level 0: nothing runs above the guest that speaks.

    Attributes:
        level: Another level where a paravisor that is itself judged has the levels below.
    """

    level: int = 0

    def appraise(self, subject: Subject) -> Finding:
        """Compare the level."""
        seen = subject.snp.report.vmpl if subject.snp else None
        return one(
            "vmpl",
            seen == self.level,
            _NOTHING if seen is None else str(seen),
            str(self.level),
            "another program runs above this one in the same guest, or a report of a lower level is passed off as it",
            why="a program at a lower privilege level can be read and changed by the one above it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPlatform:
    """What the firmware says of the machine.

    Attributes:
        require_alias_check: Whether the check for aliased memory has to have passed (BadRAM).
        allow_smt: Whether simultaneous multithreading may be on.
        require_ecc: Whether memory has to correct errors.
        require_tsme: Whether all memory has to be encrypted, the host's too.
        require_rapl_disabled: Whether power readings have to be off.
        require_ciphertext_hiding: Whether the host has to be kept from reading encrypted memory.
    """

    require_alias_check: bool = True
    allow_smt: bool = True
    require_ecc: bool = False
    require_tsme: bool = False
    require_rapl_disabled: bool = False
    require_ciphertext_hiding: bool = False

    def appraise(self, subject: Subject) -> Finding:
        """Look at every bit; what the policy leaves open is listed."""
        if subject.snp is None:
            return one("platform info", False, _NOTHING, "a machine whose memory was checked")
        info = subject.snp.report.platform_info
        return Finding(
            (
                _demanded("memory alias check", info.has(PlatformInfo.ALIAS_CHECK_COMPLETE),
                          required=self.require_alias_check,
                          hint="update the host's BIOS and SEV firmware; without the check forged memory modules give "
                               "access to the guest (BadRAM)",
                          why="memory that appears at two addresses lets a host get round the protection"),
                _optional("smt", info.has(PlatformInfo.SMT_EN), allowed=self.allow_smt,
                          why="threads of one core share caches that leak"),
                _demanded("ecc memory", info.has(PlatformInfo.ECC_EN), required=self.require_ecc,
                          why="it makes flipping bits in memory from outside harder"),
                _demanded("memory encryption of the host", info.has(PlatformInfo.TSME_EN), required=self.require_tsme,
                          why="it covers the pages that the guest shares with its host"),
                _demanded("power readings off", info.has(PlatformInfo.RAPL_DIS), required=self.require_rapl_disabled,
                          why="power readings leak what is computed"),
                _demanded("ciphertext hiding", info.has(PlatformInfo.CIPHERTEXT_HIDING_DRAM_EN),
                          required=self.require_ciphertext_hiding, why="changes of ciphertext leak what is computed"),
                Check(
                    "platform bits",
                    info.raw & ~PlatformInfo.KNOWN == 0,
                    f"{info.raw:#x}",
                    f"none above {PlatformInfo.KNOWN.bit_length() - 1}",
                    "a newer firmware says something that this version does not know",
                    why="a property that nobody here understands cannot be judged harmless",
                ),
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SnpTcbMinimum:
    """The certified patch level is no lower than a minimum of its product, and neither are those beside it.

    ``tcb`` is what AMD certified, and so proves what the firmware then says of launch and of what it cannot go back
    from: a guest launched by a broken firmware, or one that a host may return to it, is no better off.

    Attributes:
        minimum: Levels by name (:data:`attestation.snp.tcb.LEVELS`) for each product; a product that is left out, or
            an empty map, is not checked.
    """

    minimum: Mapping[Product, Mapping[str, int]] = field(default_factory=dict, hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Compare three patch levels."""
        claims = subject.snp
        if claims is None:
            return one("tcb", False, _NOTHING, "a patch level of the policy or above")
        minimum = self.minimum.get(claims.product)
        if not minimum:
            return Finding((Check("tcb", True, str(claims.tcb), _UNCHECKED, checked=False, why=_WHY_TCB),))
        wanted = "at least " + ", ".join(f"{name} {level}" for name, level in sorted(minimum.items()))
        levels = (
            ("tcb", claims.tcb),
            ("committed tcb", Tcb(claims.product, claims.report.committed_tcb)),
            ("launch tcb", Tcb(claims.product, claims.report.launch_tcb)),
        )
        return Finding(tuple(self._check(name, tcb, minimum, wanted) for name, tcb in levels))

    @staticmethod
    def _check(name: str, tcb: Tcb, minimum: Mapping[str, int], wanted: str) -> Check:
        low = tcb.below(minimum)
        hint = _TCB_HINTS[name] + (f" ({', '.join(sorted(low))})" if low else "")
        return Check(name, not low, str(tcb), wanted, hint, why=_WHY_TCB)


_WHY_TCB = "older firmware and microcode have holes through which a host reaches into guests"
_TCB_HINTS = {
    "tcb": "update the host's microcode and SEV firmware",
    "committed tcb": "the host may go back to older firmware under the running guest: commit the new one",
    "launch tcb": "the guest was launched under older firmware: stop and start it",
}


@dataclass(frozen=True, slots=True)
class SnpMigrationAgent:
    """No migration agent is bound to the guest; the policy's bit says whether one may, this whether one is."""

    def appraise(self, subject: Subject) -> Finding:
        """Look at the agent's report id."""
        seen = subject.snp.report.report_id_ma if subject.snp else b""
        return one(
            "migration agent",
            seen in _NO_AGENT,
            "none" if seen in _NO_AGENT else short(seen),
            "none",
            "a migration agent holds the keys to the guest's memory",
            why="whoever controls the agent gets the guest's memory",
        )


def _forbidden(name: str, seen: bool, hint: str, why: str) -> Check:
    return Check(name, not seen, "allowed" if seen else "forbidden", "forbidden", hint, why=why)


def _optional(name: str, seen: bool, *, allowed: bool, why: str) -> Check:
    """A bit that a policy may forbid."""
    said = "yes" if seen else "no"
    if allowed:
        return Check(name, True, said, _UNCHECKED, checked=False, why=why)
    return Check(name, not seen, said, "no", why=why)


def _demanded(name: str, seen: bool, *, required: bool, why: str, hint: str = "") -> Check:
    """A bit that a policy may demand."""
    said = "yes" if seen else "no"
    if not required:
        return Check(name, True, said, _UNCHECKED, checked=False, why=why)
    return Check(name, seen, said, "yes", hint, why=why)
