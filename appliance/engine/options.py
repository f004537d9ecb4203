"""The keys a request body may have, each with its rule (protocol specification, section 3.2; section 8, item 6). Pure.

In: a key and its value. Out: nothing, or a refusal that names the key and the rule and never the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Check = Callable[[str, Any], None]

MAX_TOOLS = 128
MAX_SCHEMA_NODES = 4096
"""Objects, lists and leaves of one JSON schema: the grammar compiler's work is bounded by them."""
MAX_PATTERN_LENGTH = 1024
MAX_LOGIT_BIASES = 1024
MAX_INTEGER = 2**63
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_TOKEN_ID = re.compile(r"[0-9]{1,9}", re.ASCII)


def _refuse(message: str) -> RequestError:
    return RequestError(message, code=ErrorCode.PROTOCOL_VIOLATION)


def is_integer(value: object) -> bool:
    """True for a JSON integer of at most 64 bits (Python's bool is an int; JSON's is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_INTEGER


def count(value: object) -> int:
    """The value where it is an unsigned integer, else 0 (for bodies that were not checked)."""
    return value if isinstance(value, int) and is_integer(value) and value > 0 else 0


def _anything(_name: str, _value: object) -> None:
    """The model server judges this one."""


def _kind(kind: type | tuple[type, ...], words: str) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, kind):
            raise _refuse(f"{name} must be {words}")

    return check


_boolean = _kind(bool, "a boolean")
_string = _kind(str, "a string")
_array = _kind(list, "an array")
_object = _kind(dict, "an object")


def _number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refuse(f"{name} must be a number")


def _integer(name: str, value: object) -> None:
    if not is_integer(value):
        raise _refuse(f"{name} must be an integer")


def _unsigned(name: str, value: Any) -> None:
    if not is_integer(value) or value < 0:
        raise _refuse(f"{name} must be an unsigned integer")


def _positive(name: str, value: Any) -> None:
    _integer(name, value)
    if value < 1:
        raise _refuse(f"{name} must be positive")


def _between(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        _number(name, value)
        if not low <= value <= high:
            raise _refuse(f"{name} must be between {low} and {high}")

    return check


def _fields(name: str, value: Any, checks: Mapping[str, Check], required: frozenset[str] = frozenset()) -> None:
    """An object with known fields only."""
    _object(name, value)
    for missing in sorted(required - value.keys()):
        raise _refuse(f"missing required field '{name}.{missing}'")
    for key, inner in value.items():
        check = checks.get(key)
        if check is None:
            raise _refuse(f"unknown option '{name}.{key[:64] if key.isprintable() else ascii(key)[1:65]}' in request")
        check(f"{name}.{key}", inner)


def _only(checks: Mapping[str, Check], *required: str) -> Check:
    def check(name: str, value: object) -> None:
        _fields(name, value, checks, frozenset(required))

    return check


def _one_of(*values: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in values:
            raise _refuse(f"{name} must be one of {', '.join(values)}")

    return check


def _short(limit: int) -> Check:
    def check(name: str, value: Any) -> None:
        _string(name, value)
        if len(value) > limit:
            raise _refuse(f"{name} must have at most {limit} characters")

    return check


def _function_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not _FUNCTION_NAME.fullmatch(value):
        raise _refuse(f"{name} must be 1 to 64 letters, digits, '_', '-' or '.'")


def _schema(name: str, value: object) -> None:
    """A JSON schema: an object, bounded, that refers to nothing outside itself."""
    _object(name, value)
    pending: list[Any] = [value]
    nodes = 0
    while pending:
        node = pending.pop()
        nodes += 1
        if nodes > MAX_SCHEMA_NODES:
            raise _refuse(f"{name} must have at most {MAX_SCHEMA_NODES} nodes")
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise _refuse(f"{name} must not refer outside itself ($ref)")
            pattern = node.get("pattern")
            if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_LENGTH:
                raise _refuse(f"{name} must have patterns of at most {MAX_PATTERN_LENGTH} characters")
            pending.extend(node.values())


_FUNCTION: Mapping[str, Check] = {
    "name": _function_name,
    "description": _string,
    "parameters": _schema,
    "strict": _boolean,
}
_TOOL = _only({"type": _one_of("function"), "function": _only(_FUNCTION, "name")}, "type", "function")
_NAMED_TOOL = _only(
    {"type": _one_of("function"), "function": _only({"name": _function_name}, "name")}, "type", "function"
)
_JSON_SCHEMA = _only(
    {"name": _function_name, "description": _string, "schema": _schema, "strict": _boolean}, "name", "schema"
)


def _tools(name: str, value: Any) -> None:
    _array(name, value)
    if len(value) > MAX_TOOLS:
        raise _refuse(f"{name} must have at most {MAX_TOOLS} entries")
    for index, tool in enumerate(value):
        _TOOL(f"{name}[{index}]", tool)


def _tool_choice(name: str, value: object) -> None:
    if isinstance(value, str):
        _one_of("none", "auto", "required")(name, value)
    else:
        _NAMED_TOOL(name, value)


def _response_format(name: str, value: Any) -> None:
    _fields(
        name,
        value,
        {"type": _one_of("text", "json_object", "json_schema"), "json_schema": _JSON_SCHEMA},
        frozenset({"type"}),
    )
    if (value["type"] == "json_schema") != ("json_schema" in value):
        raise _refuse(f"{name}.json_schema belongs to type json_schema, and that type needs it")


def _logit_bias(name: str, value: Any) -> None:
    _object(name, value)
    if len(value) > MAX_LOGIT_BIASES:
        raise _refuse(f"{name} must have at most {MAX_LOGIT_BIASES} entries")
    for token, bias in value.items():
        if not _TOKEN_ID.fullmatch(token):
            raise _refuse(f"{name} must have token ids as its keys")
        _between(-100.0, 100.0)(f"{name} values", bias)


def _metadata(name: str, value: Any) -> None:
    _object(name, value)
    if len(value) > 16 or any(len(key) > 64 for key in value):
        raise _refuse(f"{name} must have at most 16 keys of at most 64 characters")
    for inner in value.values():
        _short(512)(f"{name} values", inner)


def _top_k(name: str, value: object) -> None:
    if value != -1:
        _positive(name, value)


def _messages(name: str, value: Any) -> None:
    """Contents are the model's business; but the model server must not be made to fetch anything."""
    _array(name, value)
    for message in value:
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else ():
            for key, inner in part.items() if isinstance(part, dict) else ():
                if key.endswith("_url"):
                    link = inner.get("url") if isinstance(inner, dict) else inner
                    if not isinstance(link, str) or not link.startswith("data:"):
                        raise _refuse(f"{name} must carry media as data: links; the model server fetches nothing")


def _prompt(name: str, value: object) -> None:
    if not isinstance(value, str | list):
        raise _refuse(f"{name} must be an array or a string")


_COMMON: Mapping[str, Check] = {
    "model": _string,
    "frequency_penalty": _between(-2.0, 2.0),
    "presence_penalty": _number,
    "temperature": _number,
    "top_p": _number,
    "max_tokens": _unsigned,
    "n": _positive,
    "stop": _anything,
    "stream": _boolean,
    "stream_options": _only({"include_usage": _boolean, "include_obfuscation": _boolean}),
    "seed": _integer,
    # Beyond the reference (section 8, item 6):
    "logit_bias": _logit_bias,
    "user": _short(512),
    "metadata": _metadata,
    "top_k": _top_k,
    "min_p": _between(0.0, 1.0),
    "repetition_penalty": _between(0.0, 2.0),
    "cache_salt": _short(512),
}
CHAT_OPTIONS: Mapping[str, Check] = {
    **_COMMON,
    "messages": _messages,
    "max_completion_tokens": _unsigned,
    "parallel_tool_calls": _boolean,
    "prediction": _number,
    "reasoning_effort": _string,
    "verbosity": _string,
    "response_format": _response_format,
    "top_logprobs": _unsigned,
    "chat_template_kwargs": _only({"enable_thinking": _boolean}),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "logprobs": _boolean,
}
COMPLETIONS_OPTIONS: Mapping[str, Check] = {
    **_COMMON,
    "prompt": _prompt,
    "best_of": _unsigned,
    "echo": _boolean,
    "suffix": _boolean,
    "skip_special_tokens": _boolean,
    "logprobs": _unsigned,
}
