"""GPUs and NVSwitches: what this machine has (NVML), their evidence, and its verification anywhere.

Evidence: :mod:`~attestation.gpu.evidence` in a bundle, :mod:`~attestation.gpu.spdm` the report in it,
:mod:`~attestation.gpu.chain` and :mod:`~attestation.gpu.fwid` its certificates. References:
:mod:`~attestation.gpu.rim` (manifests), :mod:`~attestation.gpu.ocsp` (revocation), :mod:`~attestation.gpu.roots`.
Judgement: :mod:`~attestation.gpu.judge` of one device, :mod:`~attestation.gpu.rules` of a set. In the guest:
:mod:`~attestation.gpu.nvml` asks the driver, :mod:`~attestation.gpu.own` judges before anything runs. Names below are
loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from attestation.gpu.claims import GpuClaims, MultiGpu
    from attestation.gpu.evidence import DeviceEvidence
    from attestation.gpu.judge import DeviceJudgement, judge_device
    from attestation.gpu.memory import Memory
    from attestation.gpu.nvml import Inventory, NvmlCollector, inventory
    from attestation.gpu.own import judge_own
    from attestation.gpu.rim import rim_ids
    from attestation.gpu.roots import NVIDIA_ROOTS, GpuRoots
    from attestation.gpu.rules import gpu_rules
    from attestation.gpu.spdm import SpdmReport, parse_report

__all__ = [
    "NVIDIA_ROOTS",
    "DeviceEvidence",
    "DeviceJudgement",
    "GpuClaims",
    "GpuRoots",
    "Inventory",
    "Memory",
    "MultiGpu",
    "NvmlCollector",
    "SpdmReport",
    "gpu_rules",
    "inventory",
    "judge_device",
    "judge_own",
    "parse_report",
    "rim_ids",
]

_HOMES = {
    "NVIDIA_ROOTS": "roots",
    "DeviceEvidence": "evidence",
    "DeviceJudgement": "judge",
    "GpuClaims": "claims",
    "GpuRoots": "roots",
    "Inventory": "nvml",
    "Memory": "memory",
    "MultiGpu": "claims",
    "NvmlCollector": "nvml",
    "SpdmReport": "spdm",
    "gpu_rules": "rules",
    "inventory": "nvml",
    "judge_device": "judge",
    "judge_own": "own",
    "parse_report": "spdm",
    "rim_ids": "rim",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, _HOMES)
