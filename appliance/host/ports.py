"""Free loopback ports for the forwards that name none."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.host.machine import Machine


def with_ports(machine: Machine) -> Machine:
    """The machine with a free loopback port for each forward that names none; all are held while they are chosen."""
    held_open: list[socket.socket] = []
    forwards = []
    try:
        for item in machine.forwards:
            port = item.host_port
            if not port:
                chosen = socket.socket()
                held_open.append(chosen)
                chosen.bind(("127.0.0.1", 0))
                port = chosen.getsockname()[1]
            forwards.append(replace(item, host_port=port))
    finally:
        for chosen in held_open:
            chosen.close()
    return replace(machine, forwards=tuple(forwards))
