"""The model in memory, and the handlers of ``transformers serve`` around it. Needs torch and transformers.

In: a checkpoint's directory and :class:`~appliance.engine.light.body.Task`. Out: Starlette responses as the handlers
make them, with each step of the model reported to the :class:`~appliance.engine.light.meter.Meter`.

What differs from the server's own use of its handlers: one model, resident, under its served name; sampling by what the
request says (the server samples only where the model's settings say so); the context's length is a limit; generation
ends when the client is gone, also for answers in one piece; a stream ends with ``[DONE]``.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import GenerateManager, GenerationState, Modality, _GenerationCancelled

from appliance.engine.light.body import BadRequestError, Sampling, Task, read_chat, read_completion
from appliance.engine.light.meter import Meter, Run
from appliance.engine.light.quiet import report

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from starlette.responses import Response  # type: ignore[import-not-found] # the engine environment's

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_DONE = "data: [DONE]\n\n"
_LOOK_S = 0.05


class GenerationError(RuntimeError):
    """The model did not make an answer. It says no more: what went wrong may quote what was asked."""


@dataclass(frozen=True, slots=True)
class Resident:
    """The one model of this process.

    Attributes:
        name: What requests call it.
        model: On the CPU, in evaluation mode.
        tokenizer: Its fast tokenizer.
        context_length: Tokens of prompt and answer together, at most.
        text_limit: Bytes of text that ``context_length`` tokens cannot exceed.
    """

    name: str
    model: Any
    tokenizer: Any
    context_length: int
    text_limit: int

    @classmethod
    def load(cls, directory: Path, name: str, *, context_length: int, dtype: str) -> Resident:
        """Load a checkpoint: safetensors only, no code of its own, nothing from any hub."""
        sources: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(directory, **sources)
        model = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True, dtype=dtype, **sources).eval()
        positions = getattr(model.config, "max_position_embeddings", None) or context_length
        context = min(context_length, positions)
        longest = max(len(token.encode()) for token in tokenizer.get_vocab())
        return cls(name, model, tokenizer, context, context * longest)

    def get_model_modality(self, *_: Any, **__: Any) -> Modality:
        """What the handlers ask a model manager; this engine reads and writes text only."""
        return Modality.LLM


class _Steps(StoppingCriteria):  # type: ignore[misc] # transformers is not there where types are checked
    """Counts the tokens of one run after each step, and ends it when it is cancelled."""

    def __init__(self, meter: Meter, run: Run, prompt_tokens: int) -> None:
        self._meter = meter
        self._run = run
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self._meter.made(self._run, input_ids.shape[-1] - self._prompt_tokens)
        return torch.full((input_ids.shape[0],), self._run.cancelled, dtype=torch.bool, device=input_ids.device)


class _Metered:
    """A model for one run, as the generate manager sees it: called once, on the inference thread."""

    def __init__(self, model: Any, meter: Meter, run: Run, seed: int | None) -> None:
        self._model = model
        self._meter = meter
        self._run = run
        self._seed = seed

    def generate(self, **options: Any) -> Any:
        """Generate with the run's own random numbers, counted and stoppable."""
        if self._run.cancelled:
            raise GenerationError("nobody waits for this answer any more")
        if self._seed is None:
            torch.seed()
        else:
            torch.manual_seed(self._seed)
        prompt_tokens = options["input_ids"].shape[-1]
        self._meter.began(self._run, prompt_tokens)
        try:
            criteria = StoppingCriteriaList([_Steps(self._meter, self._run, prompt_tokens)])
            return self._model.generate(**options, stopping_criteria=criteria)
        except _GenerationCancelled:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, its words stay here
            report(error)
            raise GenerationError("the model could not answer this") from None
        finally:
            self._meter.ended(self._run)


class _Manager(GenerateManager):  # type: ignore[misc] # transformers is not there where types are checked
    """Runs generations one after another on one thread, each for the job that its request id names."""

    def __init__(self, resident: Resident, meter: Meter) -> None:
        super().__init__()
        self._resident = resident
        self._meter = meter
        self.jobs: dict[str, tuple[Task, Run]] = {}

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str, **options: Any
    ) -> Any:
        """Start a generation whose text comes piece by piece."""
        task, run = self._begin(inputs, gen_config, request_id)
        metered = _Metered(model, self._meter, run, task.sampling.seed)
        return super().generate_streaming(metered, processor, inputs, gen_config, request_id, **options)

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> Any:
        """Generate an answer in one piece. Whoever stops waiting for it ends it."""
        task, run = self._begin(inputs, gen_config, request_id)
        metered = _Metered(model, self._meter, run, task.sampling.seed)
        # Shielded: the inference thread must find a future that it can still complete.
        whole = asyncio.ensure_future(
            super().generate_non_streaming(metered, processor, inputs, gen_config, request_id)
        )
        try:
            return await asyncio.shield(whole)
        except asyncio.CancelledError:
            run.cancel()
            whole.add_done_callback(_forget)
            raise

    def _begin(self, inputs: Any, gen_config: Any, request_id: str) -> tuple[Task, Run]:
        task, run = self.jobs.pop(request_id)
        prompt_tokens = inputs["input_ids"].shape[-1]
        room = self._resident.context_length - prompt_tokens
        if room < 1:
            raise BadRequestError(
                f"the prompt has {prompt_tokens} tokens, the context {self._resident.context_length} in all"
            )
        gen_config.max_new_tokens = room if task.max_tokens is None else min(task.max_tokens, room)
        apply_sampling(task.sampling, gen_config)
        return task, run


def _forget(future: asyncio.Future[Any]) -> None:
    """Take the result that nobody waits for, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()


def apply_sampling(sampling: Sampling, settings: Any) -> None:
    """Bring a request's wishes into a copy of the model's generation settings.

    A request without a temperature gets the model's own, else 1, as other servers of this API do.
    """
    temperature = sampling.temperature
    if temperature is None:
        temperature = 1.0 if settings.temperature is None else settings.temperature
    settings.num_beams = 1
    settings.num_return_sequences = 1
    settings.do_sample = temperature > 0
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        if (value := getattr(sampling, name)) is not None:
            setattr(settings, name, value)
    if settings.do_sample:
        settings.temperature = float(temperature)
        settings.top_k = settings.top_k or 0
    else:
        settings.temperature = settings.top_p = settings.top_k = settings.min_p = None


class _State(GenerationState):  # type: ignore[misc] # transformers is not there where types are checked
    """Gives every request the one manager."""

    def __init__(self, manager: _Manager) -> None:
        super().__init__()
        self._manager = manager

    def get_manager(self, *_: Any, **__: Any) -> _Manager:
        """The one manager."""
        return self._manager


class _Fixed:
    """A handler's model is the resident one, and its body was checked already."""

    model_manager: Resident

    def _resolve_model(self, _body: dict[str, Any]) -> tuple[str, Any, Any]:
        return self.model_manager.name, self.model_manager.model, self.model_manager.tokenizer

    def _validate_request(self, _body: dict[str, Any]) -> None:
        pass


class _Chat(_Fixed, ChatCompletionHandler):  # type: ignore[misc] # transformers is not there where types are checked
    pass


class _Completion(_Fixed, CompletionHandler):  # type: ignore[misc] # as above
    pass


class Generator:
    """Answers requests with the resident model, one after another.

    Args:
        resident: The model.
        meter: Told of each step.
    """

    def __init__(self, resident: Resident, meter: Meter) -> None:
        self.name = resident.name
        self._limit = resident.text_limit
        self._meter = meter
        self._manager = _Manager(resident, meter)
        state = _State(self._manager)
        self._readers: dict[str, Callable[[object], Task]] = {CHAT: read_chat, COMPLETIONS: read_completion}
        self._handlers: dict[str, Any] = {CHAT: _Chat(resident, state), COMPLETIONS: _Completion(resident, state)}

    async def answer(self, path: str, request: object, run: Run, request_id: str) -> Response:
        """Begin to answer.

        Args:
            path: One of the two routes.
            request: The parsed body.
            run: Cancelled by the caller when the answer is not wanted any more.
            request_id: Stands in the answer.

        Raises:
            BadRequestError: The request cannot be answered.
            GenerationError: The model failed.
        """
        task = self._readers[path](request)
        if task.text_bytes > self._limit:
            raise BadRequestError(f"the texts have {task.text_bytes} bytes, the context holds at most {self._limit}")
        self._manager.jobs[request_id] = task, run
        try:
            response = await self._handlers[path].handle_request(task.body, request_id)
        finally:
            self._manager.jobs.pop(request_id, None)
        if task.body["stream"]:
            response.body_iterator = _ended(response.body_iterator)
        return response

    async def works(self, request_id: str) -> None:
        """Return once the model has made a token, whoever asked for it; asks for one itself.

        Raises:
            GenerationError: The model failed.
        """
        before = self._meter.steps
        run = Run(counted=False)
        request = {"prompt": "1", "max_tokens": 1, "temperature": 0}
        asked = asyncio.ensure_future(self.answer(COMPLETIONS, request, run, request_id))
        try:
            while not asked.done() and self._meter.steps == before:
                await asyncio.wait({asked}, timeout=_LOOK_S)
            if asked.done():
                asked.result()
        finally:
            run.cancel()
            asked.cancel()
            asked.add_done_callback(_forget)


async def _ended(parts: AsyncGenerator[str]) -> AsyncIterator[str]:
    """A stream with the mark at its end that clients of this API wait for."""
    async with contextlib.aclosing(parts) as source:
        async for part in source:
            yield part
    yield _DONE
