"""``host:port`` as a pair, for every setting and argument that names one."""

from __future__ import annotations

import ipaddress

from appliance.errors import ConfigError

MAX_PORT = 65535


def host_port(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``; raises ``ConfigError`` for an impossible port."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > MAX_PORT:
        raise ConfigError(f"{text!r} is not host:port", hint=f"ports go from 0 to {MAX_PORT}")
    return host.strip("[]"), int(port)


def loopback_port(text: str, setting: str) -> tuple[str, int]:
    """As :func:`host_port`; raises ``ConfigError`` unless the host is this machine itself."""
    host, port = host_port(text)
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(
            f"{setting} is {text}, expected a loopback address",
            hint="the page names accounts and states: let a proxy of your own publish what should be seen",
        )
    return host, port
