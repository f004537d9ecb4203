"""Values that policy files are made of: bytes in hex, numbers, versions, names; each refuses what it is not."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from attestation.tdx import TdAttribute
from measurements.errors import MeasurementError
from measurements.signature import parse_public_key

MAX_ITEMS: Final = 4096
PLATFORMS: Final = ("tdx", "snp", "azure", "gcp", "tpm")
Rtmr: TypeAlias = Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"]
PlatformName: TypeAlias = Literal["tdx", "snp", "azure", "gcp", "tpm"]


class Part(BaseModel):
    """What every table of a policy is: unknown keys are refused, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _bytes_of(*sizes: int) -> Any:
    """Hex of one of the given lengths in bytes; colons and upper case are taken."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            raw = bytes.fromhex(value.replace(":", "").strip().lower().removeprefix("0x"))
        except ValueError:
            raw = b""
        if len(raw) not in sizes:
            msg = f"expected {' or '.join(map(str, sizes))} bytes in hex, got {value[:80]!r}"
            raise ValueError(msg)
        return raw

    return BeforeValidator(read)


def _number(value: object) -> object:
    """An integer, also as text: ``0x602e7``."""
    if not isinstance(value, str):
        return value
    try:
        return int(value, 0)
    except ValueError:
        msg = f"expected a number, also as text like '0x602e7', got {value[:40]!r}"
        raise ValueError(msg) from None


def _attributes(value: object) -> object:
    """TDATTRIBUTES as a number or as the names of the bits that are set."""
    if not isinstance(value, list | tuple):
        return _number(value)
    names = {bit.name: 1 << bit for bit in TdAttribute}
    unknown = [item for item in value if item not in names]
    if unknown:
        msg = f"unknown attribute {str(unknown[0])[:40]!r}; known: {', '.join(names)}"
        raise ValueError(msg)
    return sum(names[item] for item in set(value))


def _public_key(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_public_key(value)
    except MeasurementError as error:
        raise ValueError(error.message) from None


Hash32 = Annotated[bytes, _bytes_of(32)]
Hash48 = Annotated[bytes, _bytes_of(48)]
RegisterHash = Annotated[bytes, _bytes_of(32, 48)]
Ppid = Annotated[bytes, _bytes_of(16)]
Fmspc = Annotated[bytes, _bytes_of(6)]
ChipId = Annotated[bytes, _bytes_of(8, 64)]
"""64 bytes; Turin's have 8, and zeros after them."""

U64 = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**64)]
Attributes = Annotated[int, BeforeValidator(_attributes), Field(ge=0, lt=2**64)]
Level = Annotated[int, Field(ge=0, le=255)]
Days = Annotated[int, Field(ge=0, le=3650)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+'()-]{0,63}$")]
PublicKey = Annotated[bytes, BeforeValidator(_public_key)]
RegisterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{1,15}[0-9]{0,2}$")]
DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,7}$")]
VbiosVersion = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{1,4}(\.[0-9A-Fa-f]{1,4}){0,7}$")]
