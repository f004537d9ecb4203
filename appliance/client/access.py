"""Who may use the local endpoint: a bearer key, and no foreign web page.

The endpoint spends the owner's stake. A browser on the same machine could be made to call it by any page, directly or
by pointing a host name at 127.0.0.1; so besides the key, the request's Origin and Host are checked.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.client.errors import HTTP_FORBIDDEN, HTTP_UNAUTHORIZED, AccessError

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_KEY_CHARACTERS = 16
_BEARER = "bearer "
_HEADER_LIST = re.compile(r"[A-Za-z0-9, -]{1,1024}", re.ASCII)
OWN_HEADERS = "x-chrysalis-cost-nanotons, x-chrysalis-tokens, x-should-retry, Retry-After"


@dataclass(frozen=True, slots=True)
class Access:
    """The rule.

    Args:
        key: The bearer key, at least 16 characters of visible ASCII.
        origins: Web origins (``https://host[:port]``) that may call; empty for none.
        hosts: Host names besides IP addresses and ``localhost`` under which the endpoint is reached.
    """

    key: str = field(repr=False)
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        visible = self.key.isascii() and self.key.isprintable() and " " not in self.key
        if len(self.key) < MIN_KEY_CHARACTERS or not visible:
            raise AccessError(
                f"the endpoint's key has {len(self.key)} characters, expected at least {MIN_KEY_CHARACTERS} of visible "
                "ASCII",
                status=HTTP_UNAUTHORIZED,
                hint="make one with: chrysalis client keygen --text",
            )

    def admit(self, headers: Mapping[str, str]) -> None:
        """Let the request pass.

        Args:
            headers: The request's headers, names compared without case.

        Raises:
            AccessError: 403 for a foreign origin or host name, 401 for a missing or wrong key.
        """
        self.admit_origin(headers)
        given = headers.get("Authorization", "")
        if given[: len(_BEARER)].lower() != _BEARER:
            raise AccessError(
                "no bearer key", status=HTTP_UNAUTHORIZED, hint="send the header 'Authorization: Bearer KEY'"
            )
        # Digests of equal length: the comparison tells nothing about the key's length either.
        theirs, ours = (_digest(text) for text in (given[len(_BEARER) :].strip(), self.key))
        if not hmac.compare_digest(theirs, ours):
            raise AccessError("wrong bearer key", status=HTTP_UNAUTHORIZED, hint="the key is in host.api_key_file")

    def admit_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse foreign web pages: an Origin that is not configured, or a Host that is not this machine.

        Raises:
            AccessError: 403.
        """
        origin = headers.get("Origin")
        if origin is not None and origin not in self.origins:
            raise AccessError(
                "this web origin may not use the endpoint", status=HTTP_FORBIDDEN, hint="see host.allowed_origins"
            )
        site = headers.get("Sec-Fetch-Site")
        if origin is None and site not in {None, "same-origin", "none"}:
            raise AccessError("a web page of another site may not use the endpoint", status=HTTP_FORBIDDEN)
        host = _host_name(headers.get("Host", ""))
        if not (host in self.hosts or host == "localhost" or _is_address(host)):
            raise AccessError(
                "unknown host name",
                status=HTTP_FORBIDDEN,
                hint="reach the endpoint by its address or as localhost",
            )

    def headers_for(self, origin: str | None) -> dict[str, str]:
        """What lets a configured web origin read an answer; nothing for anyone else."""
        if origin is None or origin not in self.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": OWN_HEADERS,
            "Vary": "Origin",
        }

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The answer's headers to a browser that asks before it calls.

        Raises:
            AccessError: 403.
        """
        self.admit_origin(headers)
        asked = headers.get("Access-Control-Request-Headers", "")
        allowed = asked if _HEADER_LIST.fullmatch(asked) else "Authorization, Content-Type"
        answer = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": allowed,
            "Access-Control-Max-Age": "600",
        }
        if headers.get("Access-Control-Request-Private-Network") == "true":
            answer["Access-Control-Allow-Private-Network"] = "true"
        return answer


def _digest(text: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    name = header.rpartition(":")[0] if header.count(":") == 1 else header
    return name.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
