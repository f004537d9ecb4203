"""Who listens: read from ``/proc/net`` (Linux ``Documentation/networking/proc_net_tcp.rst``)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from appliance.boot.posture.checks import PostureCheck, within
from appliance.config.guest import ATTESTED_PORT, ENGINE_PORT, STATUS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.boot.system import System

STATED: Final = frozenset({f"tcp any:{ATTESTED_PORT}", "udp dhcp:68"})
"""What may listen before the engine and the worker run. The DHCP client's port answers its own server only."""
LATER: Final = frozenset({f"tcp loopback:{ENGINE_PORT}", f"tcp loopback:{STATUS_PORT}"})
_LISTEN: Final = "0A"
_UNCONNECTED: Final = "07"
_DHCP_PORT: Final = 68


def listening(system: System) -> Iterator[str]:
    """Every socket that takes what others begin, as ``protocol place:port``; place is any, loopback or an address."""
    for protocol, wanted in (("tcp", _LISTEN), ("udp", _UNCONNECTED), ("udplite", _UNCONNECTED), ("raw", _UNCONNECTED)):
        for suffix in ("", "6"):
            for line in (system.text(f"/proc/net/{protocol}{suffix}") or "").splitlines()[1:]:
                words = line.split()
                if len(words) > 3 and words[3] == wanted:
                    yield f"{protocol} {_place(protocol, words[1])}"


def socket_check(system: System, *, serving: bool) -> PostureCheck:
    """Nothing listens but what is stated.

    Args:
        system: The machine.
        serving: Engine and worker may run: their loopback ports count as stated.
    """
    seen = list(listening(system))
    stated = STATED | LATER if serving else STATED
    if serving:
        # The model server's own processes talk over loopback ports of their choice; nobody else reaches them.
        seen = [entry for entry in seen if not entry.startswith("tcp loopback:") or entry in stated]
    return within("listening sockets", seen, stated, "something in the image listens that is not stated")


def _place(protocol: str, word: str) -> str:
    raw, _, port = word.partition(":")
    groups = [bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8)]
    address = ipaddress.ip_address(b"".join(groups))
    number = int(port, 16)
    if protocol == "udp" and number == _DHCP_PORT:
        return f"dhcp:{number}"
    if address.is_unspecified:
        return f"any:{number}"
    return f"loopback:{number}" if address.is_loopback else f"{address}:{number}"
