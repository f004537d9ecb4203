"""What we ask an engine about itself: alive, able to generate, sane, its counters.

Only these use routes beyond the proxy's allow-list, and none of them carries anything of a user.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from appliance.engine.counters import MAX_METRICS_BYTES, EngineCounters, parse_counters
from appliance.engine.errors import EngineTimeoutError, EngineUnavailableError, SelfCheckError

if TYPE_CHECKING:
    from appliance.engine.endpoint import Endpoint

HEAD_S: Final = 10.0  # protocol specification, section 3.7
BODY_S: Final = 30.0
_GENERATE_S: Final = 60.0  # SGLang itself gives up after 20 s
_SELF_CHECK_S: Final = 120.0
_SELF_CHECK_TOKENS: Final = 32
_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """A known prompt and what its answer must match (anywhere; ``.`` also matches a line's end)."""

    model_name: str
    prompt: str
    pattern: str

    def judge(self, answer: str) -> None:
        """Accept or refuse an answer. It is to our own prompt, so an excerpt may stand in the error.

        Raises:
            SelfCheckError: The pattern is not found.
        """
        if not re.search(self.pattern, answer, re.DOTALL):
            raise SelfCheckError(
                f"the engine answered {answer[:80]!r} to the self-check, expected a match of {self.pattern!r}",
                hint="wrong or damaged weights, or a pattern that does not fit the model",
            )


class EngineProbe:
    """Asks one endpoint; each question over a fresh connection, so that a stale pool hides nothing."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def alive(self) -> None:
        """The check of section 3.7: ``GET /v1/models`` answers 200 with a complete body.

        Raises:
            EngineUnavailableError: It does not.
            EngineTimeoutError: Not in time (10 s for the head, 30 s for the body).
        """
        await self._get("/v1/models", head=HEAD_S, total=HEAD_S + BODY_S)

    async def generates(self) -> None:
        """SGLang's ``/health``, which makes one token: 200 means that scheduler and model work.

        Raises:
            EngineUnavailableError: It answered otherwise (503 while it starts), or cannot be reached.
            EngineTimeoutError: No answer within 60 s.
        """
        await self._get("/health", head=_GENERATE_S, total=_GENERATE_S)

    async def counters(self) -> EngineCounters:
        """The token counters.

        Raises:
            EngineUnavailableError: There are none, or they cannot be read.
            EngineTimeoutError: No answer in time.
        """
        return parse_counters(
            (await self._get("/metrics", head=HEAD_S, total=HEAD_S + BODY_S)).decode(errors="replace")
        )

    async def self_check(self, check: SelfCheck) -> None:
        """Ask the known prompt, greedily.

        Raises:
            SelfCheckError: The answer is not what it must be.
            EngineUnavailableError: There was no answer to judge.
            EngineTimeoutError: None within two minutes.
        """
        message = {"role": "user", "content": check.prompt}
        request = {"model": check.model_name, "messages": [message], "max_tokens": _SELF_CHECK_TOKENS, "temperature": 0}
        body = await self._ask("POST", "/v1/chat/completions", _SELF_CHECK_S, _SELF_CHECK_S, request)
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise SelfCheckError("the answer to the self-check is not a chat completion") from error
        check.judge(content if isinstance(content, str) else "")

    async def _get(self, path: str, *, head: float, total: float) -> bytes:
        return await self._ask("GET", path, head, total, None)

    async def _ask(self, method: str, path: str, head: float, total: float, body: dict[str, Any] | None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=total, sock_read=head)
        url = self._endpoint.base_url + path
        headers = {**self._endpoint.headers, "Connection": "close"}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.request(method, url, json=body, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise EngineUnavailableError(f"{method} {path} answered {response.status}, expected 200")
                content = await response.content.read(MAX_METRICS_BYTES + 1)
                while not response.content.at_eof() and len(content) <= MAX_METRICS_BYTES:
                    content += await response.content.read(_LIMIT)
        except TimeoutError as error:
            raise EngineTimeoutError(f"{method} {path} had no answer within {total:g} s") from error
        except (aiohttp.ClientError, ConnectionError, OSError) as error:
            raise EngineUnavailableError(f"{method} {path} failed: {type(error).__name__}") from error
        if len(content) > MAX_METRICS_BYTES:
            raise EngineUnavailableError(f"{method} {path} answered more than {MAX_METRICS_BYTES} bytes")
        return content
