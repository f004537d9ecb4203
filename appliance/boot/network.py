"""The guest's network as its client left it: whether it is up, and the name servers of the lease.

In: ``/run/systemd/netif/state`` (systemd-networkd, private format: ``KEY=value`` lines). Out: ``resolv.conf`` for the
C library. No resolver of our own runs; names can cost availability only, because no answer is trusted.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Final

from appliance.boot.stages import write_atomically
from appliance.errors import StageError

if TYPE_CHECKING:
    from appliance.boot.system import System

NETIF: Final = "/run/systemd/netif/state"
RESOLV: Final = "/run/chrysalis/resolv.conf"
UP: Final = frozenset({"routable", "degraded"})
MAX_SERVERS: Final = 3
LIMIT_S: Final = 60.0
_POLL_S: Final = 0.2


def netif_state(text: str) -> tuple[str, tuple[str, ...]]:
    """The operational state and the name servers in networkd's state file."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    servers = []
    for word in values.get("DNS", "").split():
        try:
            servers.append(str(ipaddress.ip_address(word)))
        except ValueError:
            continue
    return values.get("OPER_STATE", "missing"), tuple(servers[:MAX_SERVERS])


async def connect(system: System, *, limit_s: float = LIMIT_S) -> None:
    """Wait until there is a network, and tell the C library its name servers.

    Raises:
        StageError: There is none within the limit.
    """
    ends = asyncio.get_running_loop().time() + limit_s
    while True:
        state, servers = netif_state(system.text(NETIF) or "")
        if state in UP:
            break
        if asyncio.get_running_loop().time() >= ends:
            raise StageError(
                f"no network within {limit_s:g} s: it is {state}, expected routable",
                hint="is a network device attached, and does a DHCP server answer?",
            )
        await asyncio.sleep(_POLL_S)
    text = "".join(f"nameserver {server}\n" for server in servers) + "options timeout:3 attempts:2 edns0\n"
    write_atomically(system.path(RESOLV), text.encode(), 0o444)
