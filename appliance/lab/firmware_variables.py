"""The variables of OVMF in its flash: what a host can write into them before a machine starts.

In: a firmware volume with variables (``OVMF_VARS.fd``, or the beginning of ``OVMF.fd``). Out: what it holds, or the
same volume with variables added. This is the attacker's and the tests' side: no predictor uses it.

Layout: EDK II ``MdeModulePkg/Include/Guid/VariableFormat.h`` (VARIABLE_STORE_HEADER, AUTHENTICATED_VARIABLE_HEADER);
UEFI Platform Initialization 1.8, volume 3, section 3.2.1 (firmware volume header). Integers are little-endian.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
ENABLE = uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
"""``gEfiSecureBootEnableDisableGuid``."""

NON_VOLATILE, BOOT, RUNTIME, TIME_BASED = 1, 2, 4, 0x20

_AUTHENTICATED = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_STORE = struct.Struct("<16sIBBHI")
_VARIABLE = struct.Struct("<HBBIQ16sIII16s")
_START, _ADDED, _FORMATTED, _HEALTHY = 0x55AA, 0x3F, 0x5A, 0xFE
_ERASED = b"\xff"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the firmware.

    Attributes:
        name: Its name.
        vendor: Whose it is.
        data: Its value.
        attributes: Bits of UEFI 2.10, section 8.2.
    """

    name: str
    vendor: uuid.UUID
    data: bytes
    attributes: int = NON_VOLATILE | BOOT | RUNTIME

    @property
    def measured(self) -> bytes:
        """UEFI_VARIABLE_DATA: what firmware hashes of it, or shows in a log."""
        lengths = struct.pack("<QQ", len(self.name), len(self.data))
        return self.vendor.bytes_le + lengths + self.name.encode("utf-16-le") + self.data


def read(volume: bytes) -> dict[str, Variable]:
    """The variables that are in force, by name.

    Raises:
        LabError: Not a volume with an authenticated store.
    """
    found = {}
    for at, state, length in _entries(volume):
        if state == _ADDED:
            fields = _VARIABLE.unpack_from(volume, at)
            text = at + _VARIABLE.size
            name = volume[text : text + fields[7]].decode("utf-16-le").rstrip("\0")
            data = volume[at + length - fields[8] : at + length]
            found[name] = Variable(name, uuid.UUID(bytes_le=fields[9]), data, fields[3])
    return found


def added(volume: bytes, variables: Iterable[Variable]) -> bytes:
    """The volume with further variables behind those that it holds.

    Raises:
        LabError: Not a volume with an authenticated store, or one that is full.
    """
    begin, end = _bounds(volume)
    at = max((entry + length for entry, _, length in _entries(volume)), default=begin)
    at += -at % 4
    written = b""
    for variable in variables:
        name = variable.name.encode("utf-16-le") + bytes(2)
        head = _VARIABLE.pack(
            *(_START, _ADDED, 0, variable.attributes, 0, bytes(16), 0, len(name), len(variable.data)),
            variable.vendor.bytes_le,
        )
        written += head + name + variable.data
        written += _ERASED * (-len(written) % 4)
    if at + len(written) > end or volume[at : at + len(written)].strip(_ERASED):
        raise LabError(f"a variable store with {end - at} bytes left, {len(written)} are needed")
    return volume[:at] + written + volume[at + len(written) :]


def _bounds(volume: bytes) -> tuple[int, int]:
    """Where the variables begin and where their store ends."""
    if volume[40:44] != b"_FVH":
        raise LabError("not a firmware volume")
    (store,) = struct.unpack_from("<H", volume, 48)
    kind, size, form, state, _, _ = _STORE.unpack_from(volume, store)
    if kind != _AUTHENTICATED or (form, state) != (_FORMATTED, _HEALTHY):
        raise LabError("a firmware volume without an authenticated variable store")
    return store + _STORE.size, store + size


def _entries(volume: bytes) -> Iterator[tuple[int, int, int]]:
    """Offset, state and length of each variable, in force or not."""
    at, end = _bounds(volume)
    while at + _VARIABLE.size <= end:
        start, state, _, _, _, _, _, name, data, _ = _VARIABLE.unpack_from(volume, at)
        if start != _START:
            return
        length = _VARIABLE.size + name + data
        yield at, state, length
        at += length + -length % 4
