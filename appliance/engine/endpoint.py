"""Where an engine answers, and with which keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


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
