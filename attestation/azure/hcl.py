"""The report that Azure's paravisor leaves in the vTPM: bytes in, hardware report and runtime data out.

Layout, all little-endian (OpenHCL, ``openhcl_attestation_protocol/src/igvm_attest/get.rs``, version 1 of the request,
which is what the guest is shown; ``underhill_core/src/emuplat/tpm.rs``):

====== ===== =====================================================================
offset bytes
====== ===== =====================================================================
0      4     ``HCLA``
4      4     version of this header: 1 or 2
8      4     length of everything, header included, padding excluded
12     4     what it was made for: 2, the certificate of the attestation key
16     4     status: 0
20     12    zero
32     1184  the hardware's report; a TD report is shorter and followed by zeros
1216   4     length of this and all that follows
1220   4     version: 1
1224   4     kind of hardware report: 2 SEV-SNP, 4 TDX
1228   4     hash of the runtime data in the hardware's report: 1 SHA-256
1232   4     length of the runtime data
1236         runtime data: JSON
====== ===== =====================================================================

The NV index is longer than that; the rest of it is zero.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal

from attestation.errors import EvidenceError

MAX_REPORT = 8 * 1024
"""Longest report that is read, in bytes; the NV index has 2,600."""

MAX_RUNTIME = 4 * 1024
HARDWARE_SIZE = 1184
"""Bytes kept for the hardware's report: one of SEV-SNP fills them."""

TD_REPORT_SIZE = 1024
_HEADER = struct.Struct("<4sIIII12s")
_DATA = struct.Struct("<5I")
_MAGIC = b"HCLA"
_REQUEST = 2
_SHA256 = 1
_KINDS: dict[int, Literal["snp", "tdx"]] = {2: "snp", 4: "tdx"}
_HASHES = {2: "SHA-384", 3: "SHA-512"}


@dataclass(frozen=True, slots=True)
class HclReport:
    """A parsed report; nothing in it is verified yet.

    Attributes:
        version: Of its header.
        kind: ``snp`` or ``tdx``.
        hardware: The hardware's report: 1,184 bytes of SEV-SNP, or a TD report of 1,024.
        runtime: The runtime data as it was hashed.
    """

    version: int
    kind: Literal["snp", "tdx"]
    hardware: bytes
    runtime: bytes

    @property
    def bound(self) -> bytes:
        """What the hardware's report data has to be: the runtime data's hash and 32 zero bytes; 64 bytes."""
        return hashlib.sha256(self.runtime).digest() + bytes(32)


def parse_hcl(data: bytes) -> HclReport:
    """Read a report, with or without the zeros behind it.

    Raises:
        EvidenceError: Too long, not this layout, lengths that do not fit each other, or bytes where zeros belong.
    """
    if len(data) > MAX_REPORT:
        raise EvidenceError(f"paravisor report of {len(data)} bytes, at most {MAX_REPORT} are read")
    start = _HEADER.size + HARDWARE_SIZE
    if len(data) < start + _DATA.size:
        raise EvidenceError(f"paravisor report of {len(data)} bytes, expected at least {start + _DATA.size}")
    magic, version, size, request, status, reserved = _HEADER.unpack_from(data)
    data_size, data_version, code, hashed_by, runtime_size = _DATA.unpack_from(data, start)
    if magic != _MAGIC:
        raise EvidenceError(f"paravisor report that begins with {magic.hex()}, expected {_MAGIC.hex()}")
    if version not in {1, 2} or data_version != 1:
        raise EvidenceError(f"paravisor report of version {version}, data of {data_version}; expected 1 or 2, and 1")
    if (request, status) != (_REQUEST, 0) or any(reserved):
        raise EvidenceError(f"paravisor report for request {request} with status {status}, expected {_REQUEST} and 0")
    if code not in _KINDS:
        raise EvidenceError(f"paravisor report with hardware of kind {code}, expected 2 (SEV-SNP) or 4 (TDX)")
    if hashed_by != _SHA256:
        raise EvidenceError(f"runtime data hashed by {_HASHES.get(hashed_by, hashed_by)}, expected SHA-256")
    if not 0 < runtime_size <= MAX_RUNTIME:
        raise EvidenceError(f"runtime data of {runtime_size} bytes, expected 1 to {MAX_RUNTIME}")
    end = start + _DATA.size + runtime_size
    if (size, data_size) != (end, end - start) or len(data) < end:
        raise EvidenceError(
            f"paravisor report whose lengths are {size} and {data_size} in {len(data)} bytes, "
            f"expected {end} and {end - start} for runtime data of {runtime_size}"
        )
    hardware, runtime = data[_HEADER.size : start], data[start + _DATA.size : end]
    if any(data[end:]):
        raise EvidenceError("paravisor report followed by bytes that are not zero")
    if _KINDS[code] == "tdx":
        hardware, rest = hardware[:TD_REPORT_SIZE], hardware[TD_REPORT_SIZE:]
        if any(rest):
            raise EvidenceError("TD report followed by bytes that are not zero")
    return HclReport(version, _KINDS[code], hardware, runtime)


def trimmed(data: bytes) -> bytes:
    """A report without the zeros behind it, as evidence carries it; errors as :func:`parse_hcl`."""
    report = parse_hcl(data)
    return data[: _HEADER.size + HARDWARE_SIZE + _DATA.size + len(report.runtime)]
