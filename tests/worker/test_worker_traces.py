"""Recorded traffic of a reference worker: our shapes and numbers are the same (skipped without the recordings)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from appliance.accounting.tokens import Multipliers
from appliance.engine.rules import Rules
from appliance.engine.usage import UsageCounter
from appliance.wire.messages import TokensUsed
from appliance.worker.answers import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRACE = "worker_proxy_at_worker.json"


def inner(shared: Path, kind: str) -> Iterator[dict[str, Any]]:
    for frame in json.loads((shared / "vectors" / "cocoon-traces" / TRACE).read_text()):
        data = frame.get("decoded", {}).get("data")
        if isinstance(data, dict) and data.get("@type") == kind:
            yield data


def test_counted_bodies_are_the_same_bytes(shared: Path) -> None:
    counted = 0
    for part in inner(shared, "proxy.queryAnswerPartEx"):
        final, text = part.get("final_info"), part["answer"].get("@text", "")
        if final is None or '"total_cost"' not in text or text.startswith("data:"):
            continue
        upstream = json.loads(text)
        for added in ("prompt_total_cost", "completion_total_cost", "total_cost"):
            del upstream["usage"][added]
        counter = UsageCounter(1000, Multipliers(), 2)
        out = counter.feed(json.dumps(upstream).encode()) + counter.finish()
        assert out == text.encode()
        used = {key: value for key, value in final["tokens_used"].items() if key != "@type"}
        assert counter.used() == TokensUsed(**used)
        counted += 1
    assert counted >= 1


def test_final_info_has_the_same_flags_and_fields(shared: Path) -> None:
    finals = [part["final_info"] for part in inner(shared, "proxy.queryAnswerPartEx") if part.get("final_info")]
    assert finals
    for recorded in finals:
        debug = bool(recorded["flags"] & 1)
        answer = Answer(2, bytes(32), debug=debug, started=recorded["worker_start_time"])
        answer.head_sent = True
        (last,) = answer.last(b"", TokensUsed(0, 0, 0, 0, 0), recorded["worker_end_time"])
        ours = last.final_info  # type: ignore[attr-defined]  # the last part has it
        assert ours.flags == recorded["flags"]
        assert (ours.worker_start_time, ours.worker_end_time) == (
            recorded["worker_start_time"], recorded["worker_end_time"],
        )  # fmt: skip
        if debug:
            assert json.loads(ours.worker_debug).keys() == json.loads(recorded["worker_debug"]).keys()


def test_recorded_requests_pass_the_rules_unchanged(shared: Path) -> None:
    checked = 0
    for query in inner(shared, "proxy.runQueryEx"):
        request = query["query"]
        body = request["payload"].get("@text", "")
        if request["url"] != "/v1/chat/completions" or not body.startswith("{"):
            continue
        parsed = json.loads(body)
        if "model" not in parsed or "stream" in parsed:
            continue
        rewritten = Rules(parsed["model"]).rewrite(request["method"], request["url"], body.encode())
        assert rewritten.body.decode() == body
        checked += 1
    assert checked >= 1
