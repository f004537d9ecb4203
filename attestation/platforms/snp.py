"""An SEV-SNP guest: reports through the kernel's configfs interface, or the older device where there is none.

configfs is asked first (Documentation/ABI/testing/configfs-tsm-report): its generation count says that a report answers
this request. A host that throttles its guests makes the kernel retry for a minute, and one that never answers makes it
wait for ever; a request that takes too long is left behind, and no second one is made until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from attestation.errors import CollectionError, EvidenceError
from attestation.platforms.base import check_report_data
from attestation.platforms.snp_device import DEVICE, request_report
from attestation.snp.evidence import KIND, SnpEvidence
from attestation.snp.report import REPORT_SIZE, parse_report
from attestation.snp.table import MAX_TABLE, parse_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.platforms.snp_device import Ioctl

_log = structlog.get_logger(__name__)
REPORTS = Path("/sys/kernel/config/tsm/report")
PROVIDER = "sev_guest"
_WRITES = 2  # privilege level and report data: what the generation count has to be
_POLL_S = 0.05
_BUSY = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR})


class Snp:
    """Asks the SEV firmware for reports.

    Args:
        reports: The configfs directory.
        device: The older device.
        timeout: Seconds for one report.
        vmpl: Privilege level to speak for; 0 where nothing runs above the guest.
        ioctl: Stands for :func:`fcntl.ioctl` in tests.
    """

    name = KIND

    def __init__(
        self,
        reports: Path = REPORTS,
        device: Path = DEVICE,
        *,
        timeout: float = 30.0,
        vmpl: int = 0,
        ioctl: Ioctl | None = None,
    ) -> None:
        self._reports = reports
        self._device = device
        self._timeout = timeout
        self._vmpl = vmpl
        self._ioctl = ioctl
        self._one_at_a_time = asyncio.Lock()
        self._left_behind: threading.Thread | None = None

    async def collect(self, report_data: bytes) -> bytes:
        """Make evidence: a report with the certificates that the host keeps.

        Raises:
            CollectionError: No such interface, firmware or host refuse, or no report within the time limit.
        """
        check_report_data(report_data)
        async with self._one_at_a_time:
            if self._left_behind is not None and self._left_behind.is_alive():
                raise CollectionError("an earlier request for a report is still under way", hint=_STUCK)
            report, table = await self._in_time(lambda: self._request(report_data))
        return _evidence(report, table, report_data)

    async def _in_time(self, work: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """Run in a thread that nobody waits for longer than agreed, not even this process at its end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()

        def settle(result: tuple[bytes, bytes] | CollectionError) -> None:
            if done.done():
                return
            if isinstance(result, CollectionError):
                done.set_exception(result)
            else:
                done.set_result(result)

        def run() -> None:
            try:
                result: tuple[bytes, bytes] | CollectionError = work()
            except CollectionError as error:
                result = error
            except OSError as error:
                result = CollectionError(f"no report: {error.strerror}", hint=_STUCK)
            with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
                loop.call_soon_threadsafe(settle, result)

        self._left_behind = threading.Thread(target=run, name="snp-report", daemon=True)
        self._left_behind.start()
        try:
            async with asyncio.timeout(self._timeout):
                return await done
        except TimeoutError:
            raise CollectionError(f"no report within {self._timeout:.0f} s", hint=_STUCK) from None

    def _request(self, report_data: bytes) -> tuple[bytes, bytes]:
        if self._reports.is_dir():
            return self._by_configfs(report_data)
        return request_report(report_data, self._vmpl, self._device, self._ioctl)

    def _by_configfs(self, report_data: bytes) -> tuple[bytes, bytes]:
        entry = self._reports / f"chrysalis-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            entry.mkdir()
        except OSError as error:
            raise CollectionError(
                f"{self._reports} takes no request: {error.strerror}",
                hint="a guest with kernel 6.7 or newer, the sev-guest driver and configfs mounted has it",
            ) from None
        try:
            provider = (entry / "provider").read_text().strip()
            if provider != PROVIDER:
                raise CollectionError(f"reports come from provider {provider!r}, expected {PROVIDER!r}")
            floor = int((entry / "privlevel_floor").read_text())
            if floor > self._vmpl:
                raise CollectionError(
                    f"the guest runs at privilege level {floor}, expected {self._vmpl}",
                    hint="a paravisor or service module runs above it: its platform speaks for both",
                )
            return self._exchange(entry, report_data)
        except ValueError:
            raise CollectionError("configfs gives a number that is none") from None
        finally:
            with contextlib.suppress(OSError):
                entry.rmdir()

    def _exchange(self, entry: Path, report_data: bytes) -> tuple[bytes, bytes]:
        """Write the request once and read until it is answered."""
        (entry / "privlevel").write_text(str(self._vmpl))
        (entry / "inblob").write_bytes(report_data)
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                report = _bounded(entry / "outblob", REPORT_SIZE)
                table = _bounded(entry / "auxblob", MAX_TABLE)
                break
            except OSError as error:
                if error.errno not in _BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
        generation = int((entry / "generation").read_text())
        if generation != _WRITES:
            raise CollectionError(f"configfs answers request {generation}, expected {_WRITES}: somebody else wrote")
        return report, table


_STUCK = "the host throttles or withholds the firmware's answers; nothing in the guest can change that"


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        found = file.read(limit + 1)
    if len(found) > limit:
        raise CollectionError(f"configfs gave over {limit} bytes of {path.name}")
    return found


def _evidence(report: bytes, table: bytes, report_data: bytes) -> bytes:
    try:
        if parse_report(report).report_data != report_data:
            raise CollectionError("SEV firmware gave a report over other report data")
    except EvidenceError as error:
        raise CollectionError(f"SEV firmware gave no report: {error.message}", hint=error.hint) from None
    try:
        certificates = parse_table(table)
    except EvidenceError as error:
        _log.warning("the host's certificates are left out", reason=error.message)
        certificates = {}
    return SnpEvidence(report, certificates).encode()
