"""Whose word a policy takes: the roots of every kind of evidence, the makers' own or those of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.gcp.roots import GOOGLE_ROOT_KEY_IDS
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.machine_readers import AzureReader, GcpReader, SnpReader
from attestation.readers import ByForm, DcapReader, TpmReader
from attestation.snp.roots import AMD_ROOTS

if TYPE_CHECKING:
    from collections.abc import Collection

    from attestation.gpu.roots import GpuRoots
    from attestation.readers import Form, Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Trusted roots; a kind without any is not trusted at all.

    Attributes:
        tdx: Of TDX quotes, DER certificates; ``None`` among them is Intel's.
        snp: Of SEV-SNP reports, key ids of 48 bytes (:mod:`attestation.snp.roots`); Azure's machines rest on them too.
        tpm: Of TPM attestation keys, DER certificates or key ids (:mod:`attestation.tpm.chain`).
        gcp: Of Google's vTPM attestation keys, likewise.
        gpu: Of devices and their reference manifests.
    """

    tdx: tuple[bytes | None, ...] = ()
    snp: frozenset[bytes] = frozenset()
    tpm: tuple[bytes, ...] = ()
    gcp: tuple[bytes, ...] = ()
    gpu: GpuRoots | None = None

    @property
    def count(self) -> int:
        """How many roots of machines there are."""
        return len(self.tdx) + len(self.snp) + len(self.tpm) + len(self.gcp)


MAKERS = Roots(tdx=(None,), snp=AMD_ROOTS, gcp=GOOGLE_ROOT_KEY_IDS, gpu=NVIDIA_ROOTS)
"""Intel, AMD, Google and NVIDIA."""


def open_reader(roots: Roots, *, forms: Collection[Form] | None = None, zero_padding: bool = False) -> ByForm:
    """A reader of every form that there is a root for.

    Args:
        roots: Which are trusted.
        forms: The forms that are read, all by default.
        zero_padding: Take TDX quotes with zeros after them.
    """
    tdx = DcapReader(roots.tdx, zero_padding) if roots.tdx else None
    readers: dict[Form, Reader] = {}
    if tdx is not None:
        readers["tdx"] = tdx
    if roots.tpm:
        readers["tpm"] = TpmReader(roots.tpm)
    if roots.snp:
        readers["snp"] = SnpReader(roots.snp)
        readers["azure"] = AzureReader(roots.snp)
    if roots.gcp:
        readers["gcp"] = GcpReader(roots.gcp, tdx)
    return ByForm({form: reader for form, reader in readers.items() if forms is None or form in forms})
