"""An engine that costs nothing: the OpenAI-style routes with canned words, for benchmarks, load and fault tests.

It is never part of the demonstration. The number of tokens follows ``max_tokens``; each word is one token, so that
counts can be checked by counting words. Run: ``python -m appliance.lab.stub_engine --port 0 --model NAME``; the first
line on standard output is ``listening PORT``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from aiohttp import web

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DEFAULT_TOKENS = 16
MAX_BODY_BYTES = 16 << 20


class StubEngine:
    """Answers with as many words as ``max_tokens`` asks for.

    Args:
        model: The served model's name.
        delay_s: Pause before each token, to keep requests open in fault tests.
        die_after: Close the connection in mid-answer after so many tokens.
    """

    def __init__(self, model: str, *, delay_s: float = 0.0, die_after: int | None = None) -> None:
        self.model = model
        self.delay_s = delay_s
        self.die_after = die_after
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.requests = 0

    def application(self) -> web.Application:
        """The routes, as an aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/stub/pace", self._pace)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _metrics(self, _request: web.Request) -> web.Response:
        lines = [
            f"sglang:prompt_tokens_total {self.prompt_tokens}",
            f"sglang:generation_tokens_total {self.generation_tokens}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _pace(self, request: web.Request) -> web.Response:
        """Change the pause before each token while it runs: a benchmark wants several."""
        self.delay_s = float((await request.json())["delay_s"])
        return web.Response()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = sum(len(str(message.get("content", "")).split()) for message in body["messages"])
        return await self._answer(request, body, prompt, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, len(str(body["prompt"]).split()), chat=False)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], prompt: int, *, chat: bool
    ) -> web.StreamResponse:
        self.requests += 1
        asked = body.get("max_completion_tokens", body.get("max_tokens", DEFAULT_TOKENS))
        usage = {"prompt_tokens": prompt, "completion_tokens": asked, "total_tokens": prompt + asked}
        kind = "chat.completion" if chat else "text_completion"
        base = {"id": "stub", "object": kind, "created": 0, "model": self.model}
        if not body.get("stream"):
            text = await self._words(asked)
            self._count(prompt, asked)
            part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return web.json_response(
                base | {"choices": [{"index": 0, "finish_reason": "length", **part}], "usage": usage}
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        base["object"] = "chat.completion.chunk" if chat else kind
        parts: list[dict[str, Any]] = [{"delta": {"content": f"{w} "}} if chat else {"text": f"{w} "} for w in WORDS]
        events = [_event(base | {"choices": [{"index": 0, "finish_reason": None, **part}]}) for part in parts]
        for sent in range(asked):
            # Without a pause the other requests still have their turn: an engine's step makes a token for each.
            await asyncio.sleep(self.delay_s)
            if self.die_after is not None and sent >= self.die_after:
                if request.transport is not None:
                    request.transport.abort()
                return response
            await response.write(events[sent % len(events)])
        self._count(prompt, asked)
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        end = _event(base | {"choices": [{"index": 0, "finish_reason": "length", **last}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            end += _event(base | {"choices": [], "usage": usage})
        await response.write(end + b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _words(self, count: int) -> str:
        for _ in range(count if self.delay_s else 0):
            await asyncio.sleep(self.delay_s)
        return "".join(WORDS[index % len(WORDS)] + " " for index in range(count))

    def _count(self, prompt: int, completion: int) -> None:
        self.prompt_tokens += prompt
        self.generation_tokens += completion


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def serve(engine: StubEngine, port: int) -> web.AppRunner:
    """Listen on loopback; the runner's ``addresses`` tell the port."""
    runner = web.AppRunner(engine.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _main(arguments: argparse.Namespace) -> None:
    runner = await serve(StubEngine(arguments.model, delay_s=arguments.delay), arguments.port)
    sys.stdout.write(f"listening {runner.addresses[0][1]}\n")
    sys.stdout.flush()
    # Standard input is the parent's hand: when it closes, the parent is gone.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="stub")
    parser.add_argument("--delay", type=float, default=0.0)
    uvloop.run(_main(parser.parse_args()))
