"""A healthy network: requests that are answered and requests that are refused, each with its reason and no loss."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING

import aiohttp
import pytest
from e2e_network import BASE_MODEL, MODEL, PRICES, WORKER_CAP, command, cost

from appliance.chain import admin
from appliance.lab.tee_service import collateral_path, root_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from e2e_network import Network

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_answers_are_paid_for_exactly(network: Network) -> None:
    answers = await asyncio.gather(*(network.ask(tokens, stream=bool(tokens % 2)) for tokens in (10, 11, 12, 13)))
    assert all(answer.complete for answer in answers), answers
    told = [int(answer.headers["x-chrysalis-tokens"]) for answer in answers if "x-chrysalis-tokens" in answer.headers]
    assert told == [cost(10), cost(12)]
    assert f": chrysalis cost-nanotons={cost(11) * PRICES.price_per_token} tokens={cost(11)}" in answers[1].text
    assert [answer.tokens for answer in answers] == list(map(cost, (10, 11, 12, 13)))


@pytest.mark.parametrize(
    ("sent", "status", "code", "says"),
    [
        ({"model": "no/such"}, 404, "model_not_found", "no gateway offers this model"),
        ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
        ({"max_tokens": -5}, 400, "invalid_request", "max_tokens"),
        ({"max_tokens": 10**12}, 400, "invalid_request", "max_tokens"),
        ({"max_tokens": 10_000_000}, 503, "gateway_declined", "max_tokens is 10000000"),
        ({"messages": "hello"}, 400, "invalid_request", "messages"),
        ({"no_such_option": 1}, 400, "invalid_request", "no_such_option"),
        ({"max_coefficient": 1}, 503, "not_ready", "coefficient"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else None,
)
async def test_what_cannot_be_served_is_refused_by_name(
    network: Network, sent: dict[str, object], status: int, code: str, says: str
) -> None:
    answer = await network.ask(**{"tokens": 10, **sent})  # type: ignore[arg-type] # whatever a user sends
    assert (answer.status, answer.error["code"]) == (status, code), answer
    assert says in answer.error["message"]
    # The control: the same without the fault.
    assert (await network.ask(1)).complete


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"7", 400), (b'{"model": "\xff"}', 400), (b"[" * 100_000, 400)],
    ids=["empty", "cut", "list", "number", "not-utf8", "deep"],
)  # fmt: skip
async def test_a_malformed_body_is_refused(network: Network, body: bytes, status: int) -> None:
    answer = await network.ask(body=body)
    assert answer.status == status, answer
    assert answer.error["type"] == "invalid_request_error"
    assert (await network.ask(1)).complete


async def test_an_oversize_body_is_refused(network: Network) -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 2**20

    answer = await network.ask(body=large())
    # The endpoint answers before it has read everything; a sender that insists may only see the connection end.
    assert answer.status in {413, 0}, answer
    if answer.status:
        assert answer.error["type"] == "invalid_request_error"
    assert (await network.ask(1)).complete


async def test_a_worker_caps_what_a_reservation_allows(network: Network) -> None:
    answer = await network.ask(WORKER_CAP + 1)
    assert answer.status == 200, answer
    assert json.loads(answer.text)["usage"]["completion_tokens"] == WORKER_CAP


@pytest.mark.parametrize(
    ("key", "headers", "status", "code"),
    [
        ("wrong-key-of-some-length", {}, 401, "invalid_api_key"),
        (None, {"Authorization": ""}, 401, "invalid_api_key"),
        (None, {"Origin": "https://evil.example"}, 403, "foreign_origin"),
        (None, {"Sec-Fetch-Site": "cross-site"}, 403, "foreign_origin"),
        (None, {"Host": "evil.example"}, 403, "foreign_origin"),
    ],
    ids=["wrong-key", "no-key", "foreign-origin", "foreign-page", "rebound-host"],
)
async def test_nobody_else_spends_the_stake(
    network: Network, key: str | None, headers: dict[str, str], status: int, code: str
) -> None:
    asked = network.engine.requests
    answer = await network.ask(key=key, headers=headers)
    assert (answer.status, answer.error["code"]) == (status, code), answer
    assert network.engine.requests == asked
    assert (await network.ask(1)).complete


async def test_a_user_who_goes_away_ends_the_request_everywhere(network: Network) -> None:
    asked = await network.streaming(WORKER_CAP)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await network.busy(0)
    assert (await network.ask(1)).complete


@pytest.mark.parametrize("what", ["image", "model"])
async def test_delisted_while_running_and_listed_again(network: Network, what: str) -> None:
    image = network.images["worker"]
    remove, add = {
        "image": (admin.remove_image(network.root, image), admin.add_image(network.root, image)),
        "model": (admin.remove_model(network.root, MODEL), admin.add_model(network.root, MODEL)),
    }[what]
    running = await network.streaming(WORKER_CAP)
    await network.world.order(remove)
    told = await network.until(
        "worker", lambda s: any(r["name"] == f"{what}-delisted" for r in s["reasons"]), "no reason"
    )
    assert "resumes when" in told["reasons"][0]["hint"]
    # What runs is finished or ends with a reason; what is new is refused with one.
    finished = await running
    assert finished.complete or finished.error["message"], finished
    await network.until("gateway", lambda s: not any(w["offered"] for w in s["workers"]), "still offered")
    refused = await network.ask(10)
    assert refused.status in {404, 502, 503}, refused
    assert refused.error["message"]
    await network.world.order(add)
    await network.ready()
    assert (await network.ask(10)).complete


async def test_verify_names_the_check(network: Network) -> None:
    """``chrysalis verify`` on the running gateway: accepted with the run's root; without, refused by a named check."""
    quotes = network.world.quotes("gateway")
    common = ["verify", f"127.0.0.1:{network.ports['clients']}", "--collateral", str(collateral_path(quotes)), "--json"]
    simulated = [*common, "--policy", "simulated"]
    status, out, err = await command(*simulated, "--root", str(root_path(quotes)))
    assert (status, json.loads(out)["ok"]) == (0, True), err
    assert json.loads(out)["image_hash"] == network.images["gateway"].hex()

    status, out, err = await command(*common)
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["quote"], found
    assert "Traceback" not in err

    status, out, _ = await command(*simulated, "--root", str(root_path(quotes)), "--image", "00" * 32)
    assert (status, json.loads(out)["ok"]) == (1, False)


async def test_what_is_said_stays_between_user_and_engine(network: Network) -> None:
    """Unique words of prompts and answers are nowhere but in prompts and answers."""
    prompt, answer = "canary-prompt-7f3a9c51", "canary-answer-e0b64d28"
    usual = network.engine.__class__.__module__
    words = __import__(usual, fromlist=["WORDS"])
    before = words.WORDS
    words.WORDS = (answer,)
    try:
        good = await network.ask(5, prompt=prompt)
        stream = await network.ask(5, prompt=prompt, stream=True, user=prompt)
        bad = [
            await network.ask(5, prompt=prompt, model="no/such"),
            await network.ask(5, prompt=prompt, logit_bias={prompt: "x"}),
            await network.ask(10_000_000, prompt=prompt),
            await network.ask(body=b'{"messages": ["' + prompt.encode()),
        ]
        network.engine.die_after = 2
        broken = await network.ask(5, prompt=prompt, stream=True)
    finally:
        network.engine.die_after = None
        words.WORDS = before
    assert good.complete
    assert stream.complete
    assert answer in good.text
    assert answer in stream.text
    assert not broken.complete
    await network.ready()
    pages = [
        await network.page("worker", "/status"), await network.page("worker", "/metrics"),
        await network.page("worker", "/engine"), await network.page("worker", "/health"),
        await network.page("gateway", "/status"), await network.page("gateway", "/metrics"),
        await network.page("client", "/status"), await network.page("client", "/metrics"),
    ]  # fmt: skip
    errors = [json.dumps(item.error) for item in (*bad, broken)]
    for text in (*pages, *errors):
        assert prompt not in text
        assert answer not in text
    files = [path for path in network.directory.rglob("*") if path.is_file()]
    assert any(path.name == "gateway.sqlite" for path in files)
    for path in files:
        content = path.read_bytes()
        assert prompt.encode() not in content, path
        assert answer.encode() not in content, path
    for ledger in network.directory.rglob("*.sqlite"):
        dump = "\n".join(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True).iterdump())
        assert prompt not in dump
        assert answer not in dump


async def test_the_official_package_sees_errors_as_its_own(network: Network) -> None:
    import openai

    key = (network.directory / "api.key").read_text().strip()
    url = f"http://127.0.0.1:{network.ports['client']}/v1"
    question = [{"role": "user", "content": "hello there"}]
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [BASE_MODEL]
        with pytest.raises(openai.NotFoundError, match="no gateway offers"):
            await client.chat.completions.create(model="no/such", messages=question, max_tokens=5)
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await client.chat.completions.create(model=BASE_MODEL, messages=question, max_tokens=-1)
        done = await client.chat.completions.create(model=BASE_MODEL, messages=question, max_tokens=5)
        assert done.usage.completion_tokens == 5
    async with openai.AsyncOpenAI(base_url=url, api_key="sk-not-the-key-of-this", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model=BASE_MODEL, messages=question, max_tokens=5)


async def test_pages_change_nothing(network: Network) -> None:
    """GET changes no state; orders need the control key."""
    url = f"http://127.0.0.1:{network.ports['worker']}"
    tries = (("GET", {}, 405), ("POST", {}, 401), ("POST", {"Authorization": "Bearer x"}, 401))
    async with aiohttp.ClientSession() as http:
        for method, headers, status in tries:
            async with http.request(method, url + "/disable", headers=headers) as answer:
                assert answer.status == status
    assert (await network.get("worker"))["working"]
    # The control: the same with the key.
    for order in ("disable", "enable"):
        await network.order(order)
        await network.until("worker", lambda s, on=order == "enable": s["working"] == on, "not obeyed")
    await network.ready()


async def test_in_the_end_the_owner_has_what_was_used(network: Network) -> None:
    """All of the above: whole answers are paid for, refusals cost nothing; of those cut short at most what was made."""
    cut_short = 4 * cost(WORKER_CAP)
    paid = await network.settle()
    assert network.used <= paid <= network.used + cut_short
