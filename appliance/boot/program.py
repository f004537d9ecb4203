"""The boot of a guest as a program: the stages up to the model, one after the other, each with its reason.

Runs as root in ``chrysalis-boot.service`` and ends. Its exit status decides whether the model server and the worker are
started: a machine with a failed stage stays up, shows why, can be attested, and serves nothing. Stages that make the
machine attestable and lock it run all the same.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from typing import TYPE_CHECKING, Final

import structlog

from appliance import logs
from appliance.boot import clock, configuration, keys, model, network, platform, posture, state, timestamp
from appliance.boot.configuration import Owners
from appliance.boot.errors import ClockError
from appliance.boot.image import read_image
from appliance.boot.stages import BOOT_STAGES, STAGES, WORKER_STAGES, StageTable
from appliance.boot.system import System
from attestation.platforms.tpm import Tpm
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.boot.configuration import Registers
    from appliance.boot.image import ImageInfo
    from appliance.boot.platform import Found
    from appliance.boot.stages import StageRecord
    from appliance.config.guest import GuestConfig, GuestHost

log = structlog.get_logger(__name__)

ALWAYS: Final = frozenset({"clock", "platform", "posture", "keys"})
"""Run also after a failed stage: they lock the machine and make it attestable."""


class Boot:
    """One start of a guest.

    Args:
        system: The machine.
        table: Where stages are told.
        owners: Of the secrets; None leaves files to this process's user (tests).
        registers: Extends register 14; None on a machine without a TPM.
    """

    def __init__(self, system: System, table: StageTable, owners: Owners, registers: Registers | None) -> None:
        self._system = system
        self._table = table
        self._owners = owners
        self._registers = registers
        self._image: ImageInfo | None = None
        self._config: GuestConfig | None = None
        self._host: GuestHost | None = None
        self._found: Found | None = None
        self._gas_key = False

    async def run(self) -> bool:
        """Go through the stages; whether all of them ended well."""
        failed: str | None = None
        work: dict[str, Callable[[], Awaitable[str | None]]] = {
            "configuration": self._configure,
            "clock": self._set_clock,
            "platform": self._find_platform,
            "posture": self._take_posture,
            "keys": self._make_keys,
            "collateral": self._get_collateral,
            "gpu": self._bring_up_gpu,
            "model": self._mount_model,
        }
        for name in BOOT_STAGES:
            if failed is not None and name not in ALWAYS:
                self._table.skip(name, f"stage {failed} failed")
                continue
            try:
                with self._table.stage(name):
                    skipped = await work[name]()
                    if skipped is not None:
                        self._table.skip(name, skipped)
            except ChrysalisError:
                failed = failed or name
            except Exception as error:  # noqa: BLE001 - an unforeseen error must leave the machine up, explaining itself
                log.error("stage ended in a fault", stage=name, error=type(error).__name__)
                failed = failed or name
        if failed is not None:
            for name in WORKER_STAGES:
                self._table.skip(name, f"stage {failed} failed")
        return failed is None

    async def _configure(self) -> None:
        handed = None
        try:
            self._image = read_image(self._system)
            handed = configuration.obtain(self._system)
            config = configuration.check(handed)
        except ChrysalisError:
            await self._bind(None)
            self._host = configuration.host_alone(handed) if handed is not None else None
            raise
        await self._bind(config)
        self._gas_key = configuration.hand_on(self._system, handed, self._owners)
        self._config, self._host = config, config.host

    async def _bind(self, config: GuestConfig | None) -> None:
        if self._registers is not None:
            await configuration.bind(self._registers, config)

    async def _set_clock(self) -> None:
        clock.check_range(time.time(), self._image or read_image(self._system))
        wanted = self._config.measured.time if self._config is not None else None
        if self._config is None or wanted is None:
            return
        authority = self._config.host.time_authority
        if authority is None:
            raise ClockError("measured.toml wants signed time and host.toml names no time_authority")
        await network.connect(self._system)
        signed = await timestamp.signed_time(authority, wanted.roots, directory=self._system.config)
        clock.correct(signed, wanted.max_offset_s)

    async def _find_platform(self) -> None:
        self._found = platform.find(self._system)
        if self._config is not None:
            platform.judge(self._found, self._config.measured.trust)
            await platform.launched_for(self._found, self._config.measured.digest())

    async def _take_posture(self) -> None:
        await posture.take(self._system, self._image or read_image(self._system))

    async def _make_keys(self) -> None:
        found = self._found or platform.find(self._system)
        authority = self._host.attestation_ca if self._host is not None else None
        if authority is not None:
            await network.connect(self._system)
        users = {"worker": self._owners.worker, "status": self._owners.status}
        await keys.make(self._system, found, authority=authority, users=users)
        if self._config is not None:
            configuration.publish(
                self._system,
                self._config,
                gas_key=self._gas_key,
                platform=found.name,
                quote_source=found.source("worker"),
            )

    async def _get_collateral(self) -> None:
        await network.connect(self._system)

    async def _bring_up_gpu(self) -> str | None:
        if self._image is not None and self._image.profile == "engine-gpu":
            from appliance.boot import gpu  # noqa: PLC0415 - a machine without one need not load it

            await gpu.bring_up(self._system, self._config)
            return None
        return "this image is for machines without a GPU"

    async def _mount_model(self) -> None:
        if self._config is not None:
            await state.mount(self._system, self._owners.worker)
            await model.mount(self._system, self._config.measured)


def say(record: StageRecord) -> None:
    """Write a change of a stage to standard output, which is the console; the status port shows the worker's."""
    if record.name in BOOT_STAGES:
        print(record.console_line(), flush=True)  # noqa: T201 - the one thing that goes to the console


def number_of(user: str) -> tuple[int, int]:
    """User and group number."""
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def main() -> int:
    """Boot this machine: the exit status says whether its services may start."""
    logs.configure("info", as_json=True)
    system = System()
    system.stages.mkdir(mode=0o755, parents=True, exist_ok=True)
    owners = Owners(*(number_of(f"chrysalis-{name}") for name in ("worker", "engine", "status")))
    table = StageTable(system.stages, STAGES, announce=say)
    for name in WORKER_STAGES:
        os.chown(system.stages / f"{name}.json", *owners.worker)
    registers = Tpm(None, system.path(f"{platform.DIRECTORY}/boot")) if system.path(platform.TPM).exists() else None
    return 0 if asyncio.run(Boot(system, table, owners, registers).run()) else 1
