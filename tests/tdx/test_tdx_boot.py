"""What a boot leaves on a TDX machine for services without privileges."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tdx_support import table

from appliance.boot import keys
from appliance.boot.platform import TSM, Found
from appliance.boot.system import System
from attestation.tdx_log import TdxLog
from attestation.tdx_log_files import AREA, FIRMWARE_COPY, TABLE

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.lab.tee import SyntheticTdx


async def test_services_may_ask_for_quotes_and_read_firmwares_log(tmp_path: Path, machine: SyntheticTdx) -> None:
    system = System(tmp_path)
    system.path(TSM).mkdir(parents=True)
    system.path(str(AREA.parent)).mkdir(parents=True)
    system.path(str(TABLE)).write_bytes(table())
    system.path(str(AREA)).write_bytes(machine.log.firmware.ljust(0x10000, b"\xff"))
    mask = os.umask(0o077)
    try:
        await keys.make(system, Found("tdx"), authority=None, users={})
    finally:
        os.umask(mask)
    copy = system.path(str(FIRMWARE_COPY))
    assert TdxLog(copy.read_bytes()).registers[:3] == machine.log.registers[:3]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o444
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(system.path(TSM).stat().st_mode) == 0o1777
    system.path(str(TABLE)).unlink()
    copy.unlink()
    await keys.make(system, Found("tdx"), authority=None, users={})
    assert not copy.exists()
