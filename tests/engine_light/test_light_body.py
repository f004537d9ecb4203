"""What the light engine makes of a request's body: pure, so without any engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.light.body import BadRequestError, Sampling, read_chat, read_completion
from appliance.engine.rules import CHAT, COMPLETIONS, Rules

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def test_what_the_workers_rules_send_is_understood() -> None:
    payload = json.dumps({**ASKED, "stream": True, "temperature": 0, "user": "u", "metadata": {"a": "b"}}).encode()
    task = read_chat(json.loads(Rules("m", 100).rewrite("POST", CHAT, payload, cache_salt="salt").body))
    assert task.body == {"stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    assert task.max_tokens == 100  # arrives as max_completion_tokens, which the server itself would ignore
    assert task.sampling == Sampling(temperature=0)
    assert task.text_bytes == len("user") + len("Hello")


def test_a_completion_of_the_workers_rules_is_understood() -> None:
    payload = json.dumps({"model": "m", "prompt": ["Once"], "max_tokens": 7, "seed": 3, "stop": "."}).encode()
    task = read_completion(json.loads(Rules("m", 100).rewrite("POST", COMPLETIONS, payload).body))
    assert task.body == {"stream": False, "prompt": "Once", "stop": ["."]}
    assert task.max_tokens == 7
    assert task.sampling.seed == 3


def test_the_smaller_of_two_limits_counts() -> None:
    assert read_chat({**ASKED, "max_tokens": 9, "max_completion_tokens": 5}).max_tokens == 5
    assert read_chat({**ASKED, "max_tokens": 4, "max_completion_tokens": 5}).max_tokens == 4
    assert read_chat(ASKED).max_tokens is None


@pytest.mark.parametrize(
    ("name", "neutral", "value"),
    [
        ("n", 1, 2),
        ("n", 1, True),
        ("logprobs", False, True),
        ("top_logprobs", 0, 3),
        ("response_format", {"type": "text"}, {"type": "json_object"}),
        ("presence_penalty", 0.0, 0.5),
        ("frequency_penalty", 0, -1.0),
        ("logit_bias", {}, {"5": 1.0}),
        ("tool_choice", "auto", "required"),
    ],
)
def test_what_would_change_the_answer_is_refused_and_what_asks_for_nothing_is_not(
    name: str, neutral: object, value: object
) -> None:
    assert name not in read_chat({**ASKED, name: neutral}).body
    with pytest.raises(BadRequestError, match=f"^{name} cannot be honoured"):
        read_chat({**ASKED, name: value})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "root", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 5}]}, "text or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, "texts"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}, "name and arguments"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": True}, "at least 1"),
        ({"temperature": -0.1}, "between 0 and"),
        ({"temperature": "hot"}, "a number"),
        ({"top_p": 1.5}, "between 0 and 1"),
        ({"seed": 1.5}, "an integer"),
        ({"stop": []}, "1 to 16"),
        ({"stop": [""]}, "1 to 256 characters"),
        ({"stream": 1}, "a boolean"),
        ({"chat_template_kwargs": {"num_frames": True}}, "enable_thinking"),
        ({"generation_config": "{}"}, "generation_config is not known"),
        ({"tools": ["f"]}, "list of objects"),
    ],
)
def test_a_wrong_body_is_refused_by_its_key(changed: dict[str, Any], said: str) -> None:
    read_chat(ASKED)  # the control
    with pytest.raises(BadRequestError, match=said):
        read_chat({**ASKED, **changed})


def test_tools_are_left_out_where_none_may_be_called() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert read_chat({**ASKED, "tools": tools}).body["tools"] == tools
    assert "tools" not in read_chat({**ASKED, "tools": tools, "tool_choice": "none"}).body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([
    "messages", "prompt", "model", "stream", "stop", "tools", "tool_choice", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "top_k", "min_p", "seed", "n", "logprobs", "user", "cache_salt", "chat_template_kwargs",
])  # fmt: skip


@given(json_values | st.dictionaries(KEYS, json_values, max_size=5))
def test_any_body_is_understood_or_refused_without_its_values(body: Any) -> None:
    for read in (read_chat, read_completion):
        try:
            task = read(body)
        except BadRequestError:
            continue
        assert task.max_tokens is None or task.max_tokens >= 1
        assert task.body.keys() <= {"messages", "prompt", "stream", "stop", "tools", "chat_template_kwargs"}


def test_an_error_repeats_nothing_of_a_value() -> None:
    word = "canary-in-a-value"
    for body in ({**ASKED, "temperature": word}, {**ASKED, "n": word}, {**ASKED, "messages": [{"role": word}]}):
        with pytest.raises(BadRequestError) as caught:
            read_chat(body)
        assert word not in str(caught.value)
