"""Firmware's variables: ``OVMF_VARS.fd`` in, variables out; and how a variable is measured.

Secure boot is decided by variables, and register 7 of a TPM holds them. ``SecureBoot`` itself is never stored: firmware
derives it at every start from whether there is a platform key and whether a switch of its own is on.

Layout: EDK II ``MdeModulePkg/Include/Guid/VariableFormat.h`` (store and headers),
``SecurityPkg/Library/AuthVariableLib/AuthService.c`` (how ``SecureBoot`` comes about); UEFI 2.10, section 32.4.1
(signature lists); TCG PC Client Platform Firmware Profile 1.06, section 10.2.6 (UEFI_VARIABLE_DATA). All integers are
little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""``EFI_GLOBAL_VARIABLE``."""

IMAGE_SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
"""``EFI_IMAGE_SECURITY_DATABASE_GUID``."""

SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
"""``gEfiSecureBootEnableDisableGuid``: firmware's own switch."""

X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
"""``EFI_CERT_X509_GUID``: a signature list of certificates."""

SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
"""``EFI_CERT_SHA256_GUID``: a signature list of digests."""

MAX_STORE = 2 * 1024**2
"""Longest store that is read, in bytes; OVMF's has 256 KiB."""

MAX_VARIABLES = 4096
MAX_SIGNATURES = 8192
"""Entries of one signature database that are read; the longest lists of revoked images have some hundred."""

_NV_DATA = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")  # EFI_SYSTEM_NV_DATA_FV_GUID
_AUTHENTICATED = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_PLAIN = UUID("ddcf3616-3275-4164-98b6-fe85707ffe7d")
_STORE = struct.Struct("<16sIBBHI")
_FORMATTED, _HEALTHY = 0x5A, 0xFE
_AUTHENTICATED_HEADER = struct.Struct("<HBBIQ16sIII16s")
_PLAIN_HEADER = struct.Struct("<HBBIII16s")
_START = 0x55AA
_ADDED = 0x3F
_BEING_REPLACED = 0x3E  # added, and its successor is being written
_LIST = struct.Struct("<16sIII")
_MEASURED = struct.Struct("<16sQQ")


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable.

    Attributes:
        vendor: GUID of its name space.
        name: Its name.
        attributes: As UEFI has them.
        data: Its value.
    """

    vendor: UUID
    name: str
    attributes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class VariableStore:
    """What a store holds.

    Attributes:
        variables: Those that are valid, by name space and name.
    """

    variables: Mapping[tuple[UUID, str], Variable]

    def data(self, vendor: UUID, name: str) -> bytes:
        """Value of a variable; empty without one, as firmware measures it."""
        found = self.variables.get((vendor, name))
        return found.data if found else b""

    @property
    def booted(self) -> bool:
        """Whether a firmware that ran left boot options in it."""
        return any(vendor == GLOBAL and name.startswith("Boot") for vendor, name in self.variables)

    @property
    def secure_boot(self) -> bool:
        """Whether a firmware that knows secure boot enforces it with these variables.

        With a platform key the switch is on unless it was turned off; without one there is nothing to enforce.
        """
        return bool(self.data(GLOBAL, "PK")) and self.data(SECURE_BOOT_ENABLE, "SecureBootEnable") in {b"", b"\x01"}


@dataclass(frozen=True, slots=True)
class SignatureEntry:
    """One entry of a signature database.

    Attributes:
        kind: What it is; :data:`X509` for a certificate.
        data: Whose it is (16 bytes), then the certificate or digest: ``EFI_SIGNATURE_DATA``.
    """

    kind: UUID
    data: bytes

    @property
    def content(self) -> bytes:
        """The certificate or digest."""
        return self.data[16:]


def parse_store(data: bytes) -> VariableStore:
    """Read the variables of ``OVMF_VARS.fd``, or of an ``OVMF.fd`` that begins with them.

    Raises:
        ArtefactError: No store there, one of another format, or one that breaks its bounds.
    """
    if len(data) < 56 or data[40:44] != b"_FVH" or UUID(bytes_le=data[16:32]) != _NV_DATA:
        raise ArtefactError(
            f"{len(data)} bytes that do not begin with a variable store", hint="expected OVMF_VARS.fd or OVMF.fd"
        )
    start = int.from_bytes(data[48:50], "little")
    if start + _STORE.size > len(data):
        raise ArtefactError(f"variable store of {len(data)} bytes ends inside its header")
    raw, size, form, state, _, _ = _STORE.unpack_from(data, start)
    kind = UUID(bytes_le=raw)
    if kind not in {_AUTHENTICATED, _PLAIN} or (form, state) != (_FORMATTED, _HEALTHY):
        raise ArtefactError(f"variable store of format {kind}, state {form:#x} {state:#x}")
    if not _STORE.size <= size <= min(MAX_STORE, len(data) - start):
        raise ArtefactError(f"variable store of {size} bytes in a file of {len(data)}")
    store = data[start : start + size]
    found: dict[tuple[UUID, str], Variable] = {}
    replaced: dict[tuple[UUID, str], Variable] = {}
    for state, variable in _variables(store, authenticated=kind == _AUTHENTICATED):
        key = (variable.vendor, variable.name)
        if state == _ADDED:
            if key in found:
                raise ArtefactError(f"variable store with two variables {variable.name}")
            found[key] = variable
        elif state == _BEING_REPLACED:
            replaced[key] = variable
    return VariableStore({**replaced, **found})


def signatures(database: bytes) -> tuple[SignatureEntry, ...]:
    """The entries of a signature database (``PK``, ``KEK``, ``db``, ``dbx``) in order.

    Raises:
        ArtefactError: Lists that do not fit into their lengths.
    """
    found: list[SignatureEntry] = []
    offset = 0
    while offset < len(database):
        if offset + _LIST.size > len(database):
            raise ArtefactError(f"signature database of {len(database)} bytes ends inside a list's header")
        raw, size, head, each = _LIST.unpack_from(database, offset)
        start, end = offset + _LIST.size + head, offset + size
        if end > len(database) or start > end or each < 17 or (end - start) % each:
            raise ArtefactError(f"signature list of {size} bytes with entries of {each} in {len(database)} bytes")
        if len(found) + (end - start) // each > MAX_SIGNATURES:
            raise ArtefactError(f"signature database with more than {MAX_SIGNATURES} entries")
        kind = UUID(bytes_le=raw)
        found += [SignatureEntry(kind, database[at : at + each]) for at in range(start, end, each)]
        offset = end
    return tuple(found)


def variable_data(vendor: UUID, name: str, value: bytes) -> bytes:
    """``UEFI_VARIABLE_DATA``: name space, length of the name in characters, length of the value, name, value.

    What ``EV_EFI_VARIABLE_DRIVER_CONFIG`` and ``EV_EFI_VARIABLE_AUTHORITY`` are the digest of.
    """
    text = name.encode("utf-16-le")
    return _MEASURED.pack(vendor.bytes_le, len(text) // 2, len(value)) + text + value


def _variables(store: bytes, *, authenticated: bool) -> Iterator[tuple[int, Variable]]:
    header = _AUTHENTICATED_HEADER if authenticated else _PLAIN_HEADER
    offset = _STORE.size
    for _ in range(MAX_VARIABLES):
        offset = -(-offset // 4) * 4
        if offset + header.size > len(store) or store[offset : offset + 2] != _START.to_bytes(2, "little"):
            return
        if authenticated:
            _, state, _, attributes, _, _, _, name_size, data_size, vendor = header.unpack_from(store, offset)
        else:
            _, state, _, attributes, name_size, data_size, vendor = header.unpack_from(store, offset)
        if 0xFFFFFFFF in {name_size, data_size}:  # never written to its end
            name_size = data_size = 0
        start = offset + header.size
        end = start + name_size + data_size
        if end > len(store) or name_size % 2:
            raise ArtefactError(f"variable at {offset:#x} that ends at {end:#x} in a store of {len(store)} bytes")
        name = store[start : start + name_size].decode("utf-16-le", "replace").partition("\0")[0]
        yield state, Variable(UUID(bytes_le=vendor), name, attributes, store[start + name_size : end])
        offset = end
    raise ArtefactError(f"variable store with more than {MAX_VARIABLES} variables")
