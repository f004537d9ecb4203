"""The first stage: what the host hands over becomes a checked configuration, bound to the machine before any network.

In: the configuration volume or fw_cfg. Out: a :class:`GuestConfig`; PCR 14 extended with the measured configuration's
digest; files for the services under ``/run/chrysalis/config``. A machine whose configuration is refused extends PCR 14
too, with a fixed value: nothing that runs later can give it the register of another machine.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from appliance.boot.devices import CONFIG_VOLUME, volume_named
from appliance.boot.errors import GuestConfigError
from appliance.boot.stages import write_atomically
from appliance.boot.volume import GAS_KEY, MAX_KEY_BYTES, MAX_TEXT_BYTES, MAX_VOLUME_BYTES, TEXTS, parse
from appliance.config.guest import GuestConfig, GuestHost
from appliance.config.load import parse as parse_text
from appliance.config.models import MeasuredConfig, Model, OwnerConfig
from appliance.errors import ConfigError
from measurements.tpm import REFUSED_CONFIGURATION, configuration_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.boot.system import System

M = TypeVar("M", bound=Model)

log = structlog.get_logger(__name__)

FW_CFG: Final = "/sys/firmware/qemu_fw_cfg/by_name/opt/chrysalis"
CONFIGURATION_REGISTER: Final = 14
MACHINE_FILE: Final = "machine.json"
"""The worker's configuration as JSON, without a secret: what worker, engine and status port read."""
OWNER_PAGE_FILE: Final = "owner-page.sha256"
"""Digest of the key that opens the worker's page; empty where the owner set none."""
_FW_CFG_NAMES: Final[Mapping[str, str]] = {
    "measured.toml": "measured",
    "owner.toml": "owner",
    "host.toml": "host",
    GAS_KEY: GAS_KEY,
}


class Registers(Protocol):
    """What extends a platform configuration register."""

    async def extend(self, register: int, digest: bytes, text: str) -> None:
        """Extend the SHA-256 bank and write it down; raises a ``ChrysalisError``."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What the host handed over.

    Attributes:
        source: Where it was: ``volume`` or ``fw_cfg``.
        members: Contents by member name.
    """

    source: str
    members: Mapping[str, bytes]


def obtain(system: System) -> Handed:
    """Read what the host handed over.

    Raises:
        GuestConfigError: Nothing, both ways at once, or out of bounds.
    """
    disk = volume_named(system, CONFIG_VOLUME)
    named = system.path(FW_CFG)
    if disk is not None and named.is_dir():
        raise GuestConfigError(
            "configuration by volume and by fw_cfg at once, expected one of them", hint="launch with one of them"
        )
    if disk is not None:
        return Handed("volume", parse(_read(disk, MAX_VOLUME_BYTES, "the configuration volume")))
    if named.is_dir():
        return Handed("fw_cfg", _from_fw_cfg(named))
    raise GuestConfigError(
        f"no configuration: no disk with serial {CONFIG_VOLUME}, no partition of that label, no fw_cfg opt/chrysalis",
        hint="chrysalis vm launch attaches one, chrysalis image flash --config writes one",
    )


def check(handed: Handed) -> GuestConfig:
    """The configuration, each text by its model and then all together.

    Raises:
        ConfigError: A text is wrong; file, line and key are named.
    """
    measured = _text(handed, "measured.toml", MeasuredConfig)
    owner = _text(handed, "owner.toml", OwnerConfig)
    host = _text(handed, "host.toml", GuestHost)
    try:
        return GuestConfig(measured=measured, owner=owner, host=host)
    except ValueError as error:
        said = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())  # type: ignore[attr-defined]  # pydantic's ValidationError
        raise ConfigError(f"configuration: {said}") from None


def host_alone(handed: Handed) -> GuestHost | None:
    """The host's text where the others were refused: its addresses may still let the machine be attested."""
    try:
        return _text(handed, "host.toml", GuestHost)
    except ConfigError:
        return None


async def bind(registers: Registers, config: GuestConfig | None) -> None:
    """Extend register 14 with the measured configuration's digest, or with the value that says there is none."""
    log.info("configuration", state="refused" if config is None else config.measured.digest().hex())
    if config is None:
        await registers.extend(CONFIGURATION_REGISTER, REFUSED_CONFIGURATION, "configuration refused")
    else:
        digest = configuration_digest(config.measured.digest())
        await registers.extend(CONFIGURATION_REGISTER, digest, "measured configuration")


@dataclass(frozen=True, slots=True)
class Owners:
    """Numbers of the services' users: (user, group)."""

    worker: tuple[int, int]
    engine: tuple[int, int]
    status: tuple[int, int]


def hand_on(system: System, handed: Handed, owners: Owners) -> bool:
    """Put the secrets where their one reader finds them: the gas key (worker), the engine's key (worker and engine).

    Returns:
        Whether there is a gas key.
    """
    system.config.mkdir(mode=0o755, parents=True, exist_ok=True)
    gas_key = handed.members.get(GAS_KEY)
    if gas_key is not None:
        write_atomically(system.config / GAS_KEY, gas_key, 0o400, owner=owners.worker)
    engine_key = secrets.token_hex(32).encode()
    write_atomically(system.config / "engine.key", engine_key, 0o400, owner=owners.worker)
    write_atomically(system.path("/run/chrysalis/engine.key"), engine_key, 0o400, owner=owners.engine)
    return gas_key is not None


def publish(
    system: System, config: GuestConfig, *, gas_key: bool, platform: str | None, quote_source: str | None
) -> None:
    """Write what the services read, once the platform is known."""
    worker = config.worker(gas_key=gas_key, platform=platform, quote_source=quote_source)
    write_atomically(system.config / MACHINE_FILE, worker.model_dump_json().encode(), 0o444)
    write_atomically(system.config / OWNER_PAGE_FILE, (config.host.owner_page_sha256 or "").encode(), 0o444)


def _from_fw_cfg(directory: Path) -> dict[str, bytes]:
    found = {entry.name for entry in directory.iterdir()}
    unknown = found - set(_FW_CFG_NAMES.values())
    if unknown:
        raise GuestConfigError(
            f"fw_cfg opt/chrysalis holds {sorted(unknown)}, expected {sorted(_FW_CFG_NAMES.values())}"
        )
    members = {}
    for member, name in _FW_CFG_NAMES.items():
        if name in found:
            limit = MAX_KEY_BYTES if member == GAS_KEY else MAX_TEXT_BYTES
            members[member] = _read(directory / name / "raw", limit, f"fw_cfg opt/chrysalis/{name}")
        elif member in TEXTS:
            raise GuestConfigError(f"fw_cfg opt/chrysalis lacks {name}")
    return members


def _read(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise GuestConfigError(f"{what} cannot be read: {error.strerror}") from None
    if not 0 < len(data) <= limit:
        raise GuestConfigError(f"{what} has {'no' if not data else 'more than ' + str(limit)} bytes, at most {limit}")
    return data


def _text(handed: Handed, name: str, model: type[M]) -> M:
    try:
        text = handed.members[name].decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}") from None
    return parse_text(text, model, name)
