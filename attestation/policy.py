"""Policies: which evidence is taken as proof, and what it has to say.

A policy is a reader, which turns bytes into a subject, rules over the subject, and a judge of devices. ``tdx`` rests on
Intel's root, ``hardware`` on that of any maker; ``simulated`` on roots made for a run, with the same readers and rules;
``fake_tdx`` and ``any`` are the protocol's own development policies (specification, section 5.7) and prove nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import dcap
from attestation.appraisal import Appraisal, Fresh, Policy
from attestation.device_rules import StatedDevices, WhereDevices
from attestation.devices import Judged
from attestation.errors import AttestationError
from attestation.gpu.rules import gpu_rules
from attestation.readers import FakeReader, NoReader
from attestation.roots import MAKERS, Roots, open_reader
from attestation.rules import AllOf, ByPlatform, ReportData, Rule, StatementImage
from attestation.snp.roots import root_key_id as snp_key_id
from attestation.tdx_log_rules import log_rules
from attestation.tdx_rules import (
    ZERO48,
    ConfigBinding,
    PlatformFlags,
    Register,
    RootKey,
    TcbStatus,
    TdAttributes,
    Xfam,
)
from attestation.tpm.rules import ConfigurationRegister, LogsReplay, References, TpmReportData, Unchecked

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from attestation.gpu.roots import GpuRoots
    from attestation.readers import Form
    from attestation.tpm.references import TpmReference

__all__ = ["Appraisal", "Fresh", "Policy", "PolicyName", "for_name", "production_rules", "root_key_id", "tpm_rules"]

_log = structlog.get_logger(__name__)
PolicyName = Literal["tdx", "hardware", "simulated", "fake_tdx", "any"]
MAX_SIMULATED_ROOTS = 8
_DEVICES = WhereDevices(AllOf(gpu_rules()))


def production_rules(*, tcb: TcbStatus, mr_seam: frozenset[bytes] | None = None) -> tuple[Rule, ...]:
    """The rules of a healthy production TD, the same for Intel's root and for simulated ones.

    Args:
        tcb: The rule about TCB status.
        mr_seam: Digests of the TDX modules that are allowed, 48 bytes each; ``None`` leaves it to TCB info.
    """
    zero = frozenset({ZERO48})
    rules: list[Rule] = [
        ReportData(),
        tcb,
        PlatformFlags(),
        TdAttributes(),
        Xfam(),
        Register("mr_signer_seam", zero, "the TDX module is not signed by Intel"),
        Register("seam_attributes", frozenset({bytes(8)}), "the TDX module is not a production one"),
        Register("mr_owner", zero, "this project launches machines without an owner field"),
        Register("mr_owner_config", zero, "this project launches machines without an owner field"),
        Register("mr_service_td", zero, "a service TD is bound to the machine and may migrate it"),
        ConfigBinding(),
        StatementImage(),
    ]
    if mr_seam is not None:
        rules.append(Register("mr_seam", mr_seam, "another TDX module than the listed ones is loaded"))
    return tuple(rules)


def tpm_rules(references: Sequence[TpmReference] = ()) -> Rule:
    """The rules of a machine that a TPM speaks for.

    Args:
        references: The images that it may have booted; without any, the image hash alone says.
    """
    return AllOf(
        (
            TpmReportData(),
            References(tuple(references)),
            ConfigurationRegister(),
            StatementImage(),
            LogsReplay(),
            Unchecked(),
        )
    )


def for_name(
    name: PolicyName | str,
    *,
    simulated_roots: Sequence[bytes] = (),
    tpm_roots: Sequence[bytes] = (),
    snp_roots: Collection[bytes] = (),
    gcp_roots: Sequence[bytes] = (),
    gpu_roots: GpuRoots | None = None,
    tpm_references: Sequence[TpmReference] = (),
    tcb_grace_days: int = 0,
    mr_seam: frozenset[bytes] | None = None,
    zero_padding: bool = False,
    min_evaluation_number: int = 0,
) -> Policy:
    """Make a policy by its configured name.

    Args:
        name: ``tdx``, ``hardware`` (any machine that a maker's root vouches for), ``simulated``, ``fake_tdx`` or
            ``any``; the last three are for development and warn.
        simulated_roots: Roots of TDX quotes, DER certificates, for ``simulated`` only, as the other roots.
        tpm_roots: Roots of TPM attestation keys, DER certificates.
        snp_roots: Roots of SEV-SNP reports, DER certificates.
        gcp_roots: Roots of Google's vTPM attestation keys, DER certificates.
        gpu_roots: Roots of devices and their reference manifests.
        tpm_references: The images that a machine with a TPM may have booted; without any, the image hash alone says.
        tcb_grace_days: See :class:`attestation.tdx_rules.TcbStatus`.
        mr_seam: See :func:`production_rules`.
        zero_padding: Take quotes with zeros after them, as the reference's peers may show on real machines.
        min_evaluation_number: See :class:`attestation.tdx_rules.TcbStatus`.

    Raises:
        AttestationError: Unknown name, or roots where none belong or are missing.
    """
    given = Roots(
        tdx=tuple(simulated_roots),
        tpm=tuple(tpm_roots),
        snp=frozenset(map(snp_key_id, snp_roots)),
        gcp=tuple(gcp_roots),
        gpu=gpu_roots,
    )
    if (name == "simulated") != bool(given.count) or (gpu_roots is not None and name != "simulated"):
        raise AttestationError(
            f"policy {name!r} with {given.count} simulated roots",
            hint="simulated roots belong to policy 'simulated', which needs at least one of a machine",
        )
    rules = production_rules(
        tcb=TcbStatus(grace_days=tcb_grace_days, min_evaluation_number=min_evaluation_number), mr_seam=mr_seam
    )
    if name in {"tdx", "hardware"}:
        forms: tuple[Form, ...] = ("tdx",) if name == "tdx" else ("tdx", "snp", "azure", "gcp")
        tdx = (RootKey(frozenset({dcap.INTEL_ROOT_KEY_ID})), *rules)
        machines = AllOf((_by_platform(forms, tdx, tpm_references), StatedDevices(), _DEVICES))
        reader = open_reader(MAKERS, forms=forms, zero_padding=zero_padding)
        return Policy(name, "hardware", reader, machines, Judged(MAKERS.gpu))
    _log.warning("policy gives no assurance: development only", kind=name)
    if name == "simulated":
        if given.count > MAX_SIMULATED_ROOTS:
            raise AttestationError(f"{given.count} simulated roots, at most {MAX_SIMULATED_ROOTS}")
        ids = frozenset(root_key_id(root) for root in simulated_roots)
        reader = open_reader(given, zero_padding=zero_padding)
        demanded: tuple[Rule, ...] = (StatedDevices(), _DEVICES) if gpu_roots is not None else ()
        machines = AllOf((_by_platform(reader.readers, (RootKey(ids), *rules), tpm_references), *demanded))
        return Policy("simulated", "none", reader, machines, Judged(gpu_roots))
    if name == "fake_tdx":
        return Policy("fake_tdx", "none", FakeReader(), AllOf((ReportData(), StatementImage())))
    if name == "any":
        return Policy("any", "none", NoReader(), AllOf(()))
    raise AttestationError(f"policy {name!r} is not known", hint="tdx, hardware, simulated, fake_tdx or any")


def _by_platform(forms: Collection[Form], tdx: tuple[Rule, ...], references: Sequence[TpmReference]) -> ByPlatform:
    """The rules of a healthy production machine, of each of the given forms.

    Args:
        forms: Which machines are taken.
        tdx: The rules of a TDX quote.
        references: The images that a machine with a TPM may have booted.
    """
    rules: dict[str, Rule] = {}
    logged = (*tdx, log_rules())
    if "tdx" in forms:
        rules["tdx"] = AllOf(logged)
    if "tpm" in forms:
        rules["tpm"] = tpm_rules(references)
    if "snp" in forms:
        from attestation.snp.rules import snp_rules  # noqa: PLC0415 - a policy of other machines loads none of it

        rules["snp"] = AllOf((*snp_rules(), StatementImage()))
    if "azure" in forms:
        from attestation.azure.rules import azure_rules  # noqa: PLC0415 - likewise

        rules["azure"] = AllOf(azure_rules(references=references))
    if "gcp" in forms:
        from attestation.gcp.rules import gcp_rules  # noqa: PLC0415 - likewise

        rules["gcp"] = AllOf(gcp_rules(tdx=logged, references=references))
    return ByPlatform(rules)


def root_key_id(root_der: bytes) -> bytes:
    """SHA-384 of a root certificate's public key as X.962 point, 48 bytes.

    Raises:
        AttestationError: Not a certificate.
    """
    try:
        key = x509.load_der_x509_certificate(root_der).public_key()
        point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    except ValueError as error:
        raise AttestationError(f"simulated root is not a certificate of an elliptic-curve key: {error}") from None
    return hashlib.sha384(point).digest()
