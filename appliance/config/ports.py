"""``host:port`` as a pair, for every setting and argument that names one."""

from __future__ import annotations

from appliance.errors import ConfigError

MAX_PORT = 65535


def host_port(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``; raises ``ConfigError`` for an impossible port."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > MAX_PORT:
        raise ConfigError(f"{text!r} is not host:port", hint=f"ports go from 0 to {MAX_PORT}")
    return host.strip("[]"), int(port)
