"""GPUs and NVSwitches: what this machine has (NVML), their evidence, and its verification anywhere.

Evidence: :mod:`~attestation.gpu.evidence` in a bundle, :mod:`~attestation.gpu.spdm` the report in it,
:mod:`~attestation.gpu.chain` and :mod:`~attestation.gpu.fwid` its certificates. References:
:mod:`~attestation.gpu.rim` (manifests), :mod:`~attestation.gpu.ocsp` (revocation), :mod:`~attestation.gpu.roots`.
Judgement: :mod:`~attestation.gpu.judge` of one device, :mod:`~attestation.gpu.rules` of a set. In the guest:
:mod:`~attestation.gpu.nvml`.
"""
