"""What a request asks of the light engine, in the shape that the handlers of ``transformers serve`` take. Pure.

In: a parsed body that the worker's rules let through (:mod:`appliance.engine.rules`); it is checked again, since the
engine is a process of its own. Out: a :class:`Task`. What would change an answer's meaning and cannot be done is
refused by name; the server itself would ignore it. What only hints is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

MAX_STOPS: Final = 16
MAX_STOP_CHARACTERS: Final = 256
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})

_DROPPED: Final = frozenset({
    "cache_salt",  # no prefix is kept from one request to the next
    "metadata", "model", "parallel_tool_calls", "prediction", "reasoning_effort",
    "stream_options",  # a stream always ends with its usage
    "user", "verbosity",
})  # fmt: skip
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (None, 0, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False, 0),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "skip_special_tokens": (None, True),
    "suffix": (None, False),
    "tool_choice": (None, "auto", "none"),
    "top_logprobs": (None, 0),
}
"""Keys that this engine cannot honour, with the values that ask for nothing."""


class BadRequestError(ValueError):
    """The body cannot be answered; the message names the key and repeats nothing of its value."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None leaves a value to the model's own generation settings.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus.
        top_k: Most likely tokens that are considered; 0 considers all.
        min_p: Least likelihood of a token, as a share of the likeliest one's.
        repetition_penalty: 1 has no effect.
        seed: Of the random numbers, for this request alone.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One request.

    Attributes:
        body: What the handler reads: messages or prompt, tools, limits, stop texts, stream.
        max_tokens: Most tokens to generate; None for the rest of the context.
        sampling: How they are chosen.
        text_bytes: UTF-8 bytes of all texts, for a first bound before anything is tokenised.
    """

    body: dict[str, Any]
    max_tokens: int | None
    sampling: Sampling = field(default_factory=Sampling)
    text_bytes: int = 0


def read_chat(request: object) -> Task:
    """A chat completion.

    Raises:
        BadRequestError: Something in it cannot be done, or is not what it must be.
    """
    body = _checked(request)
    taken = _common(body)
    messages, size = _messages(body.pop("messages", None))
    taken["messages"] = messages
    tools = body.pop("tools", None)
    if tools is not None and body.get("tool_choice") != "none":
        taken["tools"], size = _tools(tools), size + _text_bytes(tools)
    template = body.pop("chat_template_kwargs", None)
    if template is not None:
        taken["chat_template_kwargs"] = _template(template)
    limits = [_limit(name, body.pop(name)) for name in ("max_tokens", "max_completion_tokens") if name in body]
    sampling = _sampling(body)
    _finish(body)
    return Task(taken, min((limit for limit in limits if limit is not None), default=None), sampling, size)


def read_completion(request: object) -> Task:
    """A text completion.

    Raises:
        BadRequestError: Something in it cannot be done, or is not what it must be.
    """
    body = _checked(request)
    taken = _common(body)
    prompt = body.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise BadRequestError("prompt must be one text")
    taken["prompt"] = prompt
    limit = _limit("max_tokens", body.pop("max_tokens", None))
    sampling = _sampling(body)
    _finish(body)
    return Task(taken, limit, sampling, _text_bytes(prompt))


def _checked(request: object) -> dict[str, Any]:
    if not isinstance(request, dict):
        raise BadRequestError("the body must be an object")
    return dict(request)


def _common(body: dict[str, Any]) -> dict[str, Any]:
    stream = body.pop("stream", None)
    if stream is not None and not isinstance(stream, bool):
        raise BadRequestError("stream must be a boolean")
    taken: dict[str, Any] = {"stream": bool(stream)}
    stop = body.pop("stop", None)
    if stop is not None:
        taken["stop"] = _stops(stop)
    return taken


def _finish(body: dict[str, Any]) -> None:
    """Whatever is left must ask for nothing that cannot be done."""
    for name, value in body.items():
        if name in _DROPPED:
            continue
        if name not in _NEUTRAL:
            raise BadRequestError(f"{_shown(name)} is not known")
        if not any(_same(value, neutral) for neutral in _NEUTRAL[name]):
            raise BadRequestError(f"{name} cannot be honoured by this engine")


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _shown(name: object) -> str:
    return ascii(name)[1:-1][:64] if isinstance(name, str) else "a key"


def _stops(stop: object) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_STOPS:
        raise BadRequestError(f"stop must be a text or 1 to {MAX_STOPS} texts")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARACTERS:
            raise BadRequestError(f"stop must have texts of 1 to {MAX_STOP_CHARACTERS} characters")
    return texts


def _messages(messages: object) -> tuple[list[dict[str, Any]], int]:
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a list with at least one message")
    return [_message(message) for message in messages], _text_bytes(messages)


def _message(message: object) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise BadRequestError(f"messages must have a role of {', '.join(sorted(_ROLES))}")
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequestError("messages must have texts as their content; this engine reads nothing else")
    if not isinstance(content, str | list | None):
        raise BadRequestError("messages must have a text or a list of texts as their content")
    taken = {"role": message["role"], "content": content}
    if message.get("tool_calls") is not None:
        taken["tool_calls"] = _tool_calls(message["tool_calls"])
    if message.get("tool_call_id") is not None:
        taken["tool_call_id"] = message["tool_call_id"]
    return taken


def _tool_calls(calls: object) -> list[Any]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRequestError("messages must have a list of objects as tool_calls")
    for call in calls:
        function = call.get("function")
        if not isinstance(function, dict) or not {"name", "arguments"} <= function.keys():
            raise BadRequestError("messages must have tool_calls of a function with name and arguments")
    return calls


def _tools(tools: object) -> list[Any]:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRequestError("tools must be a list of objects")
    return tools


def _template(template: object) -> dict[str, bool]:
    if not isinstance(template, dict) or template.keys() - {"enable_thinking"}:
        raise BadRequestError("chat_template_kwargs must hold nothing but enable_thinking")
    if not all(isinstance(value, bool) for value in template.values()):
        raise BadRequestError("chat_template_kwargs.enable_thinking must be a boolean")
    return template


def _limit(name: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadRequestError(f"{name} must be an integer of at least 1")
    return value


def _sampling(body: dict[str, Any]) -> Sampling:
    top_k = _number(body, "top_k", -1, 2**31, whole=True)
    seed = _number(body, "seed", -(2**63), 2**63 - 1, whole=True)
    return Sampling(
        temperature=_number(body, "temperature", 0, 100),
        top_p=_number(body, "top_p", 0, 1),
        top_k=None if top_k is None else max(0, int(top_k)),
        min_p=_number(body, "min_p", 0, 1),
        repetition_penalty=_number(body, "repetition_penalty", 0.01, 2),
        seed=None if seed is None else int(seed) % 2**63,
    )


def _number(body: dict[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> Any:
    value = body.pop(name, None)
    if value is None:
        return None
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # not a number is not between
        raise BadRequestError(f"{name} must be {'an integer' if whole else 'a number'} between {low:g} and {high:g}")
    return value


def _text_bytes(value: object) -> int:
    """UTF-8 bytes of all texts in a JSON value, keys left out."""
    pending, total = [value], 0
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            total += len(inner.encode("utf-8", "surrogatepass"))
        elif isinstance(inner, list):
            pending.extend(inner)
        elif isinstance(inner, dict):
            pending.extend(inner.values())
    return total
