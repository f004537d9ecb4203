"""Where an engine answers, and with which keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST: Final = "127.0.0.1"
"""Where every engine of ours listens (protocol specification, section 8, item 16)."""


@dataclass(frozen=True, slots=True)
class Door:
    """A port and a key that stay the same over restarts, for an engine that another process reaches.

    Attributes:
        port: On loopback.
        key: The bearer key of its requests.
    """

    port: int
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server. The key never shows in a representation.

    Attributes:
        base_url: Scheme, host, port and perhaps a path, without ``/`` at its end; ``/v1/…`` follows.
        api_key: Its bearer key, or None where it wants none.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that authenticate us."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


class EndpointSource(Protocol):
    """Whoever knows where requests may be sent at this moment."""

    def endpoint(self) -> Endpoint:
        """The endpoint that takes requests now.

        Raises:
            EngineUnavailableError: None does; the message says in which state the engine is.
        """
