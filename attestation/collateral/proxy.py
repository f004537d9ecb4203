"""Which proxy leads to a service: from the environment, from a configuration, or none.

In: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (either case), or one address. Out: host, port and
credentials. A loopback address is always asked directly: a proxy elsewhere could only reach its own.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECT = "off"
ENVIRONMENT = "environment"
_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        credentials: Value of ``Proxy-Authorization``; empty without any. Never shown.
    """

    host: str
    port: int
    credentials: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read ``http://[user:password@]host[:port]``; a bare ``host:port`` is taken as that too.

        Raises:
            CollateralError: Another form or scheme; the text is not repeated, since it may hold a password.
        """
        try:
            parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port or _PORT
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), _PORT
        if parts.scheme != "http" or not parts.hostname:
            raise CollateralError(
                f"a proxy of scheme {parts.scheme or 'none'!r}, expected http://host:port",
                hint="services are asked through an HTTP proxy (CONNECT for https); SOCKS and TLS to a proxy are not",
            )
        credentials = ""
        if parts.username is not None:
            user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
            credentials = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        return cls(parts.hostname, port, credentials)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The choice of a proxy for an address.

    Attributes:
        choice: ``environment``, ``off``, or the address of the one proxy for everything that is not loopback.
        environment: Variables to read instead of the process's own.
    """

    choice: str = ENVIRONMENT
    environment: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse an address that is none when it is configured, not when it is first needed."""
        if self.choice not in {DIRECT, ENVIRONMENT}:
            Proxy.parse(self.choice)

    def route(self, scheme: Literal["http", "https"], host: str, port: int) -> Proxy | None:
        """The proxy that leads to ``host``; None goes there directly.

        Raises:
            CollateralError: The environment names a proxy of a form that cannot be used.
        """
        if self.choice == DIRECT or _is_loopback(host):
            return None
        if self.choice != ENVIRONMENT:
            return Proxy.parse(self.choice)
        named = _named(os.environ if self.environment is None else self.environment)
        chosen = named.get(scheme) or named.get("all")
        if not chosen or any(_matches(rule, host, port) for rule in named.get("no", "").split(",")):
            return None
        return Proxy.parse(chosen)


def _named(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by what is before ``_proxy``; the lower-case ones win, as everywhere."""
    found: dict[str, str] = {}
    for name, value in sorted(environment.items()):  # upper case sorts before lower case
        if name.lower().endswith("_proxy"):
            found[name.lower().removesuffix("_proxy")] = value.strip()
    return found


def _matches(rule: str, host: str, port: int) -> bool:
    """Whether a part of ``NO_PROXY`` means this host: ``*``, a name and all under it, an address or a network."""
    rule, host = rule.strip().lower(), host.lower()
    if rule in {"", "*"}:
        return rule == "*"
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule.strip("[]"), strict=False)
    except ValueError:
        pass
    name, _, only = rule.rpartition(":") if rule.count(":") == 1 else (rule, "", "")
    if only and only != str(port):
        return False
    name = name.removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
