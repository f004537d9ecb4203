"""Register values as a file: what a person pasted, or what a program wrote. Bytes in, values by register out.

Read are: JSON with values by name (also what ``chrysalis measure predict --json`` prints), and lines of a name and a
value as ``tpm2_pcrread`` and the kernel's files have them: ``pcr4: 0x3d45…``, ``rtmr0 9c4e…``, ``4 : 0x3d45…`` under a
line that names the bank. Lines that begin with ``#`` say nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from measurements.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BYTES = 1 << 20
MAX_REGISTERS = 64
NAME = re.compile(r"(?:pcr(?:[0-9]|1[0-9]|2[0-3])|rtmr[0-3]|mrtd|mrconfigid|measurement|host_data)")
_LINE = re.compile(r"([A-Za-z_]{0,12}[0-9]{0,2})(?:\s*[:=]\s*|\s+)(?:0x)?([0-9A-Fa-f]{64}|[0-9A-Fa-f]{96})")
_BANK = re.compile(r"sha[0-9]{1,3}\s*:")
_SIZES: Mapping[str, int] = {"pcr": 32, "host_data": 32}


class RegisterFileError(MeasurementError):
    """A file does not hold register values."""


def parse_registers(data: bytes) -> dict[str, bytes]:
    """Values by register.

    Raises:
        RegisterFileError: Too long, of another form, an unknown register, one that stands there twice, or a value of
            another length than the register's.
    """
    if len(data) > MAX_BYTES:
        raise RegisterFileError(f"register values of {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RegisterFileError("register values that are no text", hint="a bundle is given as the argument") from None
    found: dict[str, bytes] = {}
    for name, digits in _of_json(text) if text.lstrip().startswith("{") else _of_lines(text):
        if not NAME.fullmatch(name):
            raise RegisterFileError(f"register {name[:20]!r}, known are pcr0…pcr23, rtmr0…rtmr3, mrtd, mrconfigid, "
                                    "measurement, host_data")  # fmt: skip
        if name in found:
            raise RegisterFileError(f"register {name} stands there twice", hint="give the values of one bank")
        size = _SIZES.get(name.rstrip("0123456789"), 48)
        if len(digits) != 2 * size:
            raise RegisterFileError(f"register {name} of {len(digits) // 2} bytes, expected {size}")
        found[name] = bytes.fromhex(digits)
    if not 0 < len(found) <= MAX_REGISTERS:
        raise RegisterFileError(f"{len(found)} register values, expected 1 to {MAX_REGISTERS}")
    return found


def _of_json(text: str) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RegisterFileError("register values that begin as JSON and are none") from None
    registers: Any = value.get("registers", value)
    if not isinstance(registers, dict):
        raise RegisterFileError("JSON without a map of registers")
    for name, item in registers.items():
        digits = item.get("value") if isinstance(item, dict) else item
        if not isinstance(digits, str) or not re.fullmatch("[0-9a-f]{64}|[0-9a-f]{96}", digits):
            raise RegisterFileError(f"register {name[:20]!r} whose value is not 64 or 96 lower-case hex digits")
        yield name, digits


def _of_lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#") or _BANK.fullmatch(content):
            continue
        found = _LINE.fullmatch(content)
        if found is None:
            raise RegisterFileError(f"line {number} is not a register and its value: {content[:40]!r}")
        name = found[1].lower()
        yield f"pcr{int(name)}" if name.isdigit() else name, found[2].lower()
