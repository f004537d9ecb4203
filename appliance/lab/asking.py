"""Asking the local endpoint as its users do: over plain HTTP, and with the official ``openai`` package unchanged."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_ANSWER_S = 600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt and what came of it. ``tokens`` is the engine's usage as the stream's last chunk tells it."""

    text: str
    answer: str
    via: str
    tokens: dict[str, int]
    first_token_s: float
    seconds: float
    finish_reason: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Caller:
    """Where to ask and with what.

    Attributes:
        url: The endpoint, without ``/v1``.
        key: Its bearer key.
        model: Base name.
        max_tokens: Of each answer.
    """

    url: str
    key: str
    model: str
    max_tokens: int

    def _body(self, prompt: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages(prompt),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def over_http(self, prompt: str, show: Callable[[str], None]) -> Asked:
        """Ask over plain HTTP.

        Raises:
            LabError: The endpoint answered with an error; its own words are told.
        """
        gathered = _Gathered(show)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LONGEST_ANSWER_S)) as http,
            http.post(self.url + "/v1/chat/completions", json=self._body(prompt), headers=headers) as response,
        ):
            if response.status != 200:
                raise LabError(f"the endpoint answered {response.status}: {await _reason(response)}")
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    gathered.take(json.loads(line[6:]))
        return gathered.asked(prompt, "http")

    async def over_openai(self, prompt: str, show: Callable[[str], None]) -> Asked:
        """Ask with the official package.

        Raises:
            LabError: The package reports an error.
        """
        import openai  # noqa: PLC0415 - large; only the demonstration pays for it

        gathered = _Gathered(show)
        async with openai.AsyncOpenAI(base_url=self.url + "/v1", api_key=self.key, max_retries=0) as client:
            try:
                async for chunk in await client.chat.completions.create(**self._body(prompt)):
                    gathered.take(chunk.model_dump())
            except openai.OpenAIError as error:
                raise LabError(f"the openai package reports: {error}") from None
        return gathered.asked(prompt, f"openai {openai.__version__}")


def messages(prompt: str) -> list[dict[str, str]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": prompt}]


async def _reason(response: aiohttp.ClientResponse) -> str:
    try:
        return str((await response.json())["error"]["message"])
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        return response.reason or "no reason"


class _Gathered:
    """A streamed answer put together."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._begun = time.monotonic()
        self._first: float | None = None
        self._text: list[str] = []
        self._usage: dict[str, Any] = {}
        self._finish = ""

    def take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise LabError(f"the stream ended with an error: {chunk['error'].get('message')}")
        for choice in chunk.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            text = (choice.get("delta") or {}).get("content")
            if text:
                if self._first is None:
                    self._first = time.monotonic() - self._begun
                self._text.append(text)
                self._show(text)
        self._usage = chunk.get("usage") or self._usage

    def asked(self, prompt: str, via: str) -> Asked:
        details = self._usage.get("prompt_tokens_details") or {}
        reasoning = (self._usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        tokens = {
            "prompt": int(self._usage.get("prompt_tokens", 0)),
            "cached": int(details.get("cached_tokens") or 0),
            "completion": int(self._usage.get("completion_tokens", 0)),
            "reasoning": int(reasoning or self._usage.get("reasoning_tokens") or 0),
        }
        taken = time.monotonic() - self._begun
        first = self._first if self._first is not None else taken
        return Asked(prompt, "".join(self._text), via, tokens, first, taken, self._finish)
