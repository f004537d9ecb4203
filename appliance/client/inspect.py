"""Asking a running client's endpoint about itself.

In: the client's own host configuration. Out: what one of its pages says, or an error that says why it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from appliance.client.errors import ClientError
from appliance.config.ports import host_port
from appliance.keys import read_secret

if TYPE_CHECKING:
    from appliance.config.models import ClientHost

TIMEOUT_S = 10.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens everywhere is asked on this machine


async def ask(host: ClientHost, path: str) -> dict[str, Any]:
    """Get a JSON page of the endpoint.

    Args:
        host: The configuration that the endpoint was started with.
        path: For one, ``/status``.

    Raises:
        ClientError: Nothing answers there, or what answers is not this client's endpoint.
        ConfigError: The key file cannot be read.
    """
    key = read_secret(host.api_key_file, "the endpoint's key file").decode("latin-1")
    address, port = host_port(host.listen)
    address = _ANY.get(address, address)
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}{path}"
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, headers=headers) as answer:
            found = await answer.json()
            if answer.status != 200 or not isinstance(found, dict):
                raise ClientError(
                    f"{url} answered with status {answer.status}",
                    hint="another program listens there, or the key file was changed after the client started",
                )
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ClientError(
            f"no client answers at {url} ({type(error).__name__})", hint="start it with: chrysalis client run"
        ) from None
    return found
