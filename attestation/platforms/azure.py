"""An Azure confidential machine: the paravisor's report and a quote by its vTPM's key.

The paravisor makes a new report when its NV index is read, at most every two seconds, over 64 bytes that the guest left
in another index (OpenHCL, ``vm/devices/tpm``; a read too soon, or one that failed, gives the report before). Fresh
evidence waits for one over its own question; a certificate takes what is there. AMD's certificates come from Azure's
metadata service where it answers: they are public, and a verifier's own source or the bundle may have them instead.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import time
import urllib.parse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from attestation.azure.evidence import AzureEvidence
from attestation.azure.hcl import parse_hcl, trimmed
from attestation.azure.runtime import parse_runtime
from attestation.errors import CollectionError, EvidenceError
from attestation.platforms.base import check_report_data
from attestation.snp.evidence import LIMITS
from attestation.tpm import logs as boot_logs
from attestation.tpm.evidence import REGISTERS, TpmEvidence, qualifying_data
from attestation.tpm.tools import TpmTools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from attestation.tpm.logs import BootLogs, LogFiles

_log = structlog.get_logger(__name__)
REPORT_INDEX = 0x01400001
USER_DATA_INDEX = 0x01400002
KEY_HANDLE = 0x81000003
METADATA = "http://169.254.169.254"
"""Azure's metadata service, as every machine of theirs sees it."""

_CERTIFICATES = "/metadata/THIM/amd/certification"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NAMES = tuple((name, LIMITS[name]) for name in ("vcek", "ask", "ark"))
"""In the order of the answer. They are not parsed here: the library takes no certificate of number 0, as AMD's have."""

_MAX_ANSWER = 64 * 1024
_METADATA_S = 5.0
_ASK_AGAIN_S = 3600.0
_RENEWED_EVERY_S = 2.1
_RENEWAL_S = 20.0


class Azure:
    """The paravisor's vTPM.

    Args:
        tcti: The TPM as tpm2-tools name it; the kernel's resource manager by default.
        directory: This service's own, for the tools' files.
        metadata: Address of Azure's metadata service, ``http``; empty to ask nobody for certificates.
        snapshot: Logs that were gathered for this service; where the file does not exist, ``files`` are read.
        files: The machine's log files.
        renewal: Seconds to wait for a report over the question.
        clock: Monotonic seconds.
    """

    name = "azure"

    def __init__(
        self,
        tcti: str | None,
        directory: Path,
        *,
        metadata: str = METADATA,
        snapshot: Path = boot_logs.SNAPSHOT,
        files: LogFiles | None = None,
        renewal: float = _RENEWAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tools = TpmTools(tcti, directory)
        self._metadata = metadata
        self._snapshot = snapshot
        self._files = files
        self._renewal = renewal
        self._clock = clock
        self._certificates: Mapping[str, bytes] = {}
        self._ask_at = -1.0
        self._one_at_a_time = asyncio.Lock()

    async def collect(self, report_data: bytes) -> bytes:
        """Quote the registers, with the report that is there: the form for certificates.

        Raises:
            CollectionError: No vTPM, no paravisor, or one whose evidence no verifier takes.
        """
        check_report_data(report_data)
        async with self._one_at_a_time:
            report = await self._report()
            return await self._evidence(report, report_data, None)

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """Quote the registers, with a new report and the logs: the form for fresh evidence.

        Raises:
            CollectionError: As :meth:`collect`; or there is no new report in time, or a log cannot be read.
        """
        check_report_data(report_data)
        logs = await asyncio.to_thread(boot_logs.of_this_boot, self._snapshot, self._files)
        async with self._one_at_a_time:
            report = await self._renewed(report_data)
            return await self._evidence(report, report_data, logs)

    async def _evidence(self, report: bytes, report_data: bytes, logs: BootLogs | None) -> bytes:
        key = await self._tools.read_public(KEY_HANDLE)
        quote, signature, registers = await self._tools.quote(
            f"{KEY_HANDLE:#x}", REGISTERS, qualifying_data(report_data)
        )
        tpm = TpmEvidence(quote=quote, signature=signature, key=key, chain=(), registers=registers, logs=logs)
        evidence = AzureEvidence(report=report, tpm=tpm)
        return replace(evidence, certificates=await self._kept_certificates()).encode()

    async def _report(self) -> bytes:
        """The report as it is now, checked to be one that a verifier may take."""
        if REPORT_INDEX not in await self._tools.handles("handles-nv-index"):
            raise CollectionError(
                f"no report of a paravisor in the TPM (index {REPORT_INDEX:#x})",
                hint="an Azure machine without confidential computing: choose a confidential size (DCas, ECas, NCC)",
            )
        raw = await self._tools.read_index(REPORT_INDEX, as_owner=True)
        try:
            report = parse_hcl(raw)
        except EvidenceError as error:
            raise CollectionError(f"the paravisor's report cannot be read: {error.message}") from None
        if report.kind == "tdx":
            raise CollectionError(
                "this Azure machine runs under TDX without SEPT_VE_DISABLE: no verifier takes its evidence",
                hint="use a confidential size with AMD's processor, until a policy for paravisors of TDX exists",
            )
        return trimmed(raw)

    async def _renewed(self, report_data: bytes) -> bytes:
        """A report over the question."""
        await self._tools.write_index(USER_DATA_INDEX, report_data)
        deadline = self._clock() + self._renewal
        while True:
            report = await self._report()
            try:
                seen = parse_runtime(parse_hcl(report).runtime).user_data
            except EvidenceError as error:
                raise CollectionError(f"the paravisor's runtime data cannot be read: {error.message}") from None
            if seen == report_data:
                return report
            if self._clock() + _RENEWED_EVERY_S > deadline:
                why = "its paravisor is too old for user data" if seen is None else "the host gives it none"
                raise CollectionError(f"no new report of the processor within {self._renewal:.0f} s: {why}")
            await asyncio.sleep(_RENEWED_EVERY_S)

    async def _kept_certificates(self) -> Mapping[str, bytes]:
        """AMD's certificates for this chip, asked for once an hour; what was found last where nobody answers."""
        if self._metadata and self._clock() >= self._ask_at:
            self._ask_at = self._clock() + _ASK_AGAIN_S
            try:
                self._certificates = await asyncio.to_thread(ask_certificates, self._metadata)
            except CollectionError as error:
                _log.info("no certificates from the cloud's metadata service", reason=error.message)
        return self._certificates


def ask_certificates(address: str) -> dict[str, bytes]:
    """Ask Azure's metadata service for the certificates of the chip's key.

    Args:
        address: ``http://`` and a host; link-local, so no proxy is asked.

    Returns:
        DER by names of :data:`attestation.snp.evidence.LIMITS`: ``vcek``, ``ask``, ``ark``.

    Raises:
        CollectionError: It does not answer, or not with three certificates.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise CollectionError(f"metadata service {address!r}, expected an http address")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_METADATA_S)
    try:
        connection.request("GET", _CERTIFICATES, headers={"Metadata": "true", "Connection": "close"})
        response = connection.getresponse()
        raw = response.read(_MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise CollectionError(f"metadata service {parts.hostname} does not answer: {type(error).__name__}") from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK or len(raw) > _MAX_ANSWER:
        raise CollectionError(f"metadata service answers with status {response.status} and {len(raw)} bytes")
    try:
        answer: Any = json.loads(raw)
        texts = (answer["vcekCert"], answer["certificateChain"])
        found = [ssl.PEM_cert_to_DER_cert(block) for text in texts for block in _PEM.findall(text)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CollectionError(f"metadata service answers with no certificates: {type(error).__name__}") from None
    if len(found) != 3:
        raise CollectionError(f"metadata service answers with {len(found)} certificates, expected 3")
    for (name, limit), der in zip(_NAMES, found, strict=True):
        if len(der) > limit:
            raise CollectionError(f"metadata service answers with a certificate {name} of {len(der)} bytes")
    return {name: der for (name, _), der in zip(_NAMES, found, strict=True)}
