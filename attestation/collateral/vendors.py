"""Where the makers of hardware serve collateral to everybody; the field's tools have the same addresses built in."""

from __future__ import annotations

from typing import Final

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
"""Provisioning certification service: TCB info, identities, revocation lists; no key is needed for these."""

INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""Revocation list of Intel's root, which the service above does not have; a PCCS has it as ``rootcacrl``."""

AMD_KDS: Final = "https://kdsintf.amd.com"
"""Key distribution service: certificates of chips, chains, revocation lists."""

NVIDIA_RIM: Final = "https://rim.attestation.nvidia.com"
"""Reference manifests."""

NVIDIA_OCSP: Final = "https://ocsp.ndis.nvidia.com"
"""Revocation status."""
