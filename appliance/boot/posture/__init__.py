"""The machine's posture: what its image makes it, checked on the machine itself, each thing by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from appliance.boot.errors import PostureError
from appliance.boot.posture.checks import PostureCheck
from appliance.boot.posture.kernel import kernel_checks, lock
from appliance.boot.posture.sockets import socket_check
from appliance.boot.posture.userland import userland_checks
from appliance.boot.stages import write_atomically
from appliance.boot.system import run_tool

if TYPE_CHECKING:
    from appliance.boot.image import ImageInfo
    from appliance.boot.system import System

__all__ = ["FILE", "PostureCheck", "lock", "look", "socket_check", "take"]

FILE = "/run/chrysalis/posture.json"


async def take(system: System, image: ImageInfo) -> tuple[PostureCheck, ...]:
    """Lock the kernel, look at everything, write it down.

    Returns:
        All checks. A debug image goes on where some fail: its own registers say what it is.

    Raises:
        PostureError: A check failed on a release image.
        StageError: The kernel could not be locked, or the firewall not asked.
    """
    lock(system)
    checks = await look(system, image)
    text = json.dumps([check.to_dict() for check in checks], ensure_ascii=False)
    write_atomically(system.path(FILE), text.encode(), 0o444)
    failed = tuple(check for check in checks if not check.passed)
    if failed and not image.debug:
        raise PostureError(failed)
    return checks


async def look(system: System, image: ImageInfo) -> tuple[PostureCheck, ...]:
    """All checks, without changing anything; raises ``ToolError``."""
    table = (await run_tool("dmsetup", "table", "root")).decode("utf-8", "replace")
    return (
        *kernel_checks(system, image, table),
        socket_check(system, serving=False),
        *await userland_checks(system),
    )
