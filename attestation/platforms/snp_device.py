"""The older way to a report: ioctls on ``/dev/sev-guest`` (Linux 5.19 and newer, ``include/uapi/linux/sev-guest.h``).

The extended request also gives the certificates that the host keeps. Its buffers' addresses go to the kernel, so they
live until it returns.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from attestation.errors import CollectionError
from attestation.snp.report import REPORT_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    Ioctl: TypeAlias = Callable[[int, int, bytearray], object]

DEVICE = Path("/dev/sev-guest")
SNP_GET_REPORT = 0xC0205300
"""``_IOWR('S', 0, struct snp_guest_request_ioctl)``."""

SNP_GET_EXT_REPORT = 0xC0205302
"""``_IOWR('S', 2, struct snp_guest_request_ioctl)``."""

TABLE_SIZE = 0x4000
"""Longest certificate table that the kernel passes on (SEV_FW_BLOB_MAX_SIZE)."""

_REQUEST = struct.Struct("<B7xQQQ")  # msg_version, req_data, resp_data, exitinfo2 (firmware's error, machine monitor's)
_REPORT_REQUEST = struct.Struct("<64sI28x")  # user_data, vmpl, reserved
_EXTENDED = struct.Struct("<96sQI4x")  # snp_report_req, certs_address, certs_len
_RESPONSE_SIZE = 4000
_HEAD = struct.Struct("<II24x")  # MSG_REPORT_RSP: status, report_size (56860, table 24)
_MESSAGE_VERSION = 1
_NO_ANSWER = 0xFF
_STATUS = {0x16: "invalid parameters", 0x27: "the host forbids the signing key"}
_MONITOR = {1: "the certificate buffer is too small", 2: "the host is busy"}


def request_report(
    report_data: bytes, vmpl: int, device: Path = DEVICE, ioctl: Ioctl | None = None
) -> tuple[bytes, bytes]:
    """Ask the firmware for a report.

    Args:
        report_data: 64 bytes.
        vmpl: Privilege level that the report speaks for.
        device: The device file.
        ioctl: Stands for :func:`fcntl.ioctl` in tests.

    Returns:
        The report, and the host's certificate table, which is empty where the host keeps none or too long a one.

    Raises:
        CollectionError: No such device, or firmware or host refuse; the reason is told.
    """
    call = ioctl or _ioctl
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CollectionError(
            f"{device} cannot be opened: {error.strerror}", hint="an SEV-SNP guest with the sev-guest driver has it"
        ) from None
    try:
        try:
            return _exchange(call, handle, report_data, vmpl, extended=True)
        except CollectionError:
            return _exchange(call, handle, report_data, vmpl, extended=False)
    finally:
        os.close(handle)


def _exchange(call: Ioctl, handle: int, report_data: bytes, vmpl: int, *, extended: bool) -> tuple[bytes, bytes]:
    table = ctypes.create_string_buffer(TABLE_SIZE) if extended else None
    content = _REPORT_REQUEST.pack(report_data, vmpl)
    if table is not None:
        content = _EXTENDED.pack(content, ctypes.addressof(table), TABLE_SIZE)
    asked = ctypes.create_string_buffer(content, len(content))
    answer = ctypes.create_string_buffer(_RESPONSE_SIZE)
    request = bytearray(_REQUEST.pack(_MESSAGE_VERSION, ctypes.addressof(asked), ctypes.addressof(answer), _NO_ANSWER))
    try:
        call(handle, SNP_GET_EXT_REPORT if extended else SNP_GET_REPORT, request)
    except OSError as error:
        raise CollectionError(
            f"SEV firmware gives no report: {_reason(error, request)}",
            hint="after a failed exchange the kernel may have dropped its key to the firmware: start the guest again",
        ) from None
    status, size = _HEAD.unpack_from(answer.raw)
    if status or size != REPORT_SIZE:
        words = _STATUS.get(status, f"status {status:#x}")
        raise CollectionError(f"SEV firmware answered with {words} and {size} bytes, expected {REPORT_SIZE}")
    found = table.raw if table is not None else b""
    return answer.raw[_HEAD.size : _HEAD.size + size], found if any(found) else b""


def _reason(error: OSError, request: bytearray) -> str:
    *_, exit_info = _REQUEST.unpack(request)
    firmware, monitor = exit_info & 0xFFFFFFFF, exit_info >> 32
    if exit_info == _NO_ANSWER or not exit_info:
        return error.strerror or str(error)
    words = _MONITOR.get(monitor, f"machine monitor's error {monitor:#x}") if monitor else "firmware's error"
    return f"{words} ({error.strerror}, {firmware:#x})"


def _ioctl(handle: int, operation: int, request: bytearray) -> object:
    return fcntl.ioctl(handle, operation, request, True)
